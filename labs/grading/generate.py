"""Write each chapter's exercises.py (stubs) and exercises.md (page section) from its one source.

    python -m labs.grading.generate [--check] [CHAPTER …]

`--check` writes nothing and fails where a file differs from what would be written.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from labs.errors import InputError
from labs.grading import source
from labs.grading.course import ROOT, Chapter, chapter, chapters
from labs.grading.exercise import Exercise

COMMAND = "python -m labs.grading.generate"


def stubs_text(c: Chapter) -> str:
    """The whole text of chapters/NAME/exercises.py."""
    file = source.of_module(c.solutions)
    nodes = [file.node(e.answer) for e in c.graded]
    helpers = [n for n in file.needed(nodes) if not source.is_ours(n)]
    broken = [file.node(e.broken) for e in c.graded if e.broken is not None]
    helpers += [n for n in broken if all(n is not h for h in helpers)]
    blocks = [file.code(n) for n in sorted(helpers, key=lambda n: n.lineno)]
    blocks += [source.stub(e) for e in c.graded]
    answers = "\n".join(file.code(n) for n in nodes)
    text = "\n\n\n".join(blocks)
    imports = file.import_lines(f"{text}\n\n\n{answers}")
    unused = "# ruff: noqa: F401  (imports that the answers need)\n\n"
    head = f'''"""{_title(c)}: exercises.

Written from solutions/{c.name}.py; don't edit this file. `labs start {c.short}` copies it to
work/{c.name}/exercises.py: write your answers there, then `labs grade {c.short}`.
"""

{unused if imports != file.import_lines(text) else ""}'''
    gap = [""] if not blocks[0].startswith(("def ", "class ", "@")) else ["", ""]
    return head + "\n".join([*imports, *gap, text, ""])


def page_text(c: Chapter) -> str:
    """The whole text of chapters/NAME/exercises.md, which the page includes."""
    points = sum(e.points for e in c.graded)
    parts = [
        f"<!-- Written by `{COMMAND}` from solutions/{c.name}.py; don't edit. -->",
        "## Exercises",
        f"{len(c.exercises)} exercises, {points} points. `labs start {c.short}` copies the stubs "
        f"to `work/{c.name}/exercises.py`; write your answers there and run `labs grade {c.short}`. "
        "It says what is wrong with an answer and which mistake it probably is. "
        "Try before you unfold.",
    ]
    for number, e in enumerate(c.exercises, 1):
        parts += _page_exercise(c, number, e)
    return "\n\n".join(parts) + "\n"


def outputs(c: Chapter) -> dict[Path, str]:
    return {c.stubs: stubs_text(c), c.folder / "exercises.md": page_text(c)}


def stale(c: Chapter) -> list[Path]:
    """Files that differ from what would be written."""
    return [p for p, text in outputs(c).items() if not p.exists() or p.read_text("utf-8") != text]


def generate(c: Chapter) -> list[Path]:
    """Write what has changed, each file whole; returns the paths written."""
    changed = stale(c)
    texts = outputs(c)
    for path in changed:
        write(path, texts[path])
    return changed


def write(path: Path, text: str) -> None:
    """Write a text file to a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _page_exercise(c: Chapter, number: int, e: Exercise) -> list[str]:
    points = f" · {e.points} points" if e.graded else " · not graded"
    heading = f"### Exercise {number}: `{e.name}`" if e.graded else f"### Question {number}"
    parts = [
        heading,
        f"*{e.kind} · {e.difficulty}{points} · about {e.minutes} minutes* · “{e.section}”",
        source.statement(e),
    ]
    if not e.graded:
        return [*parts, _folded("A model answer", source.model_answer(e))]
    parts.append(f"`labs grade {c.short} {e.name}`")
    parts += [_folded(f"Hint {i}", hint) for i, hint in enumerate(e.hints, 1)]
    return [*parts, _folded("Answer", f"```python\n{source.shown_answer(e)}\n```")]


def _folded(title: str, text: str) -> str:
    return f"````{{dropdown}} {title}\n{text}\n````"


def _title(c: Chapter) -> str:
    doc = (c.solutions.__doc__ or c.name).strip().splitlines()[0]
    return doc.rstrip(".").removesuffix(": exercises")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail on any difference")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("chapters", nargs="*", help="such as ch03; all by default")
    options = parser.parse_args(arguments)
    try:
        named = [chapter(key, options.root) for key in options.chapters]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    bad = 0
    for c in named or chapters(options.root):
        for path in stale(c) if options.check else generate(c):
            where = path.relative_to(options.root)
            if options.check:
                print(f"{where} is not what its source gives. Run: {COMMAND} {c.short}")
                bad = 1
            else:
                print(f"wrote {where}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
