"""Lays out the Sphinx source from pages and executed notebooks, and builds the HTML."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from book.builder.contents import CHAPTERS, PROJECTS, ROOT, table, toctree
from book.builder.execute import Execution
from book.builder.pages import Page

BUILD = ROOT / "book" / "_build"
ASSETS = (".png", ".jpg", ".jpeg", ".svg", ".gif")
# In the repository pages link to each other by file, which also works in an editor or on a forge.
TO_CHAPTER = re.compile(r"\]\((?:\.\./)*(?:chapters/)?((?:ch\d\d|project)_\w+)/page\.md")
TO_BOOK = re.compile(r"\]\((?:\.\./)+book/(\w+\.md)")


def stage(pages: list[Page], executions: list[Execution], source: Path) -> None:
    """Writes the Sphinx source tree: Markdown pages, executed notebooks, pictures beside them."""
    shutil.rmtree(source, ignore_errors=True)
    executed = {execution.page: execution.path for execution in executions}
    for page in pages:
        target = source / page.docname
        target.parent.mkdir(parents=True, exist_ok=True)
        if page in executed:
            text, suffix = executed[page].read_text(encoding="utf-8"), ".ipynb"
        else:
            text, suffix = fill(page.text), ".md"
        target.with_name(target.name + suffix).write_text(relink(text), encoding="utf-8")
        for asset in page.path.parent.iterdir():
            if asset.suffix in ASSETS:
                shutil.copy2(asset, target.parent / asset.name)


def relink(text: str) -> str:
    text = TO_CHAPTER.sub(r"](/chapters/\1/\1.ipynb", text)
    return TO_BOOK.sub(r"](/\1", text)


def fill(text: str) -> str:
    """Replaces the front page's marks by what is written and what is planned."""
    text = text.replace("<!-- chapters -->", table(CHAPTERS, "Chapter"))
    text = text.replace("<!-- projects -->", table(PROJECTS, "Project"))
    trees = toctree(CHAPTERS, "Chapters") + "\n" + toctree(PROJECTS, "Projects")
    return text.replace("<!-- toctrees -->", trees)


def sphinx(source: Path, output: Path) -> int:
    """Runs Sphinx; every warning (a broken link, an unknown directive) is an error."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", str(ROOT / "book")]
    command += ["-d", str(output.parent / "doctrees"), "-W", "--keep-going", "-q", "-j", "2"]
    command += [str(source), str(output)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
