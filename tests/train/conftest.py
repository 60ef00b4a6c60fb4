"""A tiny LLaVA and random samples for it."""

import sys
from pathlib import Path

import pytest
import torch

from labs.data import Collator
from labs.models import build_tiny_llava

sys.path.insert(0, str(Path(__file__).parent))  # for train_helpers, whatever pytest's import mode

from train_helpers import Samples


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def processor():
    return build_tiny_llava()[1]


@pytest.fixture
def model():
    return build_tiny_llava(seed=0)[0]


@pytest.fixture(scope="session")
def samples(processor):
    return Samples(24, processor)


@pytest.fixture(scope="session")
def collate(processor):
    return Collator(processor)
