"""The loss of a reward model: of two answers, the better one is to score higher."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labs.losses.generation import per_item
from labs.losses.precision import upcast


def reward_loss(
    chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    margin: int | float | Float[Tensor, " batch"] | None = None,
    centring: int | float = 0.0,
) -> Float[Tensor, ""]:
    """Bradley-Terry on pairs of scores, with an optional margin and a pull towards zero.

        L = mean[-log sigmoid(chosen - rejected - margin)] + centring · mean[(chosen + rejected)²]

    `chosen` and `rejected` [B] are the scores of the better and of the worse answer. Only their
    difference enters the first term, so nothing there holds the scores at any level: `centring`
    (TRL's `center_rewards_coefficient`, which it recommends to be 0.01) ties the mean of a pair to
    zero. `margin`, a number or one for each pair, is how far apart the two have
    to be: wider where annotators were surer.

    Returns a scalar, in float32 or wider; no pair at all gives exactly 0.

    Stiennon et al. 2020, arXiv:2009.01325; margin: Touvron et al. 2023 (Llama 2),
    arXiv:2307.09288, section 3.2.2; centring: Eisenstein et al. 2023, arXiv:2312.09244. Chapter 5.
    """
    chosen, rejected = upcast(chosen), upcast(rejected)
    distance = chosen - rejected
    if margin is not None:
        distance = distance - (upcast(margin) if isinstance(margin, Tensor) else margin)
    losses = -F.logsigmoid(distance)
    if centring:
        losses = losses + centring * (chosen + rejected).square()
    return per_item(losses.sum(), len(losses))
