"""For every test: one torch thread, no network, repeatable examples, shapes checked at run time."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from jaxtyping import install_import_hook

# Before anything imports them: shapes in signatures become assertions.
install_import_hook(["labs.losses", "labs.evaluation"], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("labs", deadline=None, derandomize=True, database=None)
settings.load_profile("labs")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    """A real headless Chromium; a missing one is a skip for a person and a failure for CI."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        message = "Chromium is not installed; `make system-packages` does that on Debian."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
