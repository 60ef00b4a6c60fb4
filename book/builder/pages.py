"""Finds the pages and turns each page.md into a notebook that stands on its own."""

import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat

from book.builder.contents import CHAPTERS, PROJECTS, ROOT

INCLUDE = re.compile(r"^```\{include\}[ \t]+(\S+)[ \t]*\n((?:.*\n)*?)```[ \t]*$", re.MULTILINE)
CODE_CELL = re.compile(r"^```+\{code-cell\}", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file that the book shows."""

    path: Path
    docname: str  # where it goes in the book, without suffix

    @property
    def slug(self) -> str:
        return self.docname.rsplit("/", 1)[-1]

    @property
    def text(self) -> str:
        """The file's text with every `{include}` replaced by the file that it names.

        Included here and not by Sphinx, so that the downloaded notebook holds the exercises too.
        """
        return inline_includes(self.path.read_text(encoding="utf-8"), self.path)

    @property
    def is_notebook(self) -> bool:
        return CODE_CELL.search(self.text) is not None

    def notebook(self) -> nbformat.NotebookNode:
        """The page as a notebook without outputs; equal text gives equal bytes."""
        notebook = jupytext.reads(self.text, fmt="md:myst")
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # jupytext draws random ids
        notebook.metadata.pop("jupytext", None)
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        notebook.metadata["language_info"] = {"name": "python"}
        return notebook


def inline_includes(text: str, where: Path) -> str:
    def replace(match: re.Match) -> str:
        name, options = match.groups()
        if options.strip():
            raise ValueError(f"{where}: {{include}} {name} has options; give none.")
        return (where.parent / name).read_text(encoding="utf-8").strip()

    return INCLUDE.sub(replace, text)


def find_pages(root: Path = ROOT) -> list[Page]:
    """Every page of the book in reading order: the book's own, the chapters, the projects."""
    own = [Page(path, path.stem) for path in sorted((root / "book").glob("*.md"))]
    known = {chapter.folder: chapter for chapter in CHAPTERS + PROJECTS}
    written = {path.parent.name: path for path in (root / "chapters").glob("*/page.md")}
    if unknown := sorted(set(written) - set(known)):
        raise ValueError(f"chapters/{unknown[0]} is not in book/builder/contents.py. Add it there.")
    return own + [Page(written[f], known[f].docname) for f in known if f in written]


def find_notebooks(root: Path = ROOT) -> list[Page]:
    """The pages that hold code cells, so are executed."""
    return [page for page in find_pages(root) if page.is_notebook]
