"""Preference losses without a reference model: half the forward passes, and nothing that holds back.

Both look at an answer's *average* log-probability, so that a long answer is not a bad one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labs.losses.generation import per_item
from labs.losses.precision import upcast
from labs.losses.preference import PreferenceLoss, require_positive


def simpo_loss(
    chosen_average: Float[Tensor, " batch"],
    rejected_average: Float[Tensor, " batch"],
    beta: int | float = 2.0,
    gamma: int | float = 1.0,
) -> PreferenceLoss:
    """SimPO: the reward is the average log-probability, and the better answer is to lead by gamma.

        L = mean[-log s(beta · (a_w - a_l) - gamma)],   a = log p(y) / |y|

    `chosen_average` and `rejected_average` [B] are `sequence_logprobs(..., average=True)`, nats a
    token. The implicit reward is beta · a: what is trained is what decoding ranks answers by.

    *beta* scales nats a token, not nats an answer, so it is far above DPO's: 2 to 2.5 to start
    with. *gamma* is the lead asked for, in units of the reward: at beta · (a_w - a_l) = gamma the
    loss is log 2. The authors speak of gamma / beta, the lead in nats a token, and start at 0.5
    (2.0 and 1.0 here); 0 asks only for the right order. TRL's `simpo_gamma` is this gamma.

    Nothing ties the policy to where it began: the learning rate is all that keeps it there.

    Returns a `PreferenceLoss` in float32 or wider (gamma is not in its rewards); no pair at all
    gives 0. Raises ValueError for beta not above zero, or gamma below zero.

    Meng et al. 2024, arXiv:2405.14734, equation 6. TRL 1.16: `trl.experimental.cpo`,
    loss_type="simpo", cpo_alpha=0. Chapter 6.
    """
    require_positive(beta)
    if not gamma >= 0:
        raise ValueError(f"gamma is a lead of zero or more, not {gamma}.")
    chosen, rejected = upcast(chosen_average), upcast(rejected_average)
    losses = -F.logsigmoid(beta * (chosen - rejected) - gamma)
    return PreferenceLoss(
        per_item(losses.sum(), len(losses)), (beta * chosen).detach(), (beta * rejected).detach()
    )


def orpo_loss(
    chosen_average: Float[Tensor, " batch"],
    rejected_average: Float[Tensor, " batch"],
    beta: int | float = 0.1,
    sft_loss: Float[Tensor, ""] | None = None,
) -> PreferenceLoss:
    """ORPO: supervised fine-tuning on the chosen answer, and a push on the odds ratio beside it.

        L = L_sft + beta · mean[-log s(log odds_w - log odds_l)]
        log odds = a - log(1 - exp a),   a = log p(y) / |y|

    `chosen_average` and `rejected_average` [B] are `sequence_logprobs(..., average=True)`, below 0.
    exp a, the geometric mean of the tokens' probabilities, is what the odds are of. `sft_loss` is a
    scalar in nats a token, with its gradient; by default -mean(a_w), each answer alike. (TRL takes
    the mean over tokens, of the prompt as well as the answer.)

    The implicit reward is beta · a, as TRL logs it. *beta* (the paper's lambda) weighs the push
    against L_sft, which needs no weight of its own. L_sft does a reference's work: it keeps the
    chosen answer likely. So ORPO can start at a base model, without a stage of SFT before it.

    Returns a `PreferenceLoss` in float32 or wider; no pair at all gives `sft_loss`, or 0. An answer
    of probability 1 has infinite odds: a is taken to be one rounding step below 0 there. Raises
    ValueError for beta not above zero.

    Hong et al. 2024, arXiv:2403.07691, equations 6 and 7. TRL 1.16: `trl.experimental.orpo`.
    Chapter 6.
    """
    require_positive(beta)
    chosen, rejected = upcast(chosen_average), upcast(rejected_average)
    log_odds_ratio = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    losses = -beta * F.logsigmoid(log_odds_ratio)
    if sft_loss is None:
        sft_loss = per_item(-chosen.sum(), len(chosen))
    return PreferenceLoss(
        upcast(sft_loss) + per_item(losses.sum(), len(losses)),
        (beta * chosen).detach(),
        (beta * rejected).detach(),
    )


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp x) for x < 0, without cancelling near 0; 0 counts as one rounding step below."""
    return torch.log(-torch.expm1(x.clamp(max=-torch.finfo(x.dtype).eps)))
