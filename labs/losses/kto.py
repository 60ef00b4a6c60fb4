"""KTO: answers marked good or bad one by one, as a thumb up or down is. No pairs."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from labs.losses.generation import per_item
from labs.losses.preference import PreferenceLoss, log_ratios, require_positive


def kto_loss(
    policy: Float[Tensor, " batch"],
    reference: Float[Tensor, " batch"],
    desirable: Bool[Tensor, " batch"],
    kl: Float[Tensor, ""] | int | float,
    beta: int | float = 0.1,
    desirable_weight: int | float = 1.0,
    undesirable_weight: int | float = 1.0,
) -> PreferenceLoss:
    """How far each answer's reward lies on the right side of what the policy gains anywhere.

        good:  L = desirable_weight   · (1 - s(beta · (r - z)))
        bad:   L = undesirable_weight · (1 - s(beta · (z - r)))       r = log p(y) - log p_ref(y)

    The mean over answers. `policy` [B] carries the gradient, `reference` [B] is constant, both
    summed over the answer's tokens; `desirable` [B] is true for the good ones. z = max(0, `kl`) is
    the point of reference, from `kto_kl`, without a gradient: an answer is good only if it gained
    more than answers to other prompts did, so making *everything* more likely earns nothing.

    The implicit reward is beta · r, as in DPO. Not so the slope, beta · s · (1 - s): it dies on
    *both* sides. An answer far on the wrong side is left alone, where DPO pulls at it hardest: kind
    to wrong labels, blind to what is hard. A small *beta* widens the range in which answers still
    count. The *weights* make up for unequal numbers: keep desirable_weight · n_good between 1 and
    4/3 times undesirable_weight · n_bad, counted over the data set (TRL warns outside of that).

    Returns a `PreferenceLoss` in float32 or wider: `chosen_rewards` [n_good] and
    `rejected_rewards` [n_bad], in the batch's order. Raises ValueError for beta not above zero, a
    weight not above zero, or a batch with one class only. All good, the loss is lowest when r grows
    without limit for every answer, and all bad, when it falls so: nothing holds either back.

    Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8. TRL 1.16: `trl.KTOTrainer`.
    Chapter 6.
    """
    require_positive(beta)
    require_positive(desirable_weight, "desirable_weight")
    require_positive(undesirable_weight, "undesirable_weight")
    good = int(desirable.sum())
    if not 0 < good < len(desirable):
        raise ValueError(
            f"KTO needs good and bad answers in a batch, got {good} good and "
            f"{len(desirable) - good} bad. Draw batches that mix them."
        )
    ratios = log_ratios(policy, reference)
    zero = torch.as_tensor(kl, dtype=ratios.dtype, device=ratios.device).detach().clamp(min=0)
    is_good = desirable.to(ratios.dtype)
    weights = desirable_weight * is_good + undesirable_weight * (1 - is_good)
    losses = weights * torch.sigmoid(-beta * (2 * is_good - 1) * (ratios - zero))
    rewards = (beta * ratios).detach()
    return PreferenceLoss(
        per_item(losses.sum(), len(losses)), rewards[desirable], rewards[~desirable]
    )


@torch.no_grad()
def kto_kl(
    policy: Float[Tensor, " batch"], reference: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """KTO's estimate of KL(policy || reference) from answers to *other* prompts.

        z = mean[log p(y' | x) - log p_ref(y' | x)],   y' the answer to another prompt of the batch

    `policy` and `reference` [B] are summed log-probabilities of each prompt with the answer of
    another (TRL: of the one before it in the batch), so a batch needs two prompts at least: with its
    own answer the estimate is the very reward that it is to be compared with. It is biased, and may
    come out below zero. Average it over ranks first; `kto_loss` then cuts it at zero, as TRL does.

    Returns a scalar in nats, without a gradient; no answer at all gives 0. Ethayarajh et al. 2024,
    arXiv:2402.01306. Chapter 6.
    """
    ratios = log_ratios(policy, reference)
    return per_item(ratios.sum(), len(ratios))
