"""From rewards to advantages: how much better than expected was this token, or this answer.

All of them are constants to the policy: gradients stop here, but for `kl_estimate`.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from labs.losses.masked import under_mask
from labs.losses.precision import upcast

GROUP_EPSILON = 1e-4  # added to a group's standard deviation, as in TRL
WHITEN_EPSILON = 1e-8  # added to the variance, as in TRL's masked_whiten


@torch.no_grad()
def gae(
    rewards: Float[Tensor, "batch tokens"],
    values: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    gamma: int | float,
    lam: int | float,
) -> tuple[Float[Tensor, "batch tokens"], Float[Tensor, "batch tokens"]]:
    """Generalised advantage estimation over the real tokens of each row.

        delta_t = r_t + gamma · V_{t+1} - V_t        A_t = delta_t + gamma · lam · A_{t+1}

    "t + 1" is the *next real token*: padding on either side, and holes, are skipped and not walked
    through, which would discount by them. After a row's last real token value and advantage are 0:
    the answer is over. (One that was cut off at its length limit is treated as over, too.) A reward
    at a masked position is not seen, so an answer's reward belongs on its last *real* token.

    lam = 1 gives the Monte-Carlo return less the value; lam = 0 the one-step error.

    Returns (advantages, returns), both [B, T], 0 under the mask, without gradient, in float32 or
    wider. `returns` = advantages + values, the value head's target.

    Schulman et al. 2016, arXiv:1506.02438, equations 11 to 16. Chapter 5.
    """
    rewards, real = under_mask(rewards, mask)
    values, _ = under_mask(values, mask)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, :1])
    for t in reversed(range(values.shape[1])):
        here = slice(t, t + 1)
        delta = rewards[:, here] + gamma * next_value - values[:, here]
        advantage = delta + gamma * lam * next_advantage
        next_value = torch.where(real[:, here], values[:, here], next_value)
        next_advantage = torch.where(real[:, here], advantage, next_advantage)
        advantages[:, here] = advantage
    advantages.masked_fill_(~real, 0)
    return advantages, advantages + values


@torch.no_grad()
def whiten(
    values: Float[Tensor, "batch tokens"],
    mask: Shaped[Tensor, "batch tokens"],
    shift_mean: bool = True,
) -> Float[Tensor, "batch tokens"]:
    """Real tokens of the batch brought to mean 0 and variance 1 (unbiased, over n - 1).

        (x - mean) / sqrt(variance + 1e-8)      without `shift_mean`: + mean

    As TRL's `masked_whiten`, with two differences: masked positions are 0 instead of whatever came
    out, and one real token, or none, gives 0 (the mean, without `shift_mean`) instead of NaN. Equal
    values give exactly 0. Advantages are whitened with `shift_mean`; rewards without, since their
    mean is what the value head has to learn.

    Returns [B, T] without gradient, in float32 or wider. Chapter 5.
    """
    values, real = under_mask(values, mask)
    count = real.sum()
    # Less one of them first: equal values become exact zeros, and a common offset rounds nothing.
    offset = values.flatten()[real.flatten().to(torch.uint8).argmax()] if values.numel() else 0
    shifted = (values - offset).masked_fill(~real, 0)
    mean = shifted.sum() / count.clamp(min=1)
    centred = (shifted - mean).masked_fill(~real, 0)
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    whitened = centred * torch.rsqrt(variance + WHITEN_EPSILON)
    return whitened if shift_mean else (whitened + mean + offset).masked_fill(~real, 0)


@torch.no_grad()
def group_advantages(
    rewards: Float[Tensor, " batch"], group_size: int, scale: str = "group"
) -> Float[Tensor, " batch"]:
    """GRPO's advantages: each reward against the mean of its group.

        "group":  (r_i - mean) / (std + 1e-4)       std over n - 1, as in TRL
        "none":    r_i - mean                       Dr. GRPO

    `rewards` [B]: the `group_size` answers to one prompt are adjacent. Dividing by the standard
    deviation gives a prompt that nearly all answers get right, or wrong, as much weight as one in
    the balance, and blows up differences that mean nothing; "none" does not. A group whose rewards
    are all equal gives exactly 0: it teaches nothing.

    NaN means "not scored" (no reward function had a say): it is left out of mean and deviation,
    and its advantage is 0. Infinite rewards make their group NaN.

    Returns [B] without gradient. Raises ValueError where B is no multiple of `group_size`, or for
    an unknown `scale`.

    Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, section 4.1.2; Liu et al. 2025 (Dr. GRPO),
    arXiv:2503.20783. Chapter 5.
    """
    if scale not in ("group", "none"):
        raise ValueError(f'scale is "group" or "none", not {scale!r}.')
    centred, scored = _centred(rewards, group_size)
    if scale == "group":
        freedom = (scored.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        variance = centred.square().sum(dim=1, keepdim=True) / freedom
        centred = centred / (variance.sqrt() + GROUP_EPSILON)
    return centred.flatten()


@torch.no_grad()
def leave_one_out_advantages(
    rewards: Float[Tensor, " batch"], group_size: int
) -> Float[Tensor, " batch"]:
    """RLOO's advantages: each reward against the mean of the *others* of its group.

        A_i = r_i - sum_{j != i} r_j / (n - 1) = (r_i - mean) · n / (n - 1)

    The baseline does not depend on answer i, so the gradient stays unbiased; a group's own mean,
    as in GRPO, shrinks it by (n - 1) / n. `rewards`, equal groups, NaN and errors as in
    `group_advantages`; a group with one scored answer gives 0.

    Returns [B] without gradient. Ahmadian et al. 2024, arXiv:2402.14740. Chapter 5.
    """
    centred, scored = _centred(rewards, group_size)
    count = scored.sum(dim=1, keepdim=True)
    return (centred * count / (count - 1).clamp(min=1)).flatten()


def _centred(rewards: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Rewards [groups, group_size] less the mean of their group's scored ones; which are scored."""
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are no whole number of groups of {group_size}.")
    groups = upcast(rewards).view(-1, group_size)
    scored = ~groups.isnan()
    # Less one of them first: equal rewards become exact zeros, whatever their mean rounds to.
    one = groups.gather(1, scored.to(torch.uint8).argmax(dim=1, keepdim=True))
    shifted = (groups - one).masked_fill(~scored, 0)
    mean = shifted.sum(dim=1, keepdim=True) / scored.sum(dim=1, keepdim=True).clamp(min=1)
    return (shifted - mean).masked_fill(~scored, 0), scored


