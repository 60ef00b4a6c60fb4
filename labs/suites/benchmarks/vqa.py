"""VQAv2 from its pair of files: short answers, scored by how many of ten people said the same."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from labs.errors import InputError
from labs.evaluation.answers import read_text
from labs.evaluation.reading import Reading
from labs.evaluation.vqa import vqa_accuracy
from labs.formats.vqa import read_vqa, write_vqa_results
from labs.suites.benchmarks.base import Benchmark, subsets
from labs.suites.contract import Measure, Question, Row
from labs.suites.summary import mean_score


class VqaV2(Benchmark):
    """The questions of v2_OpenEnded_mscoco_*_questions.json (`labs.formats.read_vqa`).

    questions: that file, or a folder in which it lies with its annotations and a folder of pictures
    named like the subset (val2014). annotations: v2_mscoco_*_annotations.json; without it nothing is
    scored, as in test-dev. image_root: the folder of the pictures. n: the first questions.

    A row's score is VQA accuracy: with k of the other nine people in agreement min(1, k/3), averaged
    over the ten, so 0.3, 0.6 and 0.9 are the steps on the way to 1. Measures: accuracy, and accuracy
    by answer type (`yes/no`, `number`, `other`, or whatever the file names).

    The official rule takes the whole of what was said for the answer, as the script does; ours first
    takes the answer out of "The answer is two." Intervals draw pictures. Goyal et al. 2017,
    arXiv:1612.00837; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py. Chapter 7.
    """

    name = "vqav2"
    label = "VQAv2"

    def __init__(
        self,
        questions: str | os.PathLike,
        annotations: str | os.PathLike | None = None,
        image_root: str | os.PathLike | None = None,
        n: int | None = None,
        **options,
    ):
        path = Path(questions)
        if path.is_dir():
            path, annotations, image_root = _found(path, annotations, image_root)
        super().__init__(path, n=n, **options)
        self.annotations = Path(annotations) if annotations is not None else None
        self.image_root = Path(image_root) if image_root is not None else path.parent

    def files(self) -> list[Path]:
        return [self.path] if self.annotations is None else [self.path, self.annotations]

    def questions(self) -> Iterator[Question]:
        for item in islice(read_vqa(self.path, self.annotations, self.image_root), self.n):
            yield Question(
                id=str(item.id),
                prompt=self.asked(item.question),
                answer=[answer.text for answer in item.answers] or None,
                images=(item.image,),
                about={
                    "question_id": item.id, "question": item.question, "image_id": item.image_id,
                    "answer_type": item.answer_type, "question_type": item.question_type,
                    "common_answer": item.answer,
                },
                group=str(item.image_id),
            )  # fmt: skip

    def read_ours(self, question: Question, said: str) -> Reading:
        return read_text(said)

    def read_official(self, question: Question, said: str) -> Reading:
        return Reading(said)

    def score(self, question: Question, reading: Reading) -> float:
        if question.answer is None:
            return 0.0
        return float(vqa_accuracy([reading.value], [question.answer]))

    def summed(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {"accuracy": mean_score(rows)}
        for name, part in subsets(rows, "answer_type").items():
            found[f"answer_type/{name}"] = mean_score(part)
        return found

    def write_answers(self, rows: Sequence[Row], folder: str | os.PathLike) -> list[Path]:
        """Write the list of {"question_id", "answer"} that the evaluation server and script take.

        They take it only if it answers every question of the subset. Under our rule the answer is
        what was read, and what was said where nothing could be; under the official rule what was said.
        """
        name = self.path.name.replace("questions", "results")
        path = Path(folder) / (name if name != self.path.name else f"{self.path.stem}_results.json")
        answers = {
            row.about["question_id"]: row.parsed if self.rule == "ours" and row.status == "read" else row.said
            for row in rows
        }  # fmt: skip
        write_vqa_results(answers, path)
        return [path]


def _found(folder: Path, annotations, image_root) -> tuple[Path, Path | None, Path]:
    """The files of a folder that holds one subset."""
    questions = sorted(folder.glob("*_questions.json"))
    if len(questions) != 1:
        raise InputError(
            f"{folder} holds {len(questions)} files of VQA questions (*_questions.json).",
            "Give the file, or a folder that holds one.",
        )
    subset = questions[0].stem.removesuffix("_questions").rpartition("_")[2]
    if annotations is None:
        annotations = next(iter(sorted(folder.glob(f"*_{subset}_annotations.json"))), None)
    if image_root is None:
        pictures = folder / subset.replace("-dev", "")
        image_root = pictures if pictures.is_dir() else folder
    return questions[0], annotations, image_root
