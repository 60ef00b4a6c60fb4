"""POPE from its JSON lines: is the object in the picture? With the share of "yes" beside the score."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from labs.errors import InputError
from labs.evaluation.answers import pope_rule, read_yes_no
from labs.evaluation.reading import Reading
from labs.formats.files import atomic_write
from labs.formats.pope import SETTINGS, read_pope
from labs.suites.benchmarks.base import Benchmark, subsets, yes_no_words
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import ratio
from labs.suites.summary import mean_score, share


class Pope(Benchmark):
    """Yes/no questions of one POPE file, or of a folder with a file for each setting.

    path: coco_pope_random.json, LLaVA's llava_pope_test.jsonl (its field `category` is the setting),
    or a folder with files whose names end in random, popular and adversarial. In a folder question_ids
    are used once for each file, so the ids here are "random/1". image_root: where the pictures are,
    by default the folder of the file. n: questions of each file, the first ones.

    Measures: accuracy, precision, recall, F1 (yes is the positive class) and `yes_rate`, of all and of
    each setting ("adversarial/f1"). A model that always says yes has an F1 of 0.67 and a yes_rate of
    1, so no F1 is read without it. What cannot be read counts as wrong and as no yes; under the
    official rule (the first sentence, searched for No, not and no) it counts as a yes.

    Intervals draw pictures: POPE asks six questions of each. Li et al. 2023, arXiv:2305.10355;
    AoiDragon/POPE, evaluate.py. Chapter 7.
    """

    name = "pope"
    label = "POPE"
    told = ("accuracy", "precision", "recall", "f1", "yes_rate")

    def __init__(
        self,
        path: str | os.PathLike,
        image_root: str | os.PathLike | None = None,
        n: int | None = None,
        **options,
    ):
        super().__init__(path, n=n, **options)
        self.image_root = Path(image_root) if image_root is not None else None

    def files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        found = [
            file
            for setting in SETTINGS
            for file in sorted(self.path.iterdir())
            if file.suffix in (".json", ".jsonl") and file.stem.endswith(setting)
        ]
        counts = Counter(_setting(file) for file in found)
        if not found or max(counts.values()) > 1:
            said = "two files of one setting" if found else "no file of a POPE setting"
            raise InputError(
                f"{self.path} holds {said}.",
                f"Give one file, or a folder with one whose name ends in {', '.join(SETTINGS)} each.",
            )
        return found

    def questions(self) -> Iterator[Question]:
        for file in self.files():
            prefix = f"{_setting(file)}/" if self.path.is_dir() else ""
            root = self.image_root or file.parent
            for item in islice(read_pope(file, root), self.n):
                picture = _picture(item.image, root)
                yield Question(
                    id=f"{prefix}{item.id}",
                    prompt=self.asked(item.question),
                    answer=item.label,
                    images=(item.image,),
                    about={
                        "question_id": item.id, "question": item.question, "image": picture,
                        "setting": item.setting, "file": file.name,
                    },
                    group=picture,
                )  # fmt: skip

    def read_ours(self, question: Question, said: str) -> Reading:
        return yes_no_words(read_yes_no(said))

    def read_official(self, question: Question, said: str) -> Reading:
        return yes_no_words(pope_rule(said))

    def summed(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = _five(rows)
        for name, part in subsets(rows, "setting").items():
            if name != "none given":
                found |= {f"{name}/{key}": value for key, value in _five(part).items()}
        return found

    def write_answers(self, rows: Sequence[Row], folder: str | os.PathLike) -> list[Path]:
        """Write {"question", "answer"} a line, one file for each file of questions, in its order.

        That is what POPE's evaluate.py reads as `ans_file`, with the questions as `label_file`.
        """
        paths = []
        for name, part in subsets(rows, "file").items():
            path = Path(folder) / f"{Path(name).stem}_answers.json"
            with atomic_write(path) as file:
                for row in part:
                    line = {"question": row.about["question"], "answer": row.said}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            paths.append(path)
        return paths


def _picture(image: str, root: Path) -> str:
    """What a picture is called: its path under the root; of a data URL a digest."""
    if image.startswith("data:"):
        return hashlib.sha256(image.encode()).hexdigest()[:16]
    return Path(os.path.relpath(image, os.path.abspath(root))).as_posix()


def _setting(file: Path) -> str:
    return next(setting for setting in SETTINGS if file.stem.endswith(setting))


def _five(rows: Sequence[Row]) -> dict[str, Measure]:
    yes: Callable[[Row], bool] = lambda row: row.parsed == "yes"  # noqa: E731
    true: Callable[[Row], bool] = lambda row: row.answer == "yes"  # noqa: E731
    both: Callable[[Row], bool] = lambda row: yes(row) and true(row)  # noqa: E731
    return {
        "accuracy": mean_score(rows),
        "precision": ratio(rows, both, yes),
        "recall": ratio(rows, both, true),
        "f1": ratio(rows, lambda row: 2 * both(row), lambda row: yes(row) + true(row)),
        "yes_rate": share(rows, yes),
    }
