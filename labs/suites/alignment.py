"""What aligning a model gained and what it cost, on the same held-out questions before and after.

The definitions that chapters 5 and 6 share. Existence is asked with random, popular and adversarial
negatives (POPE); captions are counted for objects that are not there (CHAIR) and for those that are
named; every other type is there to show what was lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from labs.evaluation import bootstrap_ci, paired_bootstrap, wilson_ci
from labs.models.generation import generate
from labs.shapes import is_correct, judge, make_record, parse_yes_no
from labs.suites.world import QUESTIONS, _prompt

EXISTENCE = ("existence", "existence_popular", "existence_adversarial")
TYPES = QUESTIONS | {"existence_popular": ("existence", {"negatives": "popular"})}
OTHERS = tuple(name for name in TYPES if name not in (*EXISTENCE, "caption"))


@dataclass
class Answers:
    """One model's answers to `n` questions of a type, in their order; arrays are [n].

    right: 1 where the answer is right. yes: 1 where a yes/no question was answered yes. invented:
    objects a caption names of kinds that are not there; named: share of the scene's objects it names.
    """

    right: Float[np.ndarray, " n"]
    yes: Float[np.ndarray, " n"] | None = None
    invented: Float[np.ndarray, " n"] | None = None
    named: Float[np.ndarray, " n"] | None = None


def answer_all(
    model,
    processor,
    n: int = 2000,
    types: Sequence[str] = tuple(TYPES),
    *,
    language: str = "en",
    batch_size: int = 250,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Answers]:
    """Greedy answers to `n` held-out questions of each type."""
    found = {}
    for name in types:
        found[name] = _answers(model, processor, name, n, language, batch_size)
        if progress:
            progress(f"{name}: {100 * found[name].right.mean():.1f} %")
    return found


def _answers(model, processor, name: str, n: int, language: str, batch_size: int) -> Answers:
    task, wanted = TYPES[name]
    rows: list[dict] = []
    for start in range(0, n, batch_size):
        numbers = range(start, min(n, start + batch_size))
        records = [make_record(task, i, "test", language, **wanted) for i in numbers]
        messages, images = zip(*(_prompt(r, False) for r in records), strict=True)
        said = generate(
            model, processor, messages, images, batch_size=batch_size,
            max_new_tokens=112 if task == "caption" else 24,
        )  # fmt: skip
        rows += [_row(task, r, text) for r, text in zip(records, said, strict=True)]
    columns = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    return Answers(**columns)


def _row(task: str, record: dict, said: str) -> dict:
    scene, qa = record["meta"]["scene"], record["meta"]["turns"][0]
    row = {"right": is_correct(qa.task, scene, qa.answer, said) is True}
    if task in ("existence", "conjunction"):
        row["yes"] = parse_yes_no(said) == "yes"
    if task == "caption":
        verdict = judge(scene, said)
        row["invented"] = sum(m.kind not in scene.kinds for m in verdict.hallucinated)
        row["named"] = (len(verdict.right) + len(verdict.mistaken)) / len(scene.objects)
    return row


def summary(answers: dict[str, Answers]) -> dict:
    """One model's numbers with 95 % intervals: by type accuracy, yes-rate; captions' invented
    objects a caption, share of captions that invent, share of objects named."""
    found: dict = {}
    for name, a in answers.items():
        n = len(a.right)
        row = {"n": n, "accuracy": float(a.right.mean()), "ci": _wilson(a.right)}
        if a.yes is not None:
            row |= {"yes_rate": float(a.yes.mean()), "yes_ci": _wilson(a.yes)}
        if a.invented is not None:
            row |= {
                "invented": float(a.invented.mean()),
                "invented_ci": list(bootstrap_ci(a.invented, resamples=2000)),
                "hallucinating": float((a.invented > 0).mean()),
                "hallucinating_ci": _wilson(a.invented > 0),
                "recall": float(a.named.mean()),
                "recall_ci": list(bootstrap_ci(a.named, resamples=2000)),
            }
        found[name] = row
    return found


def _wilson(values) -> list[float]:
    return list(wilson_ci(int(values.sum()), len(values)))


def pooled(seeds: Sequence[dict[str, Answers]]) -> dict[str, Answers]:
    """Several runs as one: each question's mean over the runs. Questions stay what is drawn."""

    def mean(name: str, key: str):
        columns = [getattr(seed[name], key) for seed in seeds]
        return None if columns[0] is None else np.mean(columns, axis=0)

    keys = ("right", "yes", "invented", "named")
    return {name: Answers(**{key: mean(name, key) for key in keys}) for name in seeds[0]}


def change(before: dict[str, Answers], after: dict[str, Answers], seed: int = 0) -> dict:
    """Paired differences on the same questions, after less before, with 95 % bootstrap intervals.

    By type "gain" of accuracy and "drop_bound", the largest drop that the interval allows (points of
    a share: 0.02 is two points). For captions also "invented_ratio" (after / before; "…_ci" with the
    questions drawn anew) and "recall_gain".
    """
    found: dict = {}
    for name, b in before.items():
        a = after[name]
        gain = paired_bootstrap(a.right, b.right, seed=seed)
        row = {
            "gain": gain.difference, "ci": [gain.low, gain.high],
            "drop_bound": max(0.0, -gain.low), "p_value": gain.p_value,
        }  # fmt: skip
        if b.invented is not None:
            recall = paired_bootstrap(a.named, b.named, seed=seed)
            row |= {"recall_gain": recall.difference, "recall_ci": [recall.low, recall.high]}
            row |= _ratio(a.invented, b.invented, seed)
        found[name] = row
    return found


def _ratio(after, before, seed: int) -> dict:
    """after / before of two means over the same captions; None where nothing was invented before."""
    if not before.sum():
        return {"invented_ratio": None, "invented_ratio_ci": None}
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(before), size=(2000, len(before)))
    ratios = after[drawn].sum(1) / np.maximum(before[drawn].sum(1), 1e-9)
    return {
        "invented_ratio": float(after.sum() / before.sum()),
        "invented_ratio_ci": [float(q) for q in np.quantile(ratios, [0.025, 0.975])],
    }
