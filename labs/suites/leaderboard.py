"""A leaderboard of models that answered the same questions: ratings, intervals, and which ranks are sure.

Every pair of models on every question that both were asked is a game. The higher score wins it, equal
scores tie, and Bradley-Terry ratings (`labs.evaluation.ratings`) say how strong each model is:

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))

*Ties.* Two right answers, or two wrong ones, say nothing about who is better: only questions that one
of the two got right do (McNemar's test looks at no others). A tie is half a win for each here, so it
moves no model past another. It pulls the two ratings together: 400 points are odds of ten to one on
a question drawn from all of them, not on one that tells the two apart.

*What this adds to accuracy.* Where all models answered all questions and scores are 0 or 1, nothing
about the order: a model's wins are then half the number of models times its accuracy, plus a constant,
and the ratings order models as accuracy does. The gain is where they did not. Accuracy on an easy half
cannot be compared with accuracy on a hard half; a win over a model that others have beaten can be, and
so two models that never met are rated through those that both have met.

*Ranks.* 95 % intervals of two models may overlap and their order be sure all the same, for the luck of
the questions is shared by both. So ranks come from intervals of rating differences, made on the same
drawn questions, and wide enough that all pairs hold together with 95 % (Bonferroni):

    best rank  = 1 + number of models surely better      worst rank = M - number of models surely worse

Models that cannot be told apart share ranks. Bradley and Terry 1952; Mogstad, Romano, Shaikh and
Wilhelm 2024, "Inference for ranks" (rank ranges from simultaneous differences). Chapter 7.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

from rich.table import Table
from rich.text import Text

from labs.errors import InputError
from labs.evaluation.comparisons import bonferroni_confidence
from labs.evaluation.ratings import bradley_terry
from labs.suites.contract import Measure, Row
from labs.suites.results import Run
from labs.suites.summary import mean_of, unparsed

RESAMPLES = 3_999
MOST = (
    20_000  # resamples for differences, whose intervals have thinner tails the more pairs there are
)


@dataclass(frozen=True)
class Standing:
    """One model on the board. rating, low, high: points, 95 % interval. ranks: the best and the worst
    that it may have. score: the mean over the questions it was asked. wins, ties, losses: games.
    unparsed: the share of its answers that could not be read (they score 0)."""

    model: str
    rating: float
    low: float
    high: float
    ranks: tuple[int, int]
    score: Measure
    wins: int
    ties: int
    losses: int
    unparsed: float

    @property
    def games(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def rank(self) -> str:
        """ "1" where it is sure, else "1-3"."""
        best, worst = self.ranks
        return str(best) if best == worst else f"{best}-{worst}"


@dataclass(frozen=True)
class Board:
    """Models, best rating first. suites: what they were asked. questions: those that were games.

    notes: what a reader must know before comparing, a sentence each.
    """

    standings: tuple[Standing, ...]
    suites: tuple[str, ...]
    questions: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict:
        """JSON: the fields, and `games` and `rank` of each model."""
        found = asdict(self)
        for entry, standing in zip(found["standings"], self.standings, strict=True):
            entry |= {
                "games": standing.games,
                "rank": standing.rank,
                "score": standing.score._asdict(),
            }
        return found

    def table(self) -> Table:
        """For the terminal."""
        title = f"{', '.join(self.suites)}: {self.questions:,} questions"
        table = Table(title=Text(title), caption=Text("\n".join((CAPTION, *self.notes))))
        table.add_column("rank", justify="right")
        # Folded, not cut: the ends of names are often what tells models apart.
        table.add_column(
            "model", overflow="fold", min_width=min(14, max(len(s.model) for s in self.standings))
        )
        for name in ("rating", "95 %", "score", "95 %", "won / tied / lost", "unparsed"):
            table.add_column(name, justify="right")
        for s in self.standings:
            table.add_row(
                s.rank, Text(s.model), f"{s.rating:.0f}", f"{s.low:.0f} to {s.high:.0f}",
                percent(s.score.value), percents(s.score),
                f"{s.wins:,} / {s.ties:,} / {s.losses:,}", percent(s.unparsed),
            )  # fmt: skip
        return table

    def figure(self):
        """A matplotlib figure: each model's rating with its interval, the best on top."""
        if importlib.util.find_spec("matplotlib") is None:
            raise InputError(
                "The leaderboard is drawn with matplotlib, which is not installed.",
                "Install the extra `book`, or write the page with --html.",
            )
        from matplotlib.figure import Figure

        count = len(self.standings)
        figure = Figure(figsize=(7, 1.1 + 0.42 * count), layout="constrained")
        axes = figure.subplots()
        for place, s in enumerate(self.standings):
            # The percentile interval need not hold the rating itself in a tiny sample.
            reach = [[max(0.0, s.rating - s.low)], [max(0.0, s.high - s.rating)]]
            axes.errorbar(s.rating, place, xerr=reach, fmt="o", color="C0", capsize=3)
            axes.annotate(
                f"{s.rating:.0f}", (s.rating, place), (0, 6), textcoords="offset points",
                ha="center", fontsize=8,
            )  # fmt: skip
        # A model's name is no formula, whatever dollar signs it holds.
        names = [f"{_cut(s.model)}   {s.rank}".replace("$", r"\$") for s in self.standings]
        axes.set_yticks(range(count), names)
        axes.set_ylim(count - 0.5, -0.7)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Bradley-Terry rating, 95 % interval")
        suites = ", ".join(self.suites).replace("$", r"\$")
        axes.set_title(f"{suites}: {self.questions:,} questions", loc="left", fontsize=10)
        return figure


