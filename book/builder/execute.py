"""Executes pages: nbval under xdist, two pages side by side, one torch thread each."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from book.builder import cache
from book.builder.contents import ROOT
from book.builder.pages import Page
from book.builder.recorder import EXECUTED, FAILURES

RUN = ROOT / "book" / "_build" / "run"
CELL_SECONDS = 300
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the same file on Debian; holds the simplified characters too
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
)
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


class PageError(Exception):
    """A page did not run to its end. Says which cell of which page, and how it failed."""


@dataclass(frozen=True)
class Execution:
    page: Page
    path: Path  # the executed notebook
    seconds: float
    fresh: bool  # executed just now, not taken from the cache


def execute(pages: list[Page], fresh: bool = False, workers: int = 2) -> list[Execution]:
    """Executes each page that is not in the cache under its present key (all, if `fresh`).

    Raises PageError when a cell fails. Pages that ran are kept all the same.
    """
    with cache.lock():
        missing = [page for page in pages if fresh or not cache.location(page).exists()]
        if missing:
            run(missing, RUN, workers)
        return [
            Execution(page, cache.location(page), seconds(cache.location(page)), page in missing)
            for page in pages
        ]


def run(pages: list[Page], folder: Path, workers: int = 2) -> None:
    """Runs pages through nbval in `folder`, each in a folder of its own, and stores what ran."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in pages:
        (folder / page.slug).mkdir(parents=True)
        nbformat.write(page.notebook(), folder / page.slug / f"{page.slug}.ipynb")
    (folder / "pytest.ini").write_text("[pytest]\n")  # not the repository's configuration
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini")]
    command += ["-p", "book.builder.recorder", "-p", "no:cacheprovider", "--record", str(folder)]
    command += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
    command += ["-n", str(min(workers, len(pages))), "--dist", "loadfile", str(folder)]
    (folder / "matplotlibrc").write_text(figure_style(), encoding="utf-8")
    settings = {"MATPLOTLIBRC": str(folder / "matplotlibrc"), "IPYTHONDIR": str(folder / "ipython")}
    with (folder / "pytest.log").open("w") as log:
        code = subprocess.run(
            command, cwd=ROOT, env=environment() | settings, stdout=log, check=False
        ).returncode

    for page in pages:
        executed = folder / page.slug / EXECUTED
        if executed.exists():
            cache.store(page, nbformat.read(executed, as_version=4))
    failures = folder / FAILURES
    if code or not failures.exists():
        found = json.loads(failures.read_text()) if failures.exists() else []
        log = (folder / "pytest.log").read_text()
        raise PageError(describe(found, pages) or f"The pages could not be run.\n{log[-3000:]}")


def figure_style() -> str:
    """The book's figure style, with a font for Chinese text if this machine has one.

    A font that is named but missing would print a warning into the page.
    """
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    chinese = next((name for name in CHINESE_FONTS if name in installed), None)
    style = (ROOT / "book" / "labs.mplstyle").read_text(encoding="utf-8")
    return style.replace("DejaVu Sans", f"DejaVu Sans, {chinese}") if chinese else style


def environment() -> dict[str, str]:
    """The environment of the kernels: offline, and without a nested pytest's own variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return kept | OFFLINE


def describe(failures: list[dict], pages: list[Page]) -> str:
    """For each failed page: the file, the cell, its code and the error."""
    paths = {page.slug: page.path for page in pages}
    blocks = []
    for failure in failures:
        code = "\n".join(f"    {line}" for line in failure["source"].splitlines())
        trace = "\n".join(f"    {line}" for line in failure["traceback"].splitlines()[-25:])
        where = f"{paths[failure['page']]}, code cell {failure['cell']} (counted from 0)"
        blocks.append(f"{where}: {failure['error']}\n\n{code}\n\n{trace}")
    return "\n\n".join(blocks)


def seconds(executed: Path) -> float:
    cells = nbformat.read(executed, as_version=4).cells
    return sum(cell.metadata.get("seconds", 0.0) for cell in cells)
