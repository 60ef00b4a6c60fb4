"""What a step leaves in the log: one dict of numbers, and some of its answers. Chapter 5."""

import math
from collections.abc import Sequence

import torch

from labs.losses.masked import masked_mean
from labs.losses.policy import explained_variance
from labs.train.policy.completion import Completion
from labs.train.policy.config import PolicyConfig
from labs.train.policy.prompts import Prompt
from labs.train.policy.score import Scored
from labs.train.policy.update import Experience


def step_entry(
    policy: PolicyConfig,
    asked: Sequence[Prompt],
    completions: Sequence[Completion],
    scored: Scored,
    experience: Experience,
) -> dict:
    """Reward, distance to the reference, how well the values fit, what was said; without the
    update's own numbers. `asked`: the prompt of each completion."""
    return (
        _rewards(asked, scored)
        | _distances(experience)
        | {
            "response_length": sum(c.tokens for c in completions) / len(completions),
            "finished": sum(c.finished for c in completions) / len(completions),
        }
        | _signal(scored, policy.num_generations)
    )


def _rewards(asked: Sequence[Prompt], scored: Scored) -> dict:
    values = [v for v in scored.values if v is not None]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    entry = {"reward": mean, "reward_std": spread}
    for name, part in scored.parts.items():
        given = [v for v in part if v is not None]
        if given:
            entry[f"rewards/{name}"] = sum(given) / len(given)
    tasks: dict[str, list[float]] = {}
    for prompt, value in zip(asked, scored.values, strict=True):
        if value is not None and prompt.task:
            tasks.setdefault(prompt.task, []).append(value)
    return entry | {f"task/{name}": sum(v) / len(v) for name, v in sorted(tasks.items())}


def _distances(experience: Experience) -> dict:
    mask, targets = experience.rows.mask, experience.targets
    entry, kl = {}, targets.kl
    if kl is None and experience.reference is not None:
        kl = (experience.rollout - experience.reference) * mask
    if kl is not None:
        entry["kl"] = float(masked_mean(kl, mask))
        entry["kl_per_sequence"] = float(kl.sum(1).mean())
    if experience.old is not None:
        gap = ((experience.old - experience.rollout) * mask).abs()
        entry["mismatch"] = float(masked_mean(gap, mask))
        entry["mismatch_max"] = float(gap.max())
    if experience.values is not None:
        entry["value_explained_variance"] = float(
            explained_variance(experience.values, targets.returns, mask)
        )
    return entry


def _signal(scored: Scored, size: int) -> dict:
    """no_signal: the share of groups whose rewards are all equal."""
    if size < 2:
        return {}
    groups = [scored.shaped[i : i + size] for i in range(0, len(scored.shaped), size)]
    return {"no_signal": sum(len(set(g)) == 1 for g in groups) / len(groups)}


def samples_of(
    asked: Sequence[Prompt], completions: Sequence[Completion], scored: Scored, size: int
) -> list[dict]:
    """The first answer to each of the first four prompts, for the diary."""
    return [
        {
            "prompt": asked[i].text, "said": completions[i].text, "answer": asked[i].answer,
            "task": asked[i].task, "reward": scored.values[i],
            "image": asked[i].images[0] if asked[i].images else None,
        }
        for i in range(0, min(len(asked), 4 * size), size)
    ]  # fmt: skip


def over_ranks(entry: dict, weight: int) -> tuple[dict, int]:
    """The ranks' entries as one, the same on all, and the sum of their weights: means weighted by
    `weight` (the answers learnt from) over the ranks that have the number; counts of what was skipped
    are added, maxima taken."""
    ranks: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, (weight, entry))
    found = {}
    for name in dict.fromkeys(name for _, other in ranks for name in other):
        given = [(w, other[name]) for w, other in ranks if name in other]
        if name.startswith("skipped/"):
            found[name] = sum(v for _, v in given)
        elif name.endswith("_max"):
            found[name] = max(v for _, v in given)
        else:
            found[name] = sum(w * v for w, v in given) / sum(w for w, _ in given)
    return found, sum(w for w, _ in ranks)
