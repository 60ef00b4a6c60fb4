"""The update: epochs of minibatches over one rollout, in micro-batches that add up exactly. Chapter 5."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from labs.losses.advantages import kl_estimate
from labs.losses.masked import masked_mean
from labs.losses.policy import aggregate_tokens, ppo_policy_loss, ppo_value_loss
from labs.train.policy.config import PolicyConfig
from labs.train.policy.forward import Outputs, Pictures
from labs.train.policy.sequences import Sequences
from labs.train.policy.targets import Targets


@dataclass
class Experience:
    """One rollout, ready to learn from. Tensors are [N, T] but the advantages of groups, [N].

    old: log-probabilities of the policy that made it; None where only one update is made from it,
    which then takes its own. pieces: the minibatches of an epoch, the same on every rank.
    """

    rows: Sequences
    pictures: Pictures
    targets: Targets
    rollout: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    values: Tensor | None = None
    pieces: int = 1


@dataclass
class Sums:
    """What the micro-batches of a step report, each weighted by its share; read once, at its end."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, weighted: Tensor, share: float) -> None:
        """weighted: a mean times its share."""
        self.totals[name] = self.totals.get(name, 0.0) + weighted.detach()
        self.weights[name] = self.weights.get(name, 0.0) + share

    def means(self) -> dict[str, float]:
        return {
            name: float(total) / self.weights[name]
            for name, total in self.totals.items()
            if self.weights[name]
        }


def minibatches(
    experience: Experience, config: PolicyConfig, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """(epoch, row numbers) of every update of a step, in an order that seed alone decides.

    Prompts are shuffled, not answers: a prompt's answers stay together, so that it is read once. A
    rank with fewer rows than others ends an epoch with empty minibatches: it takes part, with nothing.
    """
    rows = len(experience.rows)
    size = min(config.minibatch_size or rows, rows)
    groups = groups_of(experience.rows)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(config.num_epochs):
        shuffled = torch.randperm(len(groups), generator=generator).tolist()
        order = torch.cat([groups[g] for g in shuffled]) if size < rows else torch.arange(rows)
        for piece in range(max(experience.pieces, -(-rows // size))):
            yield epoch, order[piece * size : (piece + 1) * size]


def groups_of(rows: Sequences) -> list[Tensor]:
    """Row numbers by prompt, in the order of their first row."""
    found: dict[int, list[int]] = {}
    for number, prompt in enumerate(rows.prompt.tolist()):
        found.setdefault(prompt, []).append(number)
    return [torch.tensor(numbers) for numbers in found.values()]


def micro_batches(rows: Sequences, chosen: Tensor, size: int) -> list[Tensor]:
    """The rows of a minibatch in pieces of at most `size`: answers of one prompt together, prompts
    of like length beside each other. Less padding, the same sum."""
    groups: dict[int, list[int]] = {}
    for number in chosen.tolist():
        groups.setdefault(int(rows.prompt[number]), []).append(number)
    lengths = rows.lengths.tolist()
    ordered = sorted(groups.values(), key=lambda group: max(lengths[i] for i in group))
    pieces: list[list[int]] = [[]]
    for group in ordered:
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if len(pieces[-1]) + len(part) > size:
                pieces.append([])
            pieces[-1] += part
    return [torch.tensor(piece) for piece in pieces if piece]


def micro_loss(
    forward: Callable[..., Outputs],
    experience: Experience,
    chosen: Tensor,
    config: PolicyConfig,
    coef: float,
    packed: bool,
    shares: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, dict[str, tuple[Tensor, float]]]:
    """What some rows add to the loss of a minibatch, and what to watch: (weighted mean, share) by name.

        policy + vf_coef * value + coef * KL (where `kl_in` is "loss")

    shares: how much of the minibatch's tokens, and of its rows, is here. Policy and KL are means as
    `aggregate` says; the value loss is a mean over tokens whatever that is.
    """
    rows = experience.rows.select(chosen)
    tokens = rows.mask.shape[1]
    of_tokens, of_rows = shares
    share = of_tokens if config.aggregate == "token" else of_rows

    def part(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[chosen, :tokens] if x.ndim == 2 else x[chosen]

    out = forward(rows, **experience.pictures.of(rows, packed))
    mask, rollout = rows.mask, part(experience.rollout)
    old = out.logprobs.detach() if experience.old is None else part(experience.old)
    advantages = part(experience.targets.advantages)
    if config.importance_cap is not None:
        # What sampled and what trains disagree a little: weigh by the ratio, cut off (TIS).
        weights = ((old - rollout) * mask).exp().clamp(max=config.importance_cap)
        advantages = (advantages if advantages.ndim == 2 else advantages[:, None]) * weights
    policy = ppo_policy_loss(
        out.logprobs, old, advantages, mask, config.clip, config.clip_high,
        config.ratio_level, config.aggregate, config.max_new_tokens,
    )  # fmt: skip
    loss = policy.loss * share
    whole_rows = config.ratio_level == "sequence" and advantages.ndim == 1
    gap = ((out.logprobs.detach() - rollout) * mask).abs()
    watch = {
        "policy_loss": (policy.loss, share),
        "clip_fraction": (policy.clip_fraction, of_rows if whole_rows else of_tokens),
        "approx_kl": (policy.approx_kl, of_tokens),
        "entropy": (masked_mean(out.entropy, mask), of_tokens),
        "mismatch": (masked_mean(gap, mask), of_tokens),
    }  # fmt: skip
    if out.values is not None:
        value = ppo_value_loss(
            out.values, part(experience.values), part(experience.targets.returns), mask,
            config.clip_value,
        )  # fmt: skip
        loss = loss + config.vf_coef * of_tokens * value.loss
        watch["value_loss"] = (value.loss, of_tokens)
        watch["value_clip_fraction"] = (value.clip_fraction, of_tokens)
    if config.kl_in == "loss" and experience.reference is not None:
        kl = kl_estimate(out.logprobs, part(experience.reference), config.kl_kind)
        mean = aggregate_tokens(kl, mask, config.aggregate, config.max_new_tokens)
        loss = loss + coef * share * mean
        watch["kl_loss"] = (mean, share)
    weighted = {name: (value.detach() * by, by) for name, (value, by) in watch.items()}
    return loss, weighted | {"loss": (loss.detach(), share)}


def shares_of(experience: Experience, chosen: Tensor) -> Tensor:
    """(tokens, rows) of these rows: what a mean over them weighs in a mean over more of them."""
    mask = experience.rows.mask[chosen]
    return torch.stack([mask.sum(), mask.new_tensor(len(chosen), dtype=torch.long)]).double()
