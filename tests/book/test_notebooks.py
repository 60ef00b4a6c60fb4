"""Every page is executed by nbval, and a page whose claim is false turns this red."""

from pathlib import Path

import nbformat
import pytest

from book import build
from book.builder import cache
from book.builder.execute import PageError, execute
from book.builder.pages import Page, find_notebooks, inline_includes

# Add a chapter here when its page is written: a page that silently stops being run is a failure.
NOTEBOOKS = {
    "ch01_architecture", "ch02_data", "ch03_sft", "ch05_rlhf", "ch07_evaluation", "ch09_oom",
}  # fmt: skip

CANARY = Page(Path(__file__).parent / "pages" / "canary.md", "tests/canary")
HEAD = "---\nkernelspec:\n  display_name: Python 3\n  name: python3\n---\n# A page\n\n"


def write(path: Path, *cells: str) -> Page:
    path.write_text(HEAD + "\n".join(f"```{{code-cell}} python3\n{cell}\n```\n" for cell in cells))
    return Page(path, f"tests/{path.stem}")


@pytest.mark.timeout(1800)
def test_every_page_runs_to_its_end():
    """Fresh clones execute here; on a machine that has built the book, equal keys are not run twice."""
    executions = execute(find_notebooks())
    assert {execution.page.slug for execution in executions} == NOTEBOOKS
    assert len(executions) == len(NOTEBOOKS)
    for execution in executions:
        notebook = nbformat.read(execution.path, as_version=4)
        codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert len(codes) > 0
        assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
        outputs = [output for cell in codes for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]


def test_canary_stops_the_build(monkeypatch, capfd):
    """The canary must fail, with the page, the cell and the error named, and must not be kept."""
    monkeypatch.setattr(build, "find_notebooks", lambda: [CANARY])
    assert build.main([]) == 1
    said = capfd.readouterr().err
    assert "canary.md, code cell 1" in said.replace("\n", "")
    assert "AssertionError: the claim of this page does not hold" in said
    assert not cache.location(CANARY).exists()


def test_claim_that_stops_being_true_is_noticed(tmp_path):
    page = write(tmp_path / "claims.md", "value = 3\nprint(value)", "assert value == 3")
    (first,) = execute([page])
    (second,) = execute([page])
    assert first.fresh and not second.fresh, "an unchanged page is not executed twice"
    codes = [c for c in nbformat.read(first.path, as_version=4).cells if c.cell_type == "code"]
    assert codes[0].outputs[0].text == "3\n"

    page = write(tmp_path / "claims.md", "value = 4\nprint(value)", "assert value == 3")
    with pytest.raises(PageError, match=r"claims\.md, code cell 1 .*AssertionError"):
        execute([page])
    first.path.unlink()


def test_key_follows_everything_a_page_depends_on(tmp_path, monkeypatch):
    library = tmp_path / "labs"
    library.mkdir()
    (library / "loss.py").write_text("a = 1\n")
    page = write(tmp_path / "page.md", "1 + 1")
    monkeypatch.setattr(cache, "shared_digest", lambda: cache.digest([library], root=tmp_path))

    keys = [cache.key(page)]

    def changed() -> bool:
        keys.append(cache.key(page))
        return keys[-1] != keys[-2]

    assert not changed()
    (library / "loss.py").write_text("a = 2\n")
    assert changed(), "a change in the library"
    (library / "loss.py").rename(library / "losses.py")
    assert changed(), "a file renamed"
    (tmp_path / "exercises.py").write_text("def f(): ...\n")
    assert changed(), "the generated stubs"
    (tmp_path / "exercises.md").write_text("Exercise 1\n")
    page.path.write_text(page.path.read_text() + "\n```{include} exercises.md\n```\n")
    assert changed(), "the page"
    (tmp_path / "exercises.md").write_text("Exercise 2\n")
    assert changed(), "what the page includes"
    (library / "__pycache__").mkdir()
    (library / "__pycache__" / "loss.pyc").write_text("x")
    assert not changed(), "compiled files do not count"
    assert {"labs", "constraints.txt"} <= set(cache.SHARED), "the zoo lies in labs/zoo"


def test_includes_are_part_of_the_notebook(tmp_path):
    (tmp_path / "exercises.md").write_text("## Exercises\n\n```python\nx = 1\n```\n")
    where = tmp_path / "page.md"
    text = inline_includes("before\n\n```{include} exercises.md\n```\n\nafter\n", where)
    assert text == "before\n\n## Exercises\n\n```python\nx = 1\n```\n\nafter\n"
    with pytest.raises(ValueError, match="options"):
        inline_includes("```{include} exercises.md\n:start-line: 2\n```\n", where)
    with pytest.raises(FileNotFoundError):
        inline_includes("```{include} missing.md\n```\n", where)
