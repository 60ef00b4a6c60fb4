"""`compare`: is one model better than another on the same questions, and is that more than luck?

Runs are paired question by question, so that what makes a question hard for both cancels. Where many
pairs are compared, one of them will look different by chance; Holm's p-values and intervals at the
Bonferroni level hold for all pairs that are shown together.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from labs.errors import InputError
from labs.evaluation.clusters import group_paired_difference
from labs.evaluation.comparisons import bonferroni_confidence, holm, mcnemar
from labs.suites.contract import Measure
from labs.suites.results import Run

CONFIDENCE = 0.95
TAIL = 25  # resamples that shall lie outside an interval on each side, for its ends to be steady
RESAMPLES = 10_000, 50_000  # at least, and at most: beyond fifty pairs the tails get thinner


@dataclass(frozen=True)
class Pair:
    """Two models on one suite. difference: mean score of `first` less that of `second`.

    low, high: 95 % interval of this pair alone. all_low, all_high: intervals of all pairs hold
    together with 95 %. p: two-sided, from the same bootstrap; p_holm: adjusted for all pairs.
    better, worse: questions that `first` answers better, and worse. mcnemar_p and its Holm form: of
    the exact test, where scores are 0 and 1 and no two questions share a group, else None.
    """

    suite: str
    first: str
    second: str
    n: int
    difference: float
    low: float
    high: float
    all_low: float
    all_high: float
    p: float
    p_holm: float
    better: int
    worse: int
    mcnemar_p: float | None = None
    mcnemar_p_holm: float | None = None

    @property
    def sure(self) -> bool:
        """Whether the difference is more than luck, all pairs that were looked at counted."""
        return self.p_holm <= 1 - CONFIDENCE


class Example(NamedTuple):
    """A question on which two runs differ, and what each of them said."""

    id: str
    prompt: str
    answer: Any
    said: dict[str, str]
    score: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """runs: suite -> label -> run. pairs: of all suites. alone: suites that only one run has."""

    runs: dict[str, dict[str, Run]]
    pairs: list[Pair]
    alone: dict[str, str]

    def to_dict(self) -> dict:
        measures = {
            suite: {label: {n: m._asdict() for n, m in run.measures.items()} for label, run in runs.items()}
            for suite, runs in self.runs.items()
        }  # fmt: skip
        pairs = [asdict(pair) | {"sure": pair.sure} for pair in self.pairs]
        return {
            "comparisons": len(pairs), "confidence": CONFIDENCE, "pairs": pairs,
            "measures": measures, "alone": self.alone,
        }  # fmt: skip

    def examples(self, suite: str, first: str, second: str, count: int) -> list[Example]:
        """The questions on which two runs differ most, in the order of the suite where equally."""
        both = [self.runs[suite][label] for label in (first, second)]
        rows = sorted(
            zip(*(run.rows for run in both), strict=True),
            key=lambda pair: -abs(pair[0].score - pair[1].score),
        )
        return [
            Example(
                a.id, a.prompt, a.answer, {first: a.said, second: b.said},
                {first: a.score, second: b.score},
            )
            for a, b in rows[:count]
            if a.score != b.score
        ]  # fmt: skip

    def tables(self) -> list:
        """The measures of each suite side by side, then the pairs, as rich tables."""
        return [*(_measures(suite, runs) for suite, runs in self.runs.items()), self._pairs()]

    def _pairs(self):
        from rich.table import Table
        from rich.text import Text

        count = len(self.pairs)
        table = Table(
            title="Differences of the mean score, question by question",
            caption=f"together: all {count} intervals hold with 95 %. p: Holm's, for {count} "
            f"comparison{'s' * (count > 1)}. * : more than luck at 5 %, all of them counted.",
        )
        table.add_column("first\nless second", overflow="fold", min_width=20)
        table.add_column("difference (95 %)\ntogether", no_wrap=True)
        table.add_column("p\nMcNemar", justify="right")
        table.add_column("better : worse\nof", justify="right")
        for pair in self.pairs:
            exact = pair.mcnemar_p_holm
            table.add_row(
                Text(f"{pair.suite}\n  {pair.first}\n  less {pair.second}"),
                f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})\n"
                f"       {pair.all_low:+.3f} to {pair.all_high:+.3f}",
                f"{_p(pair.p_holm)}{' *' * pair.sure}" + ("" if exact is None else f"\n{_p(exact)}"),
                f"{pair.better} : {pair.worse}\n{pair.n:,}",
            )  # fmt: skip
            table.add_section()
        return table


def _measures(suite: str, runs: dict[str, Run]):
    from rich.table import Table
    from rich.text import Text

    table = Table("measure", title=Text(suite))
    for label in runs:
        table.add_column(Text(label))
    for name in dict.fromkeys(name for run in runs.values() for name in run.measures):
        table.add_row(Text(name), *(shown(run.measures.get(name)) for run in runs.values()))
    return table


def shown(measure: Measure | None) -> str:
    """A measure with its interval, to three digits; large ones (MME's sums) to one."""
    if measure is None:
        return ""
    digits = 3 if abs(measure.value) < 10 else 1
    text = f"{measure.value:.{digits}f}"
    if measure.low is None or measure.high is None:
        return text
    return f"{text} ({measure.low:.{digits}f} to {measure.high:.{digits}f})"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def compare(runs: Sequence[Run], *, seed: int = 0) -> Comparison:
    """Every pair of runs of the same suite, paired by question.

    Differences are of the mean score of a question; a suite's other measures (F1, circular accuracy)
    stand side by side with intervals of their own. Where questions share groups, whole groups are
    drawn. Every pair of every suite counts as a comparison, for Holm and Bonferroni. A suite that only
    one of the runs has is named in `alone`.

    Raises InputError for fewer than two runs, runs of a suite that were asked different questions,
    and where no two have a suite in common. Chapter 7.
    """
    suites: dict[str, list[Run]] = {}
    for run in runs:
        suites.setdefault(run.suite, []).append(run)
    alone = {suite: own[0].model for suite, own in suites.items() if len(own) == 1}
    shared = {suite: own for suite, own in suites.items() if len(own) > 1}
    if not shared:
        told = ", ".join(f"{run.model} on {run.suite}" for run in runs) or "none"
        raise InputError(
            f"No two of the runs given are of the same suite: {told}.",
            "Compare results of two models on one suite, or of two whole models.",
        )
    labelled = {}
    for suite, own in shared.items():
        _check_same(suite, own)
        labelled[suite] = dict(zip(labels(own), own, strict=True))
    chosen = [
        (suite, *pair)
        for suite, own in labelled.items()
        for pair in itertools.combinations(own.items(), 2)
    ]
    pairs = [_pair(suite, a, b, len(chosen), seed) for suite, a, b in chosen]
    return Comparison(labelled, _adjusted(pairs), alone)


def _check_same(suite: str, runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.fingerprint == first.fingerprint and [r.id for r in run.rows] == [
            r.id for r in first.rows
        ]:
            continue
        before, now = (json.dumps(r.config["suite"].get("settings")) for r in (first, run))
        differ = f": {before} and {now}" if before != now else ""
        raise InputError(
            f"{first.folder} and {run.folder} were asked different questions of {suite}{differ}.",
            "Compare runs with the same settings, made by the same version of the suite.",
        )


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: the model's, with as much of its folder as tells two of one name apart."""
    folders = [Path(run.folder).resolve() for run in runs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise InputError(f"The run in {twice[0]} is given twice.", "Give each run once.")
    for tell in (
        lambda run, folder: run.model,
        lambda run, folder: f"{run.model} ({folder.parent.name}/{folder.name})",
    ):
        names = [tell(run, folder) for run, folder in zip(runs, folders, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"{run.model} ({folder})" for run, folder in zip(runs, folders, strict=True)]


def _pair(
    suite: str, first: tuple[str, Run], second: tuple[str, Run], count: int, seed: int
) -> Pair:
    (name, a), (other, b) = first, second
    scores = [[row.score for row in run.rows] for run in (a, b)]
    groups = [row.group for row in a.rows]
    units = groups.count(None) + len({*groups} - {None})
    shared = groups if units < len(groups) else None
    together = bonferroni_confidence(count, CONFIDENCE)
    # The tails of the joint interval are thin, and p-values are multiplied by the comparisons.
    resamples = min(max(RESAMPLES[0], round(2 * TAIL / (1 - together))), RESAMPLES[1])
    alone = group_paired_difference(
        *scores, shared, confidence=CONFIDENCE, resamples=resamples, seed=seed
    )
    joint = group_paired_difference(
        *scores, shared, confidence=together, resamples=resamples, seed=seed
    )
    binary = {score for own in scores for score in own} <= {0.0, 1.0}
    return Pair(
        suite, name, other, len(groups), alone.difference, alone.low, alone.high, joint.low, joint.high,
        p=alone.p_value, p_holm=alone.p_value,
        better=sum(x > y for x, y in zip(*scores, strict=True)),
        worse=sum(x < y for x, y in zip(*scores, strict=True)),
        mcnemar_p=mcnemar(*scores).exact_p if binary and shared is None else None,
    )  # fmt: skip


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with Holm's p-values over all of them."""
    by_bootstrap = holm([pair.p for pair in pairs])
    exact = [k for k, pair in enumerate(pairs) if pair.mcnemar_p is not None]
    by_mcnemar: dict[int, float] = {}
    if exact:
        # Of as many tests as there are comparisons: those without one count as a p of 1.
        tested = holm([1.0 if p.mcnemar_p is None else p.mcnemar_p for p in pairs])
        by_mcnemar = {k: float(tested[k]) for k in exact}
    return [
        Pair(**asdict(pair) | {"p_holm": float(p), "mcnemar_p_holm": by_mcnemar.get(k)})
        for k, (pair, p) in enumerate(zip(pairs, by_bootstrap, strict=True))
    ]
