"""Every fenced Python block of every Markdown file parses."""

import ast
import doctest
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ("python", "python3", "py", "{code-cell}", "{code-block} python")


def markdown_files() -> list[Path]:
    """Tracked and new files; what git ignores is not the repository's."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(
        ROOT / name for name in set(listed.split("\0")) if name and (ROOT / name).exists()
    )


def python_blocks(text: str, line: int = 1) -> Iterator[tuple[int, str]]:
    """(line, code) of each Python fence, also of those inside a fenced directive."""
    for token in MarkdownIt().parse(text):
        if token.type != "fence":
            continue
        start = line + token.map[0] + 1
        info = token.info.strip()
        if info.startswith(PYTHON):
            yield start, token.content
        elif info.startswith("{"):
            yield from python_blocks(token.content, start)


def code_of(block: str) -> str:
    """The block without cell options and IPython magics, and without prompts and their answers."""
    if ">>> " in block:
        return "".join(example.source for example in doctest.DocTestParser().get_examples(block))
    lines = textwrap.dedent(block).splitlines()
    if lines and lines[0].strip() == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    while lines and lines[0].startswith(":"):
        lines.pop(0)
    magic = ("%", "!")
    return "\n".join("pass" if line.startswith(magic) else line for line in lines)


def faults(text: str) -> list[str]:
    found = []
    for line, block in python_blocks(text):
        try:
            ast.parse(code_of(block))
        except SyntaxError as error:
            found.append(f"line {line + (error.lineno or 1) - 1}: {error.msg}")
    return found


@pytest.mark.parametrize("path", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_markdown_parses(path):
    assert faults(path.read_text(encoding="utf-8")) == []


def test_blocks_are_found_at_all():
    texts = [path.read_text(encoding="utf-8") for path in markdown_files()]
    assert sum(len(list(python_blocks(text))) for text in texts) >= 5


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = = 1\n```\n",
        ":::{dropdown} Answer\n```python\ndef f(:\n```\n:::\n",
        "````{dropdown} Answer\n```py\nreturn\nx = (\n```\n````\n",
        "```{code-cell} python3\n:tags: [hide-input]\n\nx = )\n```\n",
        "- a list\n\n  ```python\n  x = [1,\n  ```\n",
        "```python\n>>> x = (\n```\n",
    ],
)
def test_broken_block_is_noticed(text):
    assert len(faults(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = ...\n```\n",
        "```{code-cell} python3\n:tags: [hide-input]\n\n%matplotlib inline\nx = 1\n```\n",
        "```python\n>>> 1 + 1\n2\n```\n",
        "```bash\nif = (\n```\n",
    ],
)
def test_good_block_is_left_alone(text):
    assert faults(text) == []
