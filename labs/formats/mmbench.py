"""MMBench: multiple-choice questions in one TSV file, the pictures inside it as base64.

Columns: index, question, hint, A, B, C, D, answer, category, image, l2-category, split (and others,
such as source and comment). A cell may hold line breaks and tabs when it is quoted. `image` is base64,
or, where it has at most 64 characters, the index of the row that holds the picture: CircularEval asks
each question once for each rotation of its options, under index + 1,000,000, + 2,000,000, …

Sources: open-compass/VLMEvalKit, vlmeval/dataset/image_base.py (index, image), image_mcq.py (options,
hint), utils/multiple_choice.py (g_index) and docs/en/Development.md (table of columns);
open-compass/MMBench, README.md. arXiv:2307.06281.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); every zip here is of checked lengths)
from __future__ import annotations

import base64
import binascii
import csv
import dataclasses
import hashlib
import io
import os
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.files import atomic_write, check_file
from labs.formats.llava import resolve_image

ROTATION = 1_000_000  # index of the k-th rotation of question i: i + k * ROTATION
_REFERENCE = 64  # a longer `image` is base64, a shorter one an index: VLMEvalKit's rule
_CELL = 1 << 28  # characters of the largest cell; csv's own limit of 131,072 is below a photograph
_URL = "data:image/*;base64,"
_COLUMNS = ("index", "question", "hint", "answer", "category", "image", "l2-category", "split", "image_path")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MMBenchQuestion:
    """One row. options: the texts of A, B, C, …; answer: the right one's letter (None in a test split).

    image: a data URL, or a path where the row names a file. extra: the other columns that are filled.
    """

    index: int
    question: str
    options: tuple[str, ...]
    image: str | Image.Image
    answer: str | None = None
    hint: str | None = None
    category: str | None = None
    l2_category: str | None = None
    split: str | None = None
    extra: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def letters(self) -> str:
        """ "ABCD", as many as there are options."""
        return string.ascii_uppercase[: len(self.options)]

    @property
    def group(self) -> int:
        """The index of the question that this row is a rotation of (itself for the first pass)."""
        return self.index % ROTATION

    def prompt(self, instruction: str = "Answer with the letter of the right option.") -> str:
        """Hint, question, one option a line with its letter, and `instruction`, on lines of their own."""
        options = [f"{letter}. {text}" for letter, text in zip(self.letters, self.options)]
        lines = [self.hint, self.question, *options, instruction]
        return "\n".join(line for line in lines if line)

    def to_conversation(self, instruction: str | None = None) -> Conversation:
        """`prompt` and the letter. Raises InputError where the split keeps its answers back."""
        if self.answer is None:
            raise InputError(
                f"The row with index {self.index} has no answer: a test split is not for training.",
                "Take the dev split.",
            )
        text = self.prompt() if instruction is None else self.prompt(instruction)
        turns = (Turn("user", fields.question_turn(text)), Turn("assistant", self.answer))
        meta = {"category": self.category} if self.category else {}
        return Conversation(str(self.index), (self.image,), turns, meta)


def read_mmbench(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[MMBenchQuestion]:
    """Yield the rows of one TSV file, each with its picture.

    The file is read twice, row by row: first for the references between rows, then for the rows.
    Pictures that other rows refer to are kept in memory. Only an empty cell counts as missing: pandas,
    and so VLMEvalKit, also loses an option that reads "None" or "NA". A picture in a file (column
    `image_path`, where `image` is empty) is resolved under `image_root`, by default the TSV's folder.

    Raises InputError, with the line on which the row begins, for a missing column, a wrong number of
    tabs, an index that is no number or was used before, a missing question, fewer than two options or
    a gap between them, an answer that is none of the options, an image that is neither base64 nor the
    index of a row with an image, and a file without rows.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    check_file(path, "TSV file")
    return _read(path, root)


def _read(path: Path, root: Path) -> Iterator[MMBenchQuestion]:
    targets, later = _references(path)
    kept: dict[int, str] = {}
    if later:  # rows that refer to one further down
        kept = {key: row["image"] for key, row, _ in _rows(path) if key in later}
    for key, row, where in _rows(path):
        image = row.get("image", "")
        if len(image) > _REFERENCE:
            _check_base64(image, where)
            if key in targets:
                kept[key] = image
        elif image:
            image = kept[int(image)]
        if image:
            image = _URL + image
        else:
            image = resolve_image(fields.text(row, "image_path", where), root, where)
        letters = [letter for letter in string.ascii_uppercase if letter in row]
        options = [row[letter] for letter in letters]
        while options and not options[-1].strip():
            options.pop()
        answer = row.get("answer", "").strip() or None
        _check(options, answer, where)
        yield MMBenchQuestion(
            key,
            fields.text(row, "question", where),
            tuple(options),
            image,
            answer,
            *(row.get(name) or None for name in ("hint", "category", "l2-category", "split")),
            {k: v for k, v in row.items() if v and k not in _COLUMNS and k not in letters},
        )


def _check(options: Sequence[str], answer: str | None, where: str) -> None:
    """A choice has two options or more, from A on without a gap, and its answer is one of them."""
    letters = string.ascii_uppercase[: len(options)]
    if len(options) < 2 or not all(option.strip() for option in options):
        given = ", ".join(x for x, option in zip(letters, options) if option.strip()) or "none"
        raise InputError(
            f"{where}: the options that are given ({given}) are no choice from A on.",
            "Give A and B at least, without a gap (pandas writes an option None or NA as nothing).",
        )
    if answer is not None and (len(answer) != 1 or answer not in letters):
        raise InputError(
            f"{where}: the answer {answer[:40]!r} is none of the options {', '.join(letters)}.",
            "Write the letter of the right option.",
        )