CAPTION = (
    "Every pair of models on every question is a game. "
    "Where ranks are a range, the questions do not tell those models apart."
)


def leaderboard(
    runs: Sequence[Run], *, prior: float = 1.0, resamples: int = RESAMPLES, seed: int = 0
) -> Board:
    """The board of finished runs: several models, one suite or more, one run for each pair of both.

    Games are played on questions that two runs of one suite share (the same id, with the same prompt
    and right answer). Intervals draw whole groups of questions, a picture with all that was asked
    about it. `prior`: see `bradley_terry`.

    Raises InputError for fewer than two models, two runs of a model on one suite, runs that ask
    something else under one id, a suite whose answers are held back, models without a chain of
    common questions between them, and a single group.
    """
    asked = _by_suite(runs)
    games, groups, questions = _games(asked)
    if not games:
        raise InputError(
            "No two of these runs share a question, so no model met another.",
            "Give runs of the same suite with the same settings.",
        )
    names = list(dict.fromkeys(run.model for run in runs))
    if alone := [name for name in names if not any(name in game for game in games)]:
        raise InputError(
            f"{alone[0]} shares no question with any other model.",
            "Run it on the same suite with the same settings, or leave it out.",
        )
    rated = bradley_terry(games, groups=groups, prior=prior, resamples=resamples, seed=seed)
    better = _surely_better(games, groups, names, prior, resamples, seed)
    results = {name: [0, 0, 0] for name in names}
    for a, b, outcome in games:
        results[a][int(2 - 2 * outcome)] += 1
        results[b][int(2 * outcome)] += 1
    standings = []
    for name, rating in rated.items():
        rows = [
            replace(row, group=_group(suite, row))
            for suite, by_model in asked.items()
            for row in by_model.get(name, {}).values()
        ]
        above = sum((other, name) in better for other in names)
        below = sum((name, other) in better for other in names)
        standings.append(
            Standing(
                name, rating.rating, rating.low, rating.high, (1 + above, len(names) - below),
                mean_of(rows, lambda row: row.score), *results[name], unparsed(rows).value,
            )
        )  # fmt: skip
    return Board(tuple(standings), tuple(asked), questions, _notes(asked, names))


