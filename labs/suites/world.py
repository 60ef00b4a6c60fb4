"""Scores on the offline world: held-out questions with balanced answers, judged by the oracle."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from labs.evaluation import chair_scores, wilson_ci
from labs.models.generation import generate, user_message
from labs.shapes import caption, is_correct, judge, make_record, parse_yes_no, seeded

# name -> (task, what narrows its questions). Existence is asked with random and adversarial
# negatives, after POPE. `count` asks for all objects or those of a colour, `colour` for the object
# of a kind or at a place; what is keyed by kind is the hard half and is shown alone as well.
QUESTIONS = {
    "caption": ("caption", {}),
    "existence": ("existence", {"negatives": "random"}),
    "existence_adversarial": ("existence", {"negatives": "adversarial"}),
    "conjunction": ("conjunction", {}),
    "count": ("count", {}),
    "count_of_kind": ("count", {"of": "kind"}),
    "colour": ("colour", {}),
    "colour_of_kind": ("colour", {"by": "kind"}),
    "position": ("position", {}),
    "grounding": ("grounding", {}),
    "reasoning": ("reasoning", {}),
    "ocr": ("ocr", {"digits": 1}),
    "ocr_two": ("ocr", {"digits": 2}),
}
TEXT_ONLY = tuple(name for name in QUESTIONS if not name.startswith("ocr"))


@dataclass(frozen=True)
class Score:
    """One question type. Rates are shares of `n`; `ci` is the 95 % Wilson interval of accuracy.

    unparsed: answers that could not be read as an answer (they count as wrong, and are shown).
    yes_rate: share of answers "yes" (yes/no questions). hallucinated: share of captions that name a
    kind that is not there; recall: share of the objects shown whose kind the caption names.
    """

    name: str
    language: str
    n: int
    correct: int
    unparsed: int
    accuracy: float
    ci: tuple[float, float]
    yes_rate: float | None = None
    hallucinated: float | None = None
    hallucinated_ci: tuple[float, float] | None = None
    recall: float | None = None

    def to_dict(self) -> dict:
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True)
class Item:
    """One question as asked, its exact answer, and what the model said."""

    id: str
    question: str
    answer: str
    said: str
    correct: bool | None


def evaluate(
    model,
    processor,
    names: Sequence[str] = tuple(QUESTIONS),
    *,
    n: int = 2000,
    split: str = "test",
    language: str = "en",
    described: bool = False,
    batch_size: int = 100,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Score]:
    """Greedy answers to `n` held-out questions of each type, scored by the oracle.

    described: the picture is replaced by its description in words (tiny-lm reads it).
    progress: called with (type, questions answered, n).
    """
    return {
        name: score(
            name, language,
            ask(model, processor, name, n=n, split=split, language=language,
                described=described, batch_size=batch_size, progress=progress),
        )
        for name in names
    }  # fmt: skip


def ask(
    model,
    processor,
    name: str,
    *,
    n: int,
    first: int = 0,
    split: str = "test",
    language: str = "en",
    described: bool = False,
    batch_size: int = 100,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[tuple[dict, str]]:
    """(record, what the model said) for `n` questions of a type from number `first` on, a batch in
    memory at a time."""
    task, wanted = QUESTIONS[name]
    pairs: list[tuple[dict, str]] = []
    for start in range(first, first + n, batch_size):
        records = [
            make_record(task, i, split, language, **wanted)
            for i in range(start, min(first + n, start + batch_size))
        ]
        messages, images = zip(*(_prompt(r, described) for r in records), strict=True)
        said = generate(
            model, processor, messages, images,
            max_new_tokens=112 if task == "caption" else 24, batch_size=batch_size,
        )  # fmt: skip
        pairs += zip(records, said, strict=True)
        if progress:
            progress(name, len(pairs), n)
    return pairs


def _prompt(record: dict, described: bool) -> tuple[list[dict], list]:
    question = record["meta"]["turns"][0].question
    if not described:
        # Training data writes "<image>\nquestion"; the template puts the same line end.
        return [user_message(question, images=1)], [record["image"]]
    scene, language = record["meta"]["scene"], record["meta"]["language"]
    order = list(range(len(scene.objects)))
    seeded("described", record["id"]).shuffle(order)
    return [user_message(caption(scene, language, order) + "\n" + question)], []


def items(pairs: list[tuple[dict, str]]) -> list[Item]:
    """Every question with its answer and verdict, for a results folder or a closer look."""
    out = []
    for record, said in pairs:
        qa = record["meta"]["turns"][0]
        verdict = is_correct(qa.task, record["meta"]["scene"], qa.answer, said)
        out.append(Item(record["id"], qa.question, qa.answer, said, verdict))
    return out


def score(name: str, language: str, pairs: list[tuple[dict, str]]) -> Score:
    """The Score of answered questions."""
    judged = items(pairs)
    n, correct = len(judged), sum(i.correct is True for i in judged)
    extra: dict = {}
    if name.startswith(("existence", "conjunction")):
        extra["yes_rate"] = sum(parse_yes_no(i.said) == "yes" for i in judged) / n
    if name == "caption":
        mentioned, shown, wrong = [], [], 0
        for record, said in pairs:
            scene = record["meta"]["scene"]
            verdict = judge(scene, said)
            kinds = [o.kind for o in verdict.right] + [m.kind for m, _ in verdict.mistaken]
            kinds += [m.kind for m in verdict.hallucinated]
            absent = [k for k in kinds if k not in scene.kinds]
            wrong += bool(absent)
            mentioned.append(kinds)
            shown.append(sorted(scene.kinds))
        extra["hallucinated"] = wrong / n
        extra["hallucinated_ci"] = wilson_ci(wrong, n)
        extra["recall"] = chair_scores(mentioned, shown).recall
    return Score(
        name, language, n, correct, sum(i.correct is None for i in judged),
        correct / n, tuple(wilson_ci(correct, n)), **extra,
    )  # fmt: skip
