"""Keeps executed notebooks under a key made of everything that their numbers depend on.

The key is coarse on purpose: any change in `labs/` executes every page again. A stale number in a
book costs more than a minute of computing.
"""

import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import nbformat

from book.builder.contents import ROOT
from book.builder.pages import Page

CACHE = ROOT / "book" / "_cache"
# What any page may depend on. The zoo's weights lie in labs/zoo.
SHARED = (
    "labs",
    "tools",
    "book/measurements",
    "book/builder",
    "book/notebook.py",
    "book/measure.py",
    "book/labs.mplstyle",
    "constraints.txt",
)
IGNORED = ("__pycache__", ".ipynb_checkpoints")


def files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        if file.is_file() and not set(file.parts) & set(IGNORED):
            yield file


def digest(paths: list[Path], root: Path = ROOT) -> str:
    """A hash of the names and contents of all files at and below `paths`."""
    total = hashlib.sha256()
    for path in paths:
        for file in files_below(path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


@cache
def shared_digest() -> str:
    return platform.python_version() + digest([ROOT / name for name in SHARED])


def key(page: Page) -> str:
    """Changes when the page, what it includes, or anything it may import or read changes."""
    notebook = nbformat.writes(page.notebook())
    beside = page.path.parent / "exercises.py"
    own = digest([beside], root=page.path.parent) if beside.exists() else ""
    return hashlib.sha256(f"{shared_digest()}\n{own}\n{notebook}".encode()).hexdigest()[:24]


def location(page: Page) -> Path:
    return CACHE / f"{page.slug}-{key(page)}.ipynb"


def store(page: Page, executed: nbformat.NotebookNode) -> Path:
    """Writes an executed notebook and drops the page's older ones."""
    CACHE.mkdir(parents=True, exist_ok=True)
    target = location(page)
    partial = target.with_suffix(f".{os.getpid()}.part")
    nbformat.write(executed, partial)
    partial.replace(target)
    for old in CACHE.glob(f"{page.slug}-{'?' * 24}.ipynb"):
        if old != target:
            old.unlink(missing_ok=True)
    return target


@contextmanager
def lock() -> Iterator[None]:
    """One process at a time executes pages; a second waits, and then finds them done."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
