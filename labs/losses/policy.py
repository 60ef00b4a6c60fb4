"""Policy and value losses of PPO, and with other arguments those of GRPO, DAPO, GSPO and RLOO.

PPO, DAPO     level="token", aggregate="token"          DAPO: clip_high=0.28
GRPO          level="token", aggregate="sequence"
Dr. GRPO      level="token", aggregate="constant"
GSPO          level="sequence", aggregate="sequence"    clips of about 3e-4
RLOO          one "token" a sequence: its summed log-probability, [B, 1]
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from labs.losses.advantages import kl_estimate
from labs.losses.masked import masked_mean, under_mask


class PolicyLoss(NamedTuple):
    """`loss` carries the gradient; the other two are for the log."""

    loss: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]  # of tokens (sequences): those whose gradient is cut to zero
    approx_kl: Float[Tensor, ""]  # KL(old || new), k3, nats a token


class ValueLoss(NamedTuple):
    """`loss` carries the gradient; `clip_fraction` is for the log."""

    loss: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]  # of tokens: those whose value has left the clip range, badly


def aggregate_tokens(
    values: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    aggregate: str = "token",
    constant: int | float | None = None,
) -> Float[Tensor, ""]:
    """One number from the losses of the real tokens: where GRPO's variants differ.

        "token"      sum / number of real tokens            DAPO: each token weighs the same
        "sequence"   mean over rows of the row's mean       GRPO: each answer weighs the same, so a
                                                            token of a long one weighs less
        "constant"   sum / (B · constant)                   Dr. GRPO: constant = maximal length

    For a KL term in the loss, too: `kl_coef * aggregate_tokens(kl_estimate(...), mask, ...)`. A row
    without real tokens adds 0, and still counts as a row, as in TRL; no token at all gives 0.

    *Accumulation.* To get the gradient of a large batch from micro-batches, multiply each loss by
    its share, of the large batch's tokens for "token", of its rows otherwise, and add.

    Raises ValueError for an unknown `aggregate`, or "constant" without a constant. Yu et al. 2025
    (DAPO), arXiv:2503.14476, section 3.3; Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783. Chapter 5.
    """
    if aggregate == "token":
        return masked_mean(values, mask)
    values, real = under_mask(values, mask)
    rows = max(1, len(values))
    if aggregate == "sequence":
        return (values.sum(dim=1) / real.sum(dim=1).clamp(min=1)).sum() / rows
    if aggregate != "constant":
        raise ValueError(f'aggregate is "token", "sequence" or "constant", not {aggregate!r}.')
    if constant is None or not constant > 0:
        raise ValueError(f'aggregate="constant" needs a constant above zero, not {constant}.')
    return values.sum() / (rows * constant)


def ppo_policy_loss(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, " batch"] | Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    clip: int | float = 0.2,
    clip_high: int | float | None = None,
    level: str = "token",
    aggregate: str = "token",
    constant: int | float | None = None,
) -> PolicyLoss:
    """The clipped surrogate: more of what went well, but not further than the clip from old.

        ratio_t = exp(log p_t - log p_old_t)
        L_t = max(-A_t · ratio_t, -A_t · clamp(ratio_t, 1 - clip, 1 + clip_high))

    `logprobs` [B, T] carry the gradient; `old_logprobs` are those of the policy that sampled (the
    same model under the same temperature, before the first update). `advantages` [B, T], or [B] for
    all tokens of an answer alike. `mask` is 1 on the answer's own tokens, the end token included,
    and 0 on prompt, image and padding. Both are constants here.

    `clip_high` (default: `clip`) is DAPO's clip-higher, room upwards for rare tokens. `level`
    "sequence" takes one ratio a row, the geometric mean of its tokens' (GSPO): noise averages out of
    it, so it stays far nearer to 1 and wants far smaller clips. `aggregate` and `constant`: as in
    `aggregate_tokens`.

    Clipping cuts the gradient only where the step would lead further out: A > 0 above the range,
    A < 0 below. `clip_fraction` counts exactly these. With old = new the ratio is 1 and the
    gradient is REINFORCE's, -A · grad log p.

    Returns a `PolicyLoss`; everything is 0 where no token is real. Raises ValueError for an unknown
    `level` or `aggregate`.

    Schulman et al. 2017 (PPO), arXiv:1707.06347, equation 7; Shao et al. 2024 (GRPO),
    arXiv:2402.03300; Yu et al. 2025 (DAPO), arXiv:2503.14476; Zheng et al. 2025 (GSPO),
    arXiv:2507.18071. Chapter 5.
    """
    if level not in ("token", "sequence"):
        raise ValueError(f'level is "token" or "sequence", not {level!r}.')
    logprobs, real = under_mask(logprobs, mask)
    old_logprobs, _ = under_mask(old_logprobs.detach(), mask)
    advantages = advantages.detach()
    advantages = advantages[:, None] if advantages.dim() == 1 else under_mask(advantages, mask)[0]

    log_ratio = logprobs - old_logprobs
    if level == "sequence":
        lengths = real.sum(dim=1, keepdim=True)
        log_ratio = log_ratio.sum(dim=1, keepdim=True) / lengths.clamp(min=1)
    ratio = log_ratio.exp()
    low, high = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(low, high))

    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    counted = real if clipped.shape[1] == real.shape[1] else real.any(dim=1, keepdim=True)
    return PolicyLoss(
        aggregate_tokens(losses.expand_as(real), real, aggregate, constant),
        masked_mean(clipped.to(logprobs.dtype), counted),
        masked_mean(kl_estimate(old_logprobs, logprobs.detach(), "k3"), real),
    )


def ppo_value_loss(
    values: Float[Tensor, "batch tokens"],
    old_values: Float[Tensor, "batch tokens"],
    returns: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    clip: int | float | None = 0.2,
) -> ValueLoss:
    """Half the squared error of the values; the larger of plain and clipped.

        L_t = max((V_t - R_t)², (clamp(V_t, V_old_t - clip, V_old_t + clip) - R_t)²) / 2

    averaged over real tokens. Beyond the clip range a value gets no more gradient for moving
    further *towards* its return; one that overshoots is still pulled back. `clip` is in units of
    the reward, so it fits only rewards of about unit scale; None leaves it out.

    `values` [B, T] carry the gradient; `old_values` are those of the rollout, `returns` those of
    `gae`. Returns a `ValueLoss`; everything is 0 where no token is real.

    PPO2 in OpenAI's baselines; TRL's PPO and LLaVA-RLHF (arXiv:2309.14525) keep it. Chapter 5.
    """
    values, real = under_mask(values, mask)
    returns, _ = under_mask(returns.detach(), mask)
    losses = (values - returns).square()
    if clip is None:
        return ValueLoss(masked_mean(losses, real) / 2, losses.new_zeros(()))
    old_values, _ = under_mask(old_values.detach(), mask)
    held = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    left = (values - old_values).abs() > clip  # without it rounding counts as clipping
    clipped = (left & (held > losses)).to(losses.dtype)
    return ValueLoss(masked_mean(torch.maximum(losses, held), real) / 2, masked_mean(clipped, real))


@torch.no_grad()
def explained_variance(
    values: Float[Tensor, "batch tokens"],
    returns: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """How much of the returns' variation over real tokens the values account for.

        1 - Var[R - V] / Var[R]

    1: all of it; 0: no better than a constant; below 0: worse. A constant error costs nothing here,
    only the loss shows it. Returns that do not vary leave nothing to explain: 0. Chapter 5.
    """
    values, real = under_mask(values, mask)
    returns, _ = under_mask(returns, mask)
    total = _variance(returns, real)
    left = _variance(returns - values, real)
    return torch.where(total == 0, 0, 1 - left / total.masked_fill(total == 0, 1))


def _variance(values: Tensor, real: Tensor) -> Tensor:
    kept = values[real]
    if not kept.numel():
        return values.new_zeros(())
    kept = kept - kept[0]  # equal values have a variance of exactly 0
    return (kept - kept.mean()).square().mean()