def kl_estimate(
    logprobs: Float[Tensor, "*any"], reference_logprobs: Float[Tensor, "*any"], kind: str
) -> Float[Tensor, "*any"]:
    """KL(policy || reference) from one sampled token each, where the *policy* drew the tokens.

    With d = log p - log ref of the token and x ~ p:

        kind   estimate          as a value, E[.]           as a loss, E[gradient]
        "k1"   d                 KL, high variance, < 0 too  0: it pushes nowhere
        "k2"   d² / 2            biased; near for small d    that of KL(policy || reference)
        "k3"   exp(-d) - 1 + d   KL, low variance, >= 0      that of KL(reference || policy)

    The last column: the tokens are fixed once drawn, so autograd sees d and not how p drew them.
    E[grad k1] = E[grad log p] = 0. E[grad k2] = E[d · grad log p], the true gradient. k3's weight is
    1 - ref/p instead: to first order in d the same. So: k1 in the *reward* (there the policy
    gradient supplies what autograd misses), k2 or k3 in the loss. The reference gets no gradient.

    All of it supposes that p drew the tokens. Where an older policy did, times the ratio p / p_old
    the values hold again; and k3 times the ratio, *with* the ratio's gradient, has that of
    KL(policy || reference), since k3 + (1 - ref/p) = d (TRL's `use_bias_correction_kl`).

    Per token, any shape, nats, in float32 or wider. Raises ValueError for an unknown `kind`.

    Schulman 2020, http://joschu.net/blog/kl-approx.html. Chapter 5.
    """
    difference = upcast(logprobs) - upcast(reference_logprobs).detach()
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        # exp(-d) - 1 would lose every digit for small d. The clamp promises what a correctly rounded
        # expm1 gives by itself; not every device has one.
        return (torch.expm1(-difference) + difference).clamp(min=0)
    raise ValueError(f'kind is "k1", "k2" or "k3", not {kind!r}.')
