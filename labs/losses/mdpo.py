"""mDPO: DPO that has to look at the picture.

A pair of answers shares its image, and so DPO can be won without one: learn which *kind* of
sentence is preferred. mDPO adds a pair that differs in nothing but the image, and holds the chosen
answer where it was.
"""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labs.losses.generation import per_item
from labs.losses.preference import PreferenceLoss, dpo_loss, log_ratios, require_positive


class ImagePreferenceLoss(NamedTuple):
    """`loss` carries the gradient; the implicit rewards are detached, for the log."""

    loss: Float[Tensor, ""]
    chosen_rewards: Float[Tensor, " batch"]
    rejected_rewards: Float[Tensor, " batch"]
    corrupted_rewards: Float[Tensor, " batch"]  # the chosen answer, under the corrupted image


def conditional_loss(
    policy_chosen: Float[Tensor, " batch"],
    policy_corrupted: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_corrupted: Float[Tensor, " batch"],
    beta: int | float = 0.1,
) -> PreferenceLoss:
    """CoPO: the chosen answer is to gain more under its own image than under a corrupted one.

        L = mean[-log s(beta · log p(y_w|m,q)/p_ref(y_w|m,q) - beta · log p(y_w|m',q)/p_ref(y_w|m',q))]

    One answer, two images, all [B] and summed over the answer's tokens. `*_corrupted` are those of
    the *same* chosen answer with m' in place of the image m, and the reference sees m', too. For a
    model that does not look, the two log p are one number and cancel: only looking lowers the loss.

    m' has to lack what the answer tells of, and little else. The authors do best with a random crop
    ("0-20 %"), better than with another image of the data set. `beta`: as in `dpo_loss`.

    Returns a `PreferenceLoss` in float32 or wider; `rejected_rewards` are those under m'. No answer
    at all gives 0. Raises ValueError for beta not above zero.

    Wang et al. 2024 (mDPO), arXiv:2406.11839, section 3. Chapter 6.
    """
    return dpo_loss(policy_chosen, policy_corrupted, reference_chosen, reference_corrupted, beta)


def anchored_loss(
    policy_chosen: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    beta: int | float = 0.1,
    anchor: int | float = 0.0,
) -> Float[Tensor, ""]:
    """AncPO: the chosen answer's own reward is to stay above an anchor.

        L = mean[-log s(beta · log p(y_w|m,q)/p_ref(y_w|m,q) - anchor)]

    DPO holds only a difference, and the likelihood of the chosen answer sinks with the rejected
    one's; this pulls it back, and the harder the further it has sunk. `anchor` (the paper's delta,
    0 there) is the reward asked for: above 0 the answer has to become more likely than it was. Both
    inputs [B], summed over the answer's tokens; `beta` as in `dpo_loss`.

    Returns a scalar in float32 or wider; no answer at all gives 0. Raises ValueError for beta not
    above zero.

    Wang et al. 2024 (mDPO), arXiv:2406.11839, section 3. Chapter 6.
    """
    require_positive(beta)
    losses = -F.logsigmoid(beta * log_ratios(policy_chosen, reference_chosen) - anchor)
    return per_item(losses.sum(), len(losses))


def mdpo_loss(
    policy_chosen: Float[Tensor, " batch"],
    policy_rejected: Float[Tensor, " batch"],
    policy_corrupted: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_rejected: Float[Tensor, " batch"],
    reference_corrupted: Float[Tensor, " batch"],
    beta: int | float = 0.1,
    anchor: int | float = 0.0,
) -> ImagePreferenceLoss:
    """mDPO: DPO on two answers, CoPO on two images, and an anchor under the chosen one.

        L = dpo_loss(y_w, y_l | m) + conditional_loss(y_w | m, m') + anchored_loss(y_w | m)

    Each with weight 1 and the same beta; three forward passes a pair in place of two, and as many
    of the reference. `*_corrupted` [B]: the chosen answer under the corrupted image m'. The
    implicit reward is DPO's, beta · log(p / p_ref). Log the mean of chosen - corrupted rewards, too:
    it says how much more than the reference the policy goes by the picture. For an ablation add the
    parts that remain.

    Returns an `ImagePreferenceLoss` in float32 or wider; no pair at all gives 0. Raises ValueError
    for beta not above zero.

    Wang et al. 2024 (mDPO), arXiv:2406.11839, section 3; TRL 1.16 has none. Chapter 6.
    """
    answers = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    images = conditional_loss(
        policy_chosen, policy_corrupted, reference_chosen, reference_corrupted, beta
    )
    held = anchored_loss(policy_chosen, reference_chosen, beta, anchor)
    return ImagePreferenceLoss(
        answers.loss + images.loss + held,
        answers.chosen_rewards,
        answers.rejected_rewards,
        images.rejected_rewards,
    )
