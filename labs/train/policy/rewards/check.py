"""A reward is somebody's program: what it returns is looked at before anything is learnt from it."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

from labs.errors import InputError
from labs.train.policy.completion import Completion, Reward
from labs.train.policy.prompts import Prompt


class RewardSkips:
    """Counts completions seen and those without a usable reward, by reason.

    `check()` is for the training loop: it raises InputError once more than `limit` of at least
    `minimum` completions were skipped, unless `allow` is set. `state_dict` goes into checkpoints.
    """

    def __init__(self, limit: float = 0.01, allow: bool = False, minimum: int = 100):
        self.limit, self.allow, self.minimum = limit, allow, minimum
        self.seen = 0
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}  # the first of each reason

    def add(self, reason: str, example: str) -> None:
        """Count a skipped completion."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, example)

    @property
    def total(self) -> int:
        """Completions skipped so far."""
        return sum(self.counts.values())

    def check(self) -> None:
        """Raise InputError, with the first example, if too many were skipped."""
        if self.allow or self.seen < self.minimum or self.total <= self.limit * self.seen:
            return
        reason = max(self.counts, key=self.counts.get)
        reasons = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        raise InputError(
            f"{self.total:,} of {self.seen:,} completions have no usable reward ({reasons}; the "
            f"limit is {100 * self.limit:g} %). For example: {self.examples[reason]}",
            "Mend the reward, or add one that judges these prompts; allow_skips=true goes on "
            "without them.",
        )

    def state_dict(self) -> dict:
        return {
            "seen": self.seen, "counts": dict(self.counts), "examples": dict(self.examples)
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self.seen = state["seen"]
        self.counts, self.examples = dict(state["counts"]), dict(state["examples"])


class Scores(NamedTuple):
    """values: a float, or None where the reward says nothing or what it said is no finite number.

    broken: which of them are None because they were NaN or infinite.
    """

    values: list[float | None]
    broken: list[bool]


def run_reward(
    reward: Reward, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> Scores:
    """What a reward says of each completion.

    Numbers are anything that `float` takes as one: NumPy scalars, one-element tensors, True. NaN and
    infinities come back as None, marked in `broken`: one bad score shall not spoil a batch.

    Raises InputError, naming the reward and an example, if it raises (its exception is the cause),
    returns something else than one score a completion, or scores that are no numbers. Chapter 5.
    """
    name = name_of(reward)
    try:
        given = reward(prompts, completions)
    except InputError:
        raise
    except Exception as error:
        at = _culprit(reward, prompts, completions)
        raise InputError(
            f"The reward {name!r} raised {type(error).__name__}: {str(error)[:200] or 'no message'}. "
            f"Example: {describe(prompts[at], completions[at]) if prompts else 'an empty batch'}.",
            "Mend the reward; --debug shows where it happened.",
        ) from error
    if isinstance(given, str | dict) or not hasattr(given, "__len__"):
        raise InputError(
            f"The reward {name!r} returned {type(given).__name__}, not a list of scores.",
            "Return one number or None for each completion, in their order.",
        )
    if len(given) != len(completions):
        example = f" The first: {describe(prompts[0], completions[0])}." if prompts else ""
        raise InputError(
            f"The reward {name!r} returned {len(given)} scores for {len(completions)} completions.{example}",
            "Return one number or None for each completion, in their order.",
        )
    values: list[float | None] = []
    broken: list[bool] = []
    for score, prompt, completion in zip(given, prompts, completions, strict=True):
        value = None if score is None else _number(score)
        if score is not None and value is None:
            raise InputError(
                f"The reward {name!r} returned {score!r:.80} as a score. "
                f"Example: {describe(prompt, completion)}.",
                "Return numbers, or None where the reward says nothing.",
            )
        broken.append(value is not None and not math.isfinite(value))
        values.append(None if broken[-1] else value)
    return Scores(values, broken)


def name_of(reward: Reward) -> str:
    """The name it has, or that of its function or class."""
    return getattr(reward, "name", None) or getattr(reward, "__name__", type(reward).__name__)


def describe(prompt: Prompt, completion: Completion) -> str:
    """A completion as an example in a message."""
    return f"prompt {prompt.id} ({prompt.text[:80]!r}), answered {completion.text[:80]!r}"


def _number(score) -> float | None:
    """The score as a float; None if it is none."""
    if isinstance(score, Real):
        return float(score)
    try:  # a tensor or an array of one element
        score = score.item()
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return None
    return float(score) if isinstance(score, Real) else None


def _culprit(reward, prompts, completions) -> int:
    """Which completion it fails on, asked one by one; the first if it fails on none alone."""
    for at, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            reward([prompt], [completion])
        except Exception:
            return at
    return 0
