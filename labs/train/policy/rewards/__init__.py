"""Rewards for a policy: checkable answers, penalties for hallucination, and their mix. Chapter 5.

    reward = MixedReward({"world": (WorldReward(), 1.0), "made_up": (HallucinationPenalty(), 0.5)})
    mixed = reward.score(prompts, completions)  # .values, .parts by name; reward.skips counts

A reward of your own is a function of (prompts, completions) that returns a number, or None, for each.
"""

from labs.train.policy.rewards.check import RewardSkips, Scores, run_reward
from labs.train.policy.rewards.checkable import AnswerReward, WorldReward
from labs.train.policy.rewards.hallucination import HallucinationPenalty, YesBiasBonus
from labs.train.policy.rewards.mix import Mixed, MixedReward
from labs.train.policy.rewards.shape import clip_rewards, length_costs, missing_eos, shape_rewards

__all__ = [
    "AnswerReward", "HallucinationPenalty", "Mixed", "MixedReward", "RewardSkips", "Scores", "WorldReward",
    "YesBiasBonus", "clip_rewards", "length_costs", "missing_eos", "run_reward", "shape_rewards",
]  # fmt: skip