def _references(path: Path) -> tuple[set[int], set[int]]:
    """The rows whose picture others use, and those of them that stand below one that uses it."""
    seen: dict[int, str] = {}
    asked: dict[int, str] = {}
    holders, later = set(), set()
    for key, row, where in _rows(path):
        fields.claim(seen, key, where, "index")
        image = row.get("image", "")
        if 0 < len(image) <= _REFERENCE:
            target = fields.whole({"image": image}, "image", where)
            asked.setdefault(target, where)
            if target not in holders:
                later.add(target)
        elif image:
            holders.add(key)
    for target, where in asked.items():
        if target not in holders:
            raise InputError(
                f"{where}: `image` refers to row {target}, which "
                + ("holds no picture itself." if target in seen else "is not there."),
                "Give the picture as base64, or the index of a row that has one.",
            )
    if not seen:
        raise fields.nothing(path, "a question")
    return set(asked), later


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """(index, cells by column, place) of each row; columns other than A, B, … in lower case."""
    csv.field_size_limit(max(csv.field_size_limit(), _CELL))
    header: list[str] = []
    line = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t", strict=True)
            for cells in reader:
                where, line = f"{path}, line {line}", reader.line_num + 1
                if not cells:
                    continue
                if not header:
                    header = _header(cells, where)
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{where}: {len(cells)} columns, where the header has {len(header)}.",
                        "Put one tab between the columns, and quote cells that hold tabs or line breaks.",
                    )
                row = dict(zip(header, cells))
                yield fields.whole({"index": row["index"] or None}, "index", where), row, where
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: not a row of a TSV file: {error}.",
            "Check the quotes from that line on.",
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}).",
            "Convert it to UTF-8.",
        ) from None


def _header(cells: list[str], where: str) -> list[str]:
    names = [
        name if name in set(string.ascii_uppercase) else name.strip().lower() for name in cells
    ]
    image = "image" if "image" in names or "image_path" not in names else "image_path"
    missing = [name for name in ("index", "question", "A", "B", image) if name not in names]
    if missing:
        raise InputError(
            f"{where}: the column {missing[0]} is missing (there is {', '.join(cells)[:200]}).",
            "MMBench's files have tabs between index, question, A, B, …, answer, category and image.",
        )
    if len(set(names)) < len(names):
        raise InputError(f"{where}: a column is there twice.", "Give each column its own name.")
    return names


def _check_base64(text: str, where: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"{where}: `image` is neither base64 nor the index of another row ({text[:30]!r}…).",
            "Write the bytes of the image file as base64, without line breaks.",
        ) from None


def write_mmbench(
    questions: Iterable[MMBenchQuestion],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
) -> int:
    """Write rows as TSV, every cell quoted, pictures as base64 of their file; return how many.

    A picture that an earlier row holds is written as that row's index. Paths are read under
    `image_root` (default: the TSV's folder); pictures in memory become PNG.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    questions = list(questions)
    if not questions:
        raise InputError(f"There is no question to write to {path}.", "Check what was selected.")
    width = max(2, *(len(item.options) for item in questions))
    extra = dict.fromkeys(name for item in questions for name in item.extra)
    letters = string.ascii_uppercase[:width]
    columns = ["index", "question", "hint", *letters, "answer", "category", "image", *extra, "l2-category", "split"]  # fmt: skip
    if len(set(columns)) < len(columns) or any(name != name.lower() for name in extra):
        raise InputError(
            f"{path}: `extra` holds a column of MMBench's own, or one with capitals.", "Rename it."
        )
    holders: dict[bytes, int] = {}
    seen: dict = {}
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(columns)
        for number, item in enumerate(questions, 1):
            where = f"{path}, row {number}"
            fields.claim(seen, item.index, where, "index")
            fields.text({"question": item.question}, "question", where)
            _check(item.options, item.answer, where)
            encoded = _base64(item.image, root, where)
            digest = hashlib.sha256(encoded.encode()).digest()
            holder = holders.setdefault(digest, item.index)
            row = {
                **item.extra,
                **dict(zip(letters, item.options)),
                "index": item.index,
                "question": item.question,
                "hint": item.hint,
                "answer": item.answer,
                "category": item.category,
                "image": encoded if holder == item.index else holder,
                "l2-category": item.l2_category,
                "split": item.split,
            }
            writer.writerow(["" if row.get(name) is None else row[name] for name in columns])
    return len(questions)


def _base64(image: str | Image.Image, root: Path, where: str) -> str:
    if isinstance(image, str) and image.startswith("data:"):
        encoded = image.partition(",")[2]
        _check_base64(encoded, where)
    elif isinstance(image, str):
        place = resolve_image(image, root, where)
        check_file(place, "image")
        encoded = base64.b64encode(Path(place).read_bytes()).decode()
    else:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
    if len(encoded) <= _REFERENCE:
        raise InputError(
            f"{where}: the picture has {len(encoded)} characters as base64, which reads as an index.",
            "Store it as PNG, which is never that short.",
        )
    return encoded
