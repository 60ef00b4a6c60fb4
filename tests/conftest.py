"""For every test: one torch thread, no network, repeatable examples, shapes checked at run time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Before anything imports them: shapes in signatures become assertions.
install_import_hook(["labs.losses", "labs.evaluation"], "beartype.beartype")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("labs", deadline=None, derandomize=True, database=None)
settings.load_profile("labs")