def _by_suite(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Row]]]:
    """suite -> model -> id -> row, checked."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for run in runs:
        models = found.setdefault(run.suite, {})
        if run.model in models:
            raise InputError(
                f"{run.model} has two runs of {run.suite}; the second is {run.folder}.",
                "Give one of them: a model cannot play against itself.",
            )
        if all(row.answer is None for row in run.rows):
            raise InputError(
                f"The run in {run.folder} has no right answers: {run.suite} keeps them back.",
                "Give runs of a split whose answers are known.",
            )
        models[run.model] = {row.id: row for row in run.rows}
    if len({run.model for run in runs}) < 2:
        raise InputError("A leaderboard of one model has no games.", "Give runs of two or more.")
    for suite, models in found.items():
        first: dict[str, tuple[str, Row]] = {}
        for model, rows in models.items():
            for id, row in rows.items():
                other, known = first.setdefault(id, (model, row))
                if (row.prompt, row.answer, row.group) != (known.prompt, known.answer, known.group):
                    raise InputError(
                        f"{other} and {model} were asked different questions under {id} of {suite}.",
                        "Run both on the same file with the same settings.",
                    )
    return found


def _games(asked: dict) -> tuple[list[tuple[str, str, float]], list[str], int]:
    """(first, second, outcome) of every pair on every shared question, the group of each, and on how
    many questions there was a game."""
    games, groups, met = [], [], set()
    for suite, models in asked.items():
        for a, b in combinations(models, 2):
            for id, row in models[a].items():
                other = models[b].get(id)
                if other is None or row.answer is None:
                    continue
                games.append(
                    (a, b, (1 + (row.score > other.score) - (row.score < other.score)) / 2)
                )
                groups.append(_group(suite, row))
                met.add((suite, id))
    return games, groups, len(met)


def _group(suite: str, row: Row) -> str:
    return f"{suite}/{row.id}" if row.group is None else f"{suite}//{row.group}"


def _surely_better(games, groups, names, prior, resamples, seed) -> set[tuple[str, str]]:
    """(better, worse) of all pairs whose difference in rating has an interval on one side of 0.

    With one model as the anchor every other's interval is that of its distance to it.
    """
    pairs = len(names) * (len(names) - 1) // 2
    confidence = bonferroni_confidence(pairs)
    resamples = min(resamples * pairs, max(resamples, MOST))
    found = set()
    for anchor in names[:-1]:
        rated = bradley_terry(
            games, groups=groups, prior=prior, anchor=anchor, confidence=confidence,
            resamples=resamples, seed=seed,
        )  # fmt: skip
        level = rated[anchor].rating
        for other in names[names.index(anchor) + 1 :]:
            if rated[other].low > level:
                found.add((other, anchor))
            elif rated[other].high < level:
                found.add((anchor, other))
    return found


def _notes(asked: dict, names: Sequence[str]) -> tuple[str, ...]:
    notes = []
    for suite, models in asked.items():
        if missing := [name for name in names if name not in models]:
            notes.append(f"{', '.join(missing)} did not answer {suite}.")
        counts = {model: len(rows) for model, rows in models.items()}
        shared = set.intersection(*(set(rows) for rows in models.values()))
        if any(count != len(shared) for count in counts.values()):
            told = ", ".join(f"{model} {count:,}" for model, count in counts.items())
            notes.append(f"Not all were asked the same questions of {suite} ({told}): compare ratings, not scores.")  # fmt: skip
    return tuple(notes)


def percent(share: float) -> str:
    """A share for a table: 61.5 %."""
    return f"{100 * share:.1f} %"


def percents(measure: Measure) -> str:
    """An interval for a table: 58.1 % to 64.8 %; nothing where a single group gives none."""
    if measure.low is None or measure.high is None:
        return ""
    return f"{percent(measure.low)} to {percent(measure.high)}"


def _cut(name: str, length: int = 40) -> str:
    """A long name's end, where models differ."""
    return name if len(name) <= length else "…" + name[1 - length :]
