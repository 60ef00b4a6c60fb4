"""People who compare two answers, simulated: noise, and the biases that real ones have. Chapter 5."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from labs.errors import InputError
from labs.shapes import parse_yes_no, seeded


@dataclass(frozen=True)
class Annotator:
    """Prefers one of two answers, the better one more often.

        P(first over second) = sigmoid(d / noise)
        d = quality_1 - quality_2 + length_bias · (length_1 - length_2) / max(length_1, length_2)
            + position_bias + yes_bias · (yes_1 - yes_2)

    noise: the scale of the Bradley-Terry model; 0 always prefers the answer with the higher d, and
    throws a coin where d is 0. At noise 0.5 an answer better by 1 wins 88 % of the time, as people
    agree on easy pairs; at 0.2 it wins 99.3 %.
    length_bias: what twice as long an answer gains is half of it; lengths are characters.
    position_bias: what the answer shown first gains. yes_bias: what an answer that says yes gains.
    seed: of this person; asked the same again, the same is said.

    Bradley and Terry 1952; length and position bias as measured in judges by Zheng et al. 2023
    (MT-Bench), arXiv:2306.05685. Chapter 5.
    """

    noise: float = 0.5
    length_bias: float = 0.0
    position_bias: float = 0.0
    yes_bias: float = 0.0
    seed: int = 0

    def __post_init__(self):
        fields = (self.noise, self.length_bias, self.position_bias, self.yes_bias)
        if not all(map(math.isfinite, fields)) or self.noise < 0:
            raise InputError(
                f"An annotator has noise {self.noise} and biases {fields[1:]}.",
                "Noise is 0 or more, biases are any finite numbers.",
            )

    def advantage(self, first: "Judged", second: "Judged") -> float:
        """d: how much better the first answer looks to this person."""
        longest = max(len(first.text), len(second.text), 1)
        length = (len(first.text) - len(second.text)) / longest
        yes = (parse_yes_no(first.text) == "yes") - (parse_yes_no(second.text) == "yes")
        return (
            first.quality - second.quality
            + self.length_bias * length + self.position_bias + self.yes_bias * yes
        )  # fmt: skip

    def probability(self, first: "Judged", second: "Judged") -> float:
        """That the first answer shown is preferred."""
        d = self.advantage(first, second)
        if self.noise == 0:
            return 0.5 if d == 0 else float(d > 0)
        x = max(-700.0, min(700.0, d / self.noise))  # e^700 is still a float
        return 1 / (1 + math.exp(-x))

    def compare(self, first: "Judged", second: "Judged", key: str) -> float:
        """How much better the first answer seems this time: d + noise · L, L from the logistic law.

        Above 0 it is preferred, which happens with `probability`; the size is what a person says who
        is asked how much better. The same for the same (seed, key).
        """
        u = seeded("annotator", self.seed, key).random() or 0.5  # 0 has no logarithm
        d = self.advantage(first, second)
        if self.noise == 0 and d == 0:
            return math.copysign(1e-9, 0.5 - u)  # a coin
        return d + self.noise * math.log((1 - u) / u)


@dataclass(frozen=True)
class Judged:
    """An answer and how good it is (`answer_quality`)."""

    text: str
    quality: float


@dataclass(frozen=True)
class Votes:
    """What each annotator said of a pair (a, b).

    strength: how much better a seems, below 0 where b is preferred. a_first: was shown a first.
    """

    strength: tuple[float, ...]
    a_first: tuple[bool, ...]

    @property
    def for_a(self) -> tuple[bool, ...]:
        """Who prefers a."""
        return tuple(s > 0 for s in self.strength)

    @property
    def majority(self) -> bool | None:
        """Whether most prefer a; None where they are split evenly."""
        twice = 2 * sum(self.for_a)
        return None if twice == len(self.for_a) else twice > len(self.for_a)

    @property
    def agreement(self) -> float:
        """The share of the votes that the majority has, 0.5 (split) to 1."""
        share = sum(self.for_a) / len(self.for_a)
        return max(share, 1 - share)


def panel(size: int, seed: int = 0, **fields) -> tuple[Annotator, ...]:
    """`size` annotators who differ in their seed only: their noise makes them disagree."""
    if size < 1:
        raise InputError(f"A panel of {size} annotators is asked for.", "Ask for one at least.")
    return tuple(Annotator(**fields, seed=seed * 1000 + i) for i in range(size))


def vote(annotators: Sequence[Annotator], a: Judged, b: Judged, key: str) -> Votes:
    """Shows the pair to each annotator, in an order drawn for each, and collects what they prefer."""
    strength, a_first = [], []
    for annotator in annotators:
        shown = seeded("order", annotator.seed, key).random() < 0.5
        if shown:
            strength.append(annotator.compare(a, b, key))
        else:
            strength.append(-annotator.compare(b, a, key))
        a_first.append(shown)
    return Votes(tuple(strength), tuple(a_first))
