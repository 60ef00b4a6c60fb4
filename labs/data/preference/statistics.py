"""What is in a list of preference pairs: margins, lengths, and pairs that teach nothing. Chapter 5."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from labs.data.preference.keys import pair_key, truncated
from labs.errors import InputError
from labs.formats import Preference


@dataclass(frozen=True)
class PreferenceStatistics:
    """Of `n` pairs. Shares are of the pairs that say something of it; None where none does.

    useless: tied, or else a duplicate (the same two answers to the same prompt, also the other way
    round), or else equal after truncation; each pair is counted once. contradicted: duplicates
    whose labels are the other way round. chosen_length, rejected_length: mean characters.
    chosen_longer: share of the chosen answers that are longer, of pairs of unequal length: far from
    0.5, a reward model can learn length instead. From `meta` of pairs made by `make_pairs`: margin
    (mean quality of the chosen less the rejected one), mislabelled (share with a negative margin, of
    those unequal), agreement (mean share of the majority, where two or more voted), first (share of votes for what was shown
    first: position bias).
    """

    n: int
    tied: int
    duplicates: int
    contradicted: int
    truncated: int
    chosen_length: float
    rejected_length: float
    chosen_longer: float | None
    margin: float | None
    mislabelled: float | None
    agreement: float | None
    first: float | None

    @property
    def useless(self) -> int:
        return self.tied + self.duplicates + self.truncated

    @property
    def useless_share(self) -> float:
        return self.useless / self.n

    def to_dict(self) -> dict:
        return {**asdict(self), "useless": self.useless, "useless_share": self.useless_share}

    def check(self, limit: float = 0.05) -> None:
        """Raise InputError if more than `limit` of the pairs teach nothing."""
        if self.useless_share > limit:
            raise InputError(
                f"{self.useless:,} of {self.n:,} pairs ({100 * self.useless_share:.1f} %) teach nothing: "
                f"{self.tied:,} tied, {self.duplicates:,} duplicates, {self.truncated:,} equal after "
                f"truncation; the limit is {100 * limit:g} %.",
                "Drop them, or raise the length that answers are cut to.",
            )


def preference_statistics(
    pairs: Iterable[Preference],
    tokenize: Callable[[str], Sequence] | None = None,
    max_tokens: int | None = None,
) -> PreferenceStatistics:
    """The statistics of `pairs`; with `tokenize` and `max_tokens` also what truncation makes equal.

    Raises InputError for no pairs, and for one of tokenize and max_tokens alone. Chapter 5.
    """
    if (tokenize is None) != (max_tokens is None):
        raise InputError("Only one of `tokenize` and `max_tokens` was given.", "Pass both.")
    tied = duplicates = contradicted = cut = n = 0
    lengths, longer, margins, agreements, first = [], [], [], [], []
    seen: dict[tuple, str] = {}
    for pair in pairs:
        n += 1
        texts = pair.chosen.strip(), pair.rejected.strip()
        key = pair_key(pair.prompt, pair.images, texts)
        if texts[0] == texts[1]:
            tied += 1
        elif key in seen:
            duplicates += 1
            contradicted += seen[key] != texts[0]
        elif tokenize:
            a, b = (truncated(text, tokenize, max_tokens) for text in texts)
            cut += a == b
        seen.setdefault(key, texts[0])
        lengths.append((len(texts[0]), len(texts[1])))
        if len(texts[0]) != len(texts[1]):
            longer.append(len(texts[0]) > len(texts[1]))
        margins += _margin(pair.meta)
        votes, shown = pair.meta.get("votes"), pair.meta.get("first")
        if isinstance(votes, list) and len(votes) > 1:
            agreements.append(sum(map(bool, votes)) / len(votes))
        if isinstance(votes, list) and isinstance(shown, list) and len(votes) == len(shown):
            first += [bool(v) == bool(f) for v, f in zip(votes, shown, strict=True)]
    if not n:
        raise InputError("There are no preference pairs.", "Check what was selected.")
    return PreferenceStatistics(
        n, tied, duplicates, contradicted, cut,
        sum(a for a, _ in lengths) / n, sum(b for _, b in lengths) / n,
        _mean(longer), _mean(margins), _mean([m < 0 for m in margins if m]),
        _mean(agreements), _mean(first),
    )  # fmt: skip


def _margin(meta: dict) -> list[float]:
    quality = meta.get("quality")
    if not isinstance(quality, list) or len(quality) != 2:
        return []
    if not all(isinstance(q, int | float) for q in quality):
        return []
    return [quality[0] - quality[1]]


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None
