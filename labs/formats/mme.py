"""MME: two yes/no questions on each picture, in folders of tasks.

A task's folder comes in two shapes, both in the release:

    landmark/images/0001.jpg   landmark/questions_answers_YN/0001.txt
    OCR/0001.jpg               OCR/0001.txt

with two lines in each text file, `question<TAB>Yes`. The answers of a model are handed to the
evaluation as one file for each task, `landmark.txt`, two lines for each picture:

    0001.jpg<TAB>question<TAB>Yes<TAB>what the model said

Sources: BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation,
MME_Benchmark_release_version and eval_tool/readme.txt (Your_Results). arXiv:2306.13394.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.files import atomic_write, check_file
from labs.formats.llava import resolve_image
from labs.formats.pope import yes_no

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class MmeQuestion:
    """One question. label: "yes" or "no". response: what a model said, in a file of answers."""

    task: str
    image: str
    question: str
    label: str
    response: str | None = None

    def to_conversation(self) -> Conversation:
        """The question (which says "Please answer yes or no." itself) and "Yes" or "No"."""
        name = f"{self.task}/{os.path.basename(self.image)[:80]}"
        asked = Turn("user", fields.question_turn(self.question))
        turns = (asked, Turn("assistant", self.label.capitalize()))
        return Conversation(name, (self.image,), turns, {"task": self.task})


def read_mme(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[MmeQuestion]:
    """Yield the questions of a release folder, of a folder of answer files, or of one answer file.

    The two questions of a picture follow each other. Tasks and pictures come in the order of their
    names. Images of an answer file are looked for under `image_root` (default: the file's folder) in
    the task's folder, in either shape.

    Raises InputError, with the line, for a number of tabs other than one (release) or two or three
    (answers), a label other than Yes and No, a picture with another number of questions than two, one
    question twice, a text file without its picture, and a folder without questions.
    """
    path = Path(path)
    if not path.is_dir():
        check_file(path, "file of MME answers")
        return _answers(path, Path(image_root) if image_root is not None else path.parent)
    tasks = sorted(entry for entry in path.iterdir() if entry.is_dir() and _texts(entry))
    files = sorted(entry for entry in path.iterdir() if entry.suffix == ".txt")
    if tasks:
        return itertools.chain.from_iterable(_task(folder, path) for folder in tasks)
    files = [file for file in files if file.name.lower() != "readme.txt"]
    if not files:
        raise fields.nothing(path, "a task with its text files")
    root = Path(image_root) if image_root is not None else path
    return itertools.chain.from_iterable(_answers(file, root) for file in files)


def _texts(task: Path) -> list[Path]:
    folder = task / "questions_answers_YN"
    return sorted((folder if folder.is_dir() else task).glob("*.txt"))


def _task(task: Path, root: Path) -> Iterator[MmeQuestion]:
    for file in _texts(task):
        folder = task / "images" if file.parent.name == "questions_answers_YN" else task
        names = [folder / (file.stem + suffix) for suffix in _SUFFIXES]
        names += [folder / (file.stem + suffix.upper()) for suffix in _SUFFIXES]
        image = next((name for name in names if os.path.lexists(name)), None)
        if image is None:
            raise InputError(
                f"{file}: there is no picture of that name in {folder}.",
                "Fetch the images of the release too, or remove the text file.",
            )
        place = resolve_image(str(image.absolute()), root, str(file))
        yield from _pair(
            [(f"{file}, line {n}", MmeQuestion(task.name, place, *cells))
             for n, cells in _lines(file, (1,))],
            str(file),
        )  # fmt: skip


def _answers(file: Path, root: Path) -> Iterator[MmeQuestion]:
    task, seen = file.stem, {}
    rows = [(f"{file}, line {n}", cells) for n, cells in _lines(file, (2, 3))]
    for name, group in itertools.groupby(rows, key=lambda row: row[1][0]):
        group = list(group)
        fields.claim(seen, name, group[0][0], "picture")
        shapes = [f"{task}/images/{name}", f"{task}/{name}"]
        shape = next((s for s in shapes if os.path.lexists(root / s)), shapes[1])
        place = resolve_image(shape, root, group[0][0])
        pair = [(where, MmeQuestion(task, place, *cells[1:])) for where, cells in group]
        yield from _pair(pair, group[-1][0])


def _lines(file: Path, tabs: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of the lines that are not blank; the number of tabs is one of `tabs`."""
    check_file(file, "file of MME questions")
    count = 0
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                cells = line.rstrip("\n").split("\t")
                if len(cells) - 1 not in tabs:
                    wanted = " or ".join(map(str, tabs))
                    raise InputError(
                        f"{file}, line {number}: {len(cells) - 1} tabs where {wanted} separate the columns.",
                        "Write question and answer with one tab between them, and none inside.",
                    )
                count += 1
                yield number, cells
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 text (byte {error.start}: {error.reason}).",
            "Convert it to UTF-8.",
        ) from None
    if count == 0:
        raise fields.nothing(file, "a question")


