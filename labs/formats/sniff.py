"""What a path holds: which public format, in which files, with pictures relative to which folder.

Found out by looking into the files: names say little, and wrong ones are common.
Standard library only, Python 3.9 or newer (pyarrow for Parquet).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labs.errors import InputError
from labs.formats.sniff_file import SHARDS, Guess, guess
from labs.formats.sniff_root import image_folder

FORMATS = (
    "llava", "coco", "pairs", "preference", "qilin", "mmbench", "pope", "mme", "webdataset",
)  # fmt: skip
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".tsv", ".parquet", *SHARDS)
_DEPTH = 3  # folders below the one that is given
_ENTRIES = 2_000  # names in a folder of pictures, after which no data file is expected there
_MANY = 200  # data files in one folder that are each looked into; of more, only some at first
_KNOWN = (
    "Known are conversations (`conversations` or `messages`), image and text pairs, COCO captions, "
    "preference pairs, Qilin, MMBench, POPE, MME, and WebDataset shards."
)
_SPLIT = re.compile(
    r"(?<![a-z])(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev|eval(?:uation)?)|(test(?:ing)?))(?![a-z])"
)


@dataclass(frozen=True)
class Layout:
    """format: one of FORMATS. files: its data files, by name. root: what image paths are relative to.

    splits: "train", "val", "test" -> the files whose names say so; empty where none does, and a file
    that says nothing counts as train where another says something. roots: for the files whose images
    lie in a folder of their own (COCO's train2017). note: what else was seen, for the report.
    """

    format: str
    files: tuple[Path, ...]
    root: Path
    splits: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    note: str = ""
    roots: dict[Path, Path] = field(default_factory=dict)

    def root_of(self, file: Path) -> Path:
        return self.roots.get(file, self.root)


def sniff(path: str | os.PathLike, image_root: str | os.PathLike | None = None) -> Layout:
    """Look at a file or a folder. Raises InputError where nothing known is found, saying what was seen.

    `image_root` is taken as it is; else the folder is one where the first images are found: that of the
    file, one above it, or `images` beside it. Hidden files are passed over, loops of links are not
    followed, folders of pictures are not listed to the end.
    """
    path = Path(path)
    given = Path(image_root) if image_root is not None else None
    if path.is_dir():
        return _folder(path, given)
    found = guess(path)
    if found.format is None:
        raise InputError(f"{path} is {found.saw}: no format that is known.", _KNOWN)
    root, note = path.parent, ""
    if found.format == "mme":
        root = path.parent.parent if path.parent.name == "questions_answers_YN" else path.parent
    elif given is None and found.format != "webdataset":
        root = image_folder(path, found.references, Path(os.path.abspath(path)).parent.parent)
        if root != path.parent:
            note = f"The images were found relative to {root}."
    return Layout(found.format, (path,), given or root, {}, note)


def _folder(folder: Path, given: Path | None) -> Layout:
    found, unknown = _look_into(sorted(_data_files(folder)))
    if not found:
        tasks = _mme_files(folder)
        if tasks:
            return Layout("mme", tuple(tasks), given or folder)
        if not unknown:
            raise InputError(
                f"The folder {folder} holds no data file (JSON, JSONL, TSV, Parquet or tar).",
                "Give the folder or the file that the samples are in.",
            )
        file, saw = next(iter(unknown.items()))
        more = f" (and {len(unknown) - 1:,} more that are not)" if len(unknown) > 1 else ""
        raise InputError(
            f"Nothing known was found in {folder}: {file.relative_to(folder)} is {saw}{more}.",
            _KNOWN,
        )
    sizes: Counter = Counter()
    for file, one in found.items():
        sizes[one.format] += _size(file) + 1
    name = max(sizes, key=lambda format: (sizes[format], format))
    files = [file for file, one in found.items() if one.format == name]
    others = [file for file, one in found.items() if one.format != name]
    notes = []
    if others:
        listed = ", ".join(f"{f.relative_to(folder)} ({found[f].format})" for f in others[:3])
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        notes.append(f"Of other formats, and not checked: {listed}{more}.")
    for file, saw in list(unknown.items())[:3]:
        notes.append(f"Not checked: {file.relative_to(folder)}, {saw}.")
    if len(unknown) > 3:
        notes.append(f"Nor were {len(unknown) - 3:,} more files of no known format.")
    roots: dict[Path, Path] = {}
    if given is None and name != "webdataset":
        for file in files:
            roots[file] = image_folder(file, found[file].references, folder)
    common = Counter(roots.values()).most_common(1)[0][0] if roots else folder
    roots = {file: root for file, root in roots.items() if root != common}
    return Layout(
        name, tuple(files), given or common, _splits(folder, files), " ".join(notes), roots
    )


def _look_into(files: list[Path]) -> tuple[dict[Path, Guess], dict[Path, str]]:
    """The files of a known format, and what the others are."""
    found: dict[Path, Guess] = {}
    unknown: dict[Path, str] = {}
    crowds = Counter((file.parent, file.suffix) for file in files)
    looked: Counter = Counter()
    hits: dict = {}
    for file in files:
        crowd = (file.parent, file.suffix)
        if crowds[crowd] > _MANY and looked[crowd] >= 5:
            # As many as there are shards, or one JSON beside each picture: the first five tell.
            if crowd not in hits:
                continue
            if file.name.endswith(SHARDS):
                found[file] = hits[crowd]
                continue
        looked[crowd] += 1
        try:
            one = guess(file)
        except InputError as error:
            unknown[file] = error.what
            continue
        if one.format is None:
            unknown[file] = one.saw
        else:
            found[file] = hits[crowd] = one
    return found, unknown


def _data_files(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        try:
            status = os.stat(here)
            entries = os.scandir(here)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with entries:
            hits = 0
            for number, entry in enumerate(entries):
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(_SUFFIXES):
                    if _is_file(entry):
                        hits += 1
                        yield here / entry.name
                elif depth < _DEPTH and _is_folder(entry):
                    waiting.append((here / entry.name, depth + 1))
                if depth and not hits and number >= _ENTRIES:
                    break


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _mme_files(folder: Path) -> list[Path]:
    """The text files of MME: one for each picture in folders of tasks, or one for each task."""
    for pattern in ("*/questions_answers_YN/*.txt", "*/*.txt", "*.txt"):
        files = [file for file in sorted(folder.glob(pattern)) if file.name[0] != "."]
        found = []
        for file in files:
            try:
                if guess(file).format == "mme":
                    found.append(file)
            except InputError:
                continue
            if not found and len(files) > 20:
                break  # the first file by name says no
        if found and pattern != "*.txt":  # tasks come in both shapes
            names = {*folder.glob("*/questions_answers_YN/*.txt"), *folder.glob("*/*.txt")}
            return sorted(file for file in names if file.name[0] != "." and file.stat().st_size)
        if found:
            return found
    return []


def _splits(folder: Path, files: list[Path]) -> dict[str, tuple[Path, ...]]:
    """The files by the split that their names, or the folders they are in, speak of."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        parts = file.relative_to(folder).parts
        names = (split_in(part) for part in reversed(parts))
        splits.setdefault(next((name for name in names if name), ""), []).append(file)
    if set(splits) == {""}:
        return {}
    splits.setdefault("train", []).extend(splits.pop("", []))
    order = [name for name in ("train", "val", "test") if splits.get(name)]
    return {name: tuple(sorted(splits[name])) for name in order}


def split_in(name: str) -> str | None:
    """ "train", "val" or "test" where a file's or folder's name speaks of it: captions_val2017.json."""
    match = _SPLIT.search(name.lower())
    if match is None:
        return None
    return "train" if match[1] else "val" if match[2] else "test"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
