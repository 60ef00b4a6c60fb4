"""What a judge's verdicts are worth: who wins, and how far place, length and self decide it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from labs.errors import InputError
from labs.evaluation.agreement import cohens_kappa, kappa_ci
from labs.suites.contract import Measure
from labs.suites.judge.judging import Judgements
from labs.suites.judge.length import length_controlled_win_rate
from labs.suites.judge.means import RESAMPLES, group_mean
from labs.suites.judge.pairs import MIRROR

POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}

# name -> what it is, for tables. A is the first run, B the second.
TITLES = {
    "win_rate": "A wins over B, ties half",
    "win_rate_oracle": "the same, by the oracle",
    "win_rate_at_equal_length": "A wins over B at equal length",
    "win_rate_at_equal_length_oracle": "the same, by the oracle",
    "consistency": "both orders agree",
    "first_place": "verdicts for the first place (0.5: no preference)",
    "always_first": "pairs where the first place won both times",
    "always_second": "pairs where the second place won both times",
    "kappa": "Cohen's kappa with the oracle",
    "kappa_one_order": "the same, one order asked",
    "kappa_unnamed": "the same, not knowing which model is which",
    "agreement": "same winner as the oracle",
    "agreement_decided": "right where the oracle has a winner, ties half (0.5: chance)",
    "longer_wins": "the longer answer wins, where both name a winner",
    "longer_wins_oracle": "the same, by the oracle",
    "length_bias": "the difference: what length wins beyond truth",
    "own_wins": "the judge's own answer wins, where both name a winner",
    "own_wins_oracle": "the same, by the oracle",
    "self_preference": "the difference: what being its own wins beyond truth",
}


@dataclass(frozen=True)
class Report:
    """counts: pairs, those of two equal texts, those without a readable verdict, …
    measures: by name (TITLES), those that can be had: the rest needs two orders, or the oracle."""

    judge: dict
    authors: tuple[str, str]
    counts: dict[str, int]
    measures: dict[str, Measure] = field(default_factory=dict)

    def to_dict(self) -> dict:
        measures = {name: measure._asdict() for name, measure in self.measures.items()}
        return {
            "judge": self.judge, "first": self.authors[0], "second": self.authors[1],
            "counts": self.counts, "measures": measures,
        }  # fmt: skip


def report(
    judgements: Judgements,
    truth: Judgements | None = None,
    *,
    authors: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Report:
    """Sums up a judge's verdicts, held against the oracle's where they are given.

    truth: `judge_pairs(OracleJudge(), …)` on the same pairs. authors: the models that wrote the first
    and the second answers; where the judge's model is one of them, self-preference is measured.

    Pairs without a readable verdict are left out and counted (`counts["unreadable"]`); ties count
    half. Pairs of two equal texts are ties in the win rates and left out of everything else: on them
    every judge agrees with every other.

        first_place      of all verdicts that are no tie, over both orders: 0.5 unless place decides
        kappa            winners {first, second, tie} against the oracle's, after both orders
        kappa_one_order  the same from the forward verdicts alone: what one saves by not swapping
        kappa_unnamed    the same with each pair counted both ways round. Where one model nearly always
                         wins, a judge who always names it is right nearly always, and `kappa` is 0: it
                         does not know which pairs are the others. This one is not, since naming that
                         model takes seeing the answers. Read both, and the share of agreement.
        length_bias      how often the longer answer wins by the judge, minus by the oracle, of the
                         pairs in which both name a winner
        self_preference  the same of the answers that the judge's own model wrote

    Intervals are 95 %; whole groups are drawn. Raises InputError where `truth` is of other pairs.

    Zheng et al. 2023, arXiv:2306.05685; Cohen 1960. Chapter 7.
    """
    if truth and [p.id for p in truth.pairs] != [p.id for p in judgements.pairs]:
        raise InputError(
            "The oracle's verdicts are of other pairs than the judge's.",
            "Judge the same pairs, in the same order, with both.",
        )
    sums = _Sums(judgements, truth, seed)
    measures = {**_wins(sums), **_places(sums), **_agreement(sums), **_lengths(sums)}
    measures |= _self(sums, authors)
    winners = judgements.winners
    counts = {
        "pairs": len(winners),
        "identical": len(winners) - len(judgements.judged),
        "unreadable": winners.count(None),
        "inconsistent": sum(
            a is not None and b is not None and a != b
            for a, b in zip(*_orders(judgements), strict=True)
        ),
        **judgements.notes,
    }
    ordered = {name: measures[name] for name in TITLES if measures.get(name)}
    return Report(judgements.judge, authors, counts, ordered)


class _Sums:
    """Verdicts as numbers, and means of them with intervals over groups."""

    def __init__(self, judgements: Judgements, truth: Judgements | None, seed: int):
        self.judgements, self.pairs, self.seed = judgements, judgements.pairs, seed
        self.winners = judgements.winners
        self.true = truth.winners if truth else None
        names = [p.group if p.group is not None else ("alone", p.id) for p in self.pairs]
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.group = [number[name] for name in names]
        self.readable = [i for i, winner in enumerate(self.winners) if winner is not None]
        asked = set(judgements.judged)
        self.asked = [i for i in self.readable if i in asked]

    def mean(
        self, places: Sequence[int], values: Sequence[float], share: bool = True
    ) -> Measure | None:
        """Mean of one value a place (a place may come twice), drawn by the groups of the pairs."""
        return group_mean(values, [self.group[i] for i in places], self.seed, share)


def _orders(judgements: Judgements) -> tuple[list[str | None], list[str | None]]:
    """Winners by the forward and by the backward verdicts alone."""
    forward = list(judgements.forward)
    if judgements.backward is None:
        return forward, forward
    return forward, [MIRROR[verdict] for verdict in judgements.backward]


def _wins(sums: _Sums) -> dict[str, Measure | None]:
    readable = sums.readable
    points = [POINTS[sums.winners[i]] for i in readable]
    found = {"win_rate": sums.mean(readable, points)}
    if sums.true:
        places = [i for i in readable if sums.true[i] is not None]
        found["win_rate_oracle"] = sums.mean(places, [POINTS[sums.true[i]] for i in places])
    lengths = [(len(sums.pairs[i].first), len(sums.pairs[i].second)) for i in readable]
    if len(readable) > 1 and any(a != b for a, b in lengths):
        found["win_rate_at_equal_length"] = _at_equal_length(sums, readable, sums.winners)
        if sums.true:
            places = [i for i in readable if sums.true[i] is not None]
            found["win_rate_at_equal_length_oracle"] = _at_equal_length(sums, places, sums.true)
    return found


def _at_equal_length(sums: _Sums, places: Sequence[int], winners: Sequence) -> Measure:
    groups = [sums.group[i] for i in places]
    number = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    rate, low, high = length_controlled_win_rate(
        [POINTS[winners[i]] for i in places],
        [len(sums.pairs[i].first) for i in places],
        [len(sums.pairs[i].second) for i in places],
        seed=sums.seed, groups=[number[group] for group in groups],
    )  # fmt: skip
    low, high = (None, None) if low == high else (low, high)  # nothing but ties
    return Measure(rate, low, high, len(places))


def _places(sums: _Sums) -> dict[str, Measure | None]:
    """Only both orders of a judge that sees both answers tell the place from the answer."""
    judgements = sums.judgements
    if judgements.backward is None or judgements.pointwise:
        return {}
    both = sums.asked
    said = [(judgements.forward[i], judgements.backward[i]) for i in both]
    decided = [
        (i, float(verdict == "first"))
        for i in judgements.judged
        for verdict in (judgements.forward[i], judgements.backward[i])
        if verdict in ("first", "second")
    ]

    def share(wanted) -> Measure | None:
        return sums.mean(both, [float(wanted(*verdicts)) for verdicts in said])

    return {
        "consistency": share(lambda a, b: POINTS[a] == 1 - POINTS[b]),
        "first_place": sums.mean([i for i, _ in decided], [value for _, value in decided]),
        "always_first": share(lambda a, b: a == b == "first"),
        "always_second": share(lambda a, b: a == b == "second"),
    }


def _agreement(sums: _Sums) -> dict[str, Measure | None]:
    if not sums.true:
        return {}
    places = [i for i in sums.asked if sums.true[i] is not None]
    mine, true = [sums.winners[i] for i in places], [sums.true[i] for i in places]
    decided = [i for i in places if sums.true[i] != "tie"]
    rights = [1 - abs(POINTS[sums.winners[i]] - POINTS[sums.true[i]]) for i in decided]
    groups = [sums.group[i] for i in places]
    turned = [[*labels, *(MIRROR[label] for label in labels)] for labels in (mine, true)]
    unnamed = _kappa(*turned, groups * 2, sums.seed)
    found = {
        "kappa": _kappa(mine, true, groups, sums.seed),
        "kappa_unnamed": unnamed and unnamed._replace(n=len(places)),
        "agreement": sums.mean(places, [float(a == b) for a, b in zip(mine, true, strict=True)]),
        "agreement_decided": sums.mean(decided, rights),
    }
    if not sums.judgements.pointwise and sums.judgements.backward is not None:
        forward = [sums.judgements.forward[i] for i in places]
        found["kappa_one_order"] = _kappa(forward, true, groups, sums.seed)
    return found


def _kappa(first, second, groups, seed: int) -> Measure | None:
    if not first or len({*first, *second}) < 2:
        return None  # one label in all: agreement by chance is certain, kappa is 0/0
    value = float(cohens_kappa(first, second))
    if len(set(groups)) < 2:
        return Measure(value, None, None, len(first))
    low, high = kappa_ci(first, second, groups=groups, resamples=RESAMPLES, seed=seed)
    return Measure(value, float(low), float(high), len(first))


def _lengths(sums: _Sums) -> dict[str, Measure | None]:
    sides = {
        i: "first" if len(sums.pairs[i].first) > len(sums.pairs[i].second) else "second"
        for i in sums.asked
        if len(sums.pairs[i].first) != len(sums.pairs[i].second)
    }
    return _against_truth(sums, sides, "longer_wins", "length_bias")


def _self(sums: _Sums, authors: tuple[str, str]) -> dict[str, Measure | None]:
    model = sums.judgements.judge.get("model")
    if authors[0] == authors[1] or model not in authors:
        return {}
    own = "first" if authors[0] == model else "second"
    return _against_truth(sums, dict.fromkeys(sums.asked, own), "own_wins", "self_preference")


def _against_truth(sums: _Sums, sides: dict[int, str], name: str, bias: str):
    """How often one side of each pair wins, by the judge, by the oracle, and the difference.

    Of the pairs in which both name a winner: a judge who says tie to everything has no bias, but half
    a win a pair.
    """
    decided = ("first", "second")
    places = [i for i in sides if sums.winners[i] in decided]
    if sums.true:
        places = [i for i in places if sums.true[i] in decided]
    mine = [float(sums.winners[i] == sides[i]) for i in places]
    found = {name: sums.mean(places, mine)}
    if sums.true:
        true = [float(sums.true[i] == sides[i]) for i in places]
        differences = [a - b for a, b in zip(mine, true, strict=True)]
        found[f"{name}_oracle"] = sums.mean(places, true)
        found[bias] = sums.mean(places, differences, share=False)
    return found
