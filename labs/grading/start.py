"""Copy a chapter's stubs to work/ without ever losing what the learner has written."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

from labs.grading.course import Chapter
from labs.grading.generate import write
from labs.grading.progress import Progress


@dataclass
class Started:
    """What was done: "copied", "updated" (an untouched copy), "kept", or "beside" (a .new file)."""

    action: str
    path: Path
    added: list[str]  # exercises that the learner's file lacks


def start(chapter: Chapter) -> Started:
    """Copy the stubs. An edited file stays; newer stubs then go beside it as exercises.py.new."""
    chapter.need_stubs()
    progress = Progress(chapter.root)
    stubs, work = chapter.stubs.read_text(encoding="utf-8"), chapter.work
    beside = work.with_name(work.name + ".new")
    copied_from = progress.data["stubs"].get(chapter.name)
    if not work.exists():
        action = "copied"
    else:
        mine = work.read_text(encoding="utf-8")
        if mine == stubs or copied_from == _digest(stubs):
            return Started("kept", work, [])
        action = "updated" if _digest(mine) == copied_from else "beside"
    added = []
    if action == "beside":
        added = sorted(_definitions(stubs) - _definitions(work.read_text(encoding="utf-8")))
        write(beside, stubs)
    else:
        write(work, stubs)
        beside.unlink(missing_ok=True)
    # An edited file that has been told of these stubs is not told again.
    progress.data["stubs"][chapter.name] = _digest(stubs)
    progress.save()
    return Started(action, beside if action == "beside" else work, added)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _definitions(text: str) -> set[str]:
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return set()
    return {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