def _pair(questions: list[tuple[str, MmeQuestion]], where: str) -> Iterator[MmeQuestion]:
    """The two questions of one picture: acc+ of MME counts pictures of which both are right."""
    if len(questions) != 2:
        raise InputError(
            f"{where}: {len(questions)} questions on one picture, where MME has two.",
            "Add the missing question, or remove the picture.",
        )
    seen: dict = {}
    for place, item in questions:
        question = fields.text({"question": item.question}, "question", place)
        fields.claim(seen, question, place, "question")
        yield dataclasses.replace(item, label=yes_no(item.label, place))


def write_mme(questions: Iterable[MmeQuestion], folder: str | os.PathLike) -> int:
    """Write a release folder with a copy of each picture (task/images, task/questions_answers_YN).

    Two questions that follow each other share their picture. The folder appears when it is complete
    and may not hold anything before. Returns the number of questions.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already.", "Name a new folder, or empty this one.")
    groups = _groups(questions, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        target, taken = Path(temporary) / "set", {}
        for where, image, pair in groups:
            name = os.path.basename(image)
            stem = f"{pair[0].task}/{os.path.splitext(name)[0]}"
            fields.claim(taken, stem, where, "picture")
            task = target / _folder(pair[0].task, where)
            copy = task / "images" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            check_file(image, "image")
            shutil.copyfile(image, copy)
            with atomic_write(task / "questions_answers_YN" / (copy.stem + ".txt")) as file:
                for item in pair:
                    file.write(f"{_plain(item.question, where)}\t{item.label.capitalize()}\n")
        if not groups:
            raise InputError(f"There is no question to write to {folder}.", "Check the selection.")
        if folder.exists():
            folder.rmdir()
        os.replace(target, folder)
    return 2 * len(groups)


def write_mme_answers(questions: Iterable[MmeQuestion], folder: str | os.PathLike) -> int:
    """Write one file for each task, as MME's own calculation takes them; return the number of lines.

    Tabs and line breaks inside a response become spaces: a response is one cell of one line.
    """
    tasks: dict[str, list[str]] = {}
    groups = _groups(questions, Path(folder))
    for where, image, pair in groups:
        for item in pair:
            cells = [os.path.basename(image), item.question, item.label.capitalize()]
            line = [_plain(cell, where) for cell in cells]
            line += [" ".join(item.response.split())] if item.response is not None else []
            tasks.setdefault(_folder(item.task, where), []).append("\t".join(line) + "\n")
    for task, lines in tasks.items():
        with atomic_write(Path(folder) / f"{task}.txt") as file:
            file.writelines(lines)
    return 2 * len(groups)


def _groups(questions: Iterable[MmeQuestion], target: Path) -> list:
    """(place, image, the two questions) for each picture, checked as the reader checks them."""
    groups = []
    for (task, image), group in itertools.groupby(questions, key=lambda q: (q.task, q.image)):
        where = f"{target}, {task}/{os.path.basename(image)}"
        pair = list(_pair([(where, item) for item in group], where))
        groups.append((where, image, pair))
    return groups


def _folder(task: str, where: str) -> str:
    if task in ("", ".", "..") or set(task) & set("/\\"):
        raise InputError(f"{where}: {task!r} is no name of a task.", "Name it without slashes.")
    return _plain(task, where)


def _plain(cell: str, where: str) -> str:
    if not cell.strip() or set(cell) & set("\t\n\r"):
        raise InputError(
            f"{where}: {cell[:40]!r} is empty or holds a tab or a line break.",
            "MME's files have one question a line, with tabs between the columns.",
        )
    return cell
