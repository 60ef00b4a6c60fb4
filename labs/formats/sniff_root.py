"""The folder that the image paths of a data file are relative to, found out by looking.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOOK = 64  # references that are looked up
_NAMES = ("images", "image", "imgs", "img", "pictures", "train2017", "val2017", "test2017",
          "train2014", "val2014", "test2014", "train", "val", "test")  # fmt: skip


def image_folder(file: Path, references: Iterable[str], top: Path) -> Path:
    """The folder under which most of the first references exist; the file's own where none does.

    Candidates, the first of equals: the folder of the file, those above it up to `top`, and folders in
    these with a usual name (`images`, COCO's `train2017`). None outside `top` is looked at.
    """
    wanted = [r for r in dict.fromkeys(references) if _is_relative(r)][:_LOOK]
    if not wanted:
        return file.parent
    best, most = file.parent, 0
    for folder in _candidates(file, top):
        count = sum(os.path.lexists(os.path.join(folder, reference)) for reference in wanted)
        if count > most:
            best, most = folder, count
        if most == len(wanted):
            break
    return best


def _candidates(file: Path, top: Path) -> Iterator[Path]:
    yield file.parent  # as it was written, not made absolute
    top = Path(os.path.abspath(top))
    folders = [Path(os.path.abspath(file.parent))]
    while folders[-1] != top and top in folders[-1].parents:
        folders.append(folders[-1].parent)
    yield from folders[1:]
    for folder in folders:
        for name in _NAMES:
            if (folder / name).is_dir():
                yield folder / name
                for inner in _NAMES:
                    if (folder / name / inner).is_dir():
                        yield folder / name / inner


def _is_relative(reference: str) -> bool:
    if reference.startswith(("data:", "/", "\\")) or "://" in reference or "\0" in reference:
        return False
    return len(reference) < 4096 and ".." not in reference.replace("\\", "/").split("/")
