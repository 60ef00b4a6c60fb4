"""MPO: which answer is better, whether each is good, and how to write it, in one loss."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from labs.losses.precision import upcast
from labs.losses.preference import dpo_loss, require_positive


class MixedLoss(NamedTuple):
    """`loss` carries the gradient; all else is detached, for the log, the terms before weights."""

    loss: Float[Tensor, ""]
    chosen_rewards: Float[Tensor, " batch"]
    rejected_rewards: Float[Tensor, " batch"]
    preference: Float[Tensor, ""]
    quality: Float[Tensor, ""]
    generation: Float[Tensor, ""]


def mpo_loss(
    policy_chosen: Float[Tensor, " batch"],
    policy_rejected: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_rejected: Float[Tensor, " batch"],
    sft_loss: Float[Tensor, ""],
    beta: int | float = 0.1,
    preference_weight: int | float = 0.8,
    quality_weight: int | float = 0.2,
    generation_weight: int | float = 1.0,
    shift: int | float | Float[Tensor, ""] = 0.0,
) -> MixedLoss:
    """Mixed preference optimisation: w_p · DPO + w_q · BCO + w_g · SFT.

        DPO   mean[-log s(beta · r_w - beta · r_l)]                  which of the two is better
        BCO   mean[-log s(beta · r_w - shift) - log s(shift - beta · r_l)]    is each good by itself
        SFT   `sft_loss`, -log p a token of the chosen answers       how a good answer is made

    r = log p - log p_ref; the four log-probabilities [B] are as in `dpo_loss`, summed. `sft_loss` is a
    scalar with its gradient: `generation_loss` on the chosen answers (TRL's mean over all tokens
    of the batch). The implicit reward is DPO's, beta · r.

    *Weights.* The defaults are InternVL2-MPO's. DPO alone lets the chosen answer sink with the
    rejected one; SFT holds it up, and BCO says where zero is. The scales differ: DPO and BCO begin
    at log 2 and 2 log 2, SFT where the model stands. SFT's gradient does not end when a pair
    is told apart; as its weight grows, the result nears plain SFT on the chosen answers. *shift* is
    BCO's zero, in BCO and MPO the running mean of past rewards, chosen and rejected together; a
    constant here. 0 is TRL's "bco_pair".

    Returns a `MixedLoss` in float32 or wider. A term with weight 0 is still reported. Raises
    ValueError for beta not above zero, a weight below zero, or no weight above zero.

    Wang et al. 2024 (MPO), arXiv:2411.10442; BCO: Jung et al. 2024, arXiv:2404.04656.
    TRL 1.16: loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]. Chapter 6.
    """
    require_positive(beta)
    weights = (preference_weight, quality_weight, generation_weight)
    if not all(w >= 0 and math.isfinite(w) for w in weights) or not any(weights):
        raise ValueError(f"weights are zero or more and not all zero, got {weights}.")
    if isinstance(shift, Tensor):
        shift = upcast(shift)
    preference = dpo_loss(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    # A reference that is more likely by shift / beta (and constant, as all references are): every
    # reward less shift.
    quality = dpo_loss(
        policy_chosen,
        policy_rejected,
        upcast(reference_chosen) + shift / beta,
        upcast(reference_rejected) + shift / beta,
        beta,
        "bco_pair",
    )
    terms = (preference.loss, quality.loss, upcast(sft_loss))
    # A term without weight leaves the sum: it may be infinite, and 0 · inf is not 0.
    loss = sum(weight * term for weight, term in zip(weights, terms, strict=True) if weight)
    return MixedLoss(
        loss,
        preference.chosen_rewards,
        preference.rejected_rewards,
        *(term.detach() for term in terms),
    )
