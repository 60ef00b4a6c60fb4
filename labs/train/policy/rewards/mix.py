"""Several rewards as one. Chapter 5."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from labs.errors import InputError
from labs.train.policy.completion import Completion, Reward
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards.check import RewardSkips, describe, run_reward


class Mixed(NamedTuple):
    """values: the weighted sum a completion, None where it is skipped. parts: each reward's scores."""

    values: list[float | None]
    parts: dict[str, list[float | None]]


class MixedReward:
    """The weighted sum of rewards; a reward that says None of a completion takes no part in it.

        r_i = sum_k weight_k · reward_k(i), over the k that say something of i

    rewards: name -> (reward, weight), or a reward alone for weight 1. A completion of which no reward
    says anything, or of which one says NaN or infinity, is skipped (None) and counted in `skips`:
    every group or batch is learnt from without it. Weights are not normalised.

    Raises InputError for no rewards, a weight that is no finite number, whatever `run_reward` refuses,
    and more than 1 % skipped of at least 100. Chapter 5.
    """

    name = "mixed"

    def __init__(
        self,
        rewards: Mapping[str, tuple[Reward, float] | Reward],
        skips: RewardSkips | None = None,
    ):
        if not rewards:
            raise InputError("There is no reward to learn from.", "Name one at least.")
        self.rewards: dict[str, tuple[Reward, float]] = {}
        for name, given in rewards.items():
            reward, weight = given if isinstance(given, tuple) else (given, 1.0)
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                weight = math.nan
            if not math.isfinite(weight):
                raise InputError(
                    f"The reward {name!r} has {given[1]!r} for its weight.",
                    "Give a number; a negative one makes it a penalty.",
                )
            self.rewards[name] = (reward, float(weight))
        self.skips = skips if skips is not None else RewardSkips()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        return self.score(prompts, completions).values

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Mixed:
        """The mixed values and the parts by name. Counts, and checks the count."""
        scores = {
            name: run_reward(r, prompts, completions) for name, (r, _) in self.rewards.items()
        }
        values: list[float | None] = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            self.skips.seen += 1
            broken = [name for name, s in scores.items() if s.broken[i]]
            said = [(n, s.values[i]) for n, s in scores.items() if s.values[i] is not None]
            if broken:
                reason = f"not finite from {broken[0]}"
            elif not said:
                reason = "judged by no reward"
            else:
                values.append(sum(self.rewards[name][1] * value for name, value in said))
                continue
            self.skips.add(reason, f"{describe(prompt, completion)}.")
            values.append(None)
        self.skips.check()
        return Mixed(values, {name: s.values for name, s in scores.items()})
