"""Direct preference optimisation: of two answers to one prompt, the better is to gain on the worse.

No reward model and no sampling. The reward that a policy stands for can be read off it,
beta · log(policy / reference), so a loss on rewards is a loss on log-probabilities. Without a
reference: `reference_free`; without pairs: `kto`; with a second image: `mdpo`; several at once: `mixed`.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from labs.losses.generation import per_item
from labs.losses.precision import upcast

VARIANTS = ("sigmoid", "ipo", "hinge", "robust", "bco_pair", "sigmoid_norm")
SMOOTHED = ("sigmoid", "robust")  # those that `label_smoothing` means something to
AVERAGED = ("ipo", "sigmoid_norm")  # those that look at an answer's length


class PreferenceLoss(NamedTuple):
    """`loss` carries the gradient; the implicit rewards are detached, for the log."""

    loss: Float[Tensor, ""]
    chosen_rewards: Float[Tensor, " chosen"]
    rejected_rewards: Float[Tensor, " rejected"]


def dpo_loss(
    policy_chosen: Float[Tensor, " batch"],
    policy_rejected: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_rejected: Float[Tensor, " batch"],
    beta: int | float = 0.1,
    variant: str = "sigmoid",
    label_smoothing: int | float = 0.0,
    chosen_lengths: Shaped[Tensor, " batch"] | None = None,
    rejected_lengths: Shaped[Tensor, " batch"] | None = None,
) -> PreferenceLoss:
    """DPO and its kin, on the summed log-probabilities of whole answers.

    With the log-ratios r_w = log p(y_w) - log p_ref(y_w) of the chosen and r_l of the rejected answer,
    rewards beta · r_w and beta · r_l, margin m = beta · (r_w - r_l), and eps = `label_smoothing`:

        "sigmoid"        -log s(m)                                 DPO: Bradley-Terry on the rewards
          with eps       -(1 - eps) log s(m) - eps log s(-m)       cDPO: best at m = log((1 - eps) / eps)
        "robust"         (-(1 - eps) log s(m) + eps log s(-m)) / (1 - 2 eps)
                         robust DPO: over labels flipped with probability eps, its mean is clean DPO
        "hinge"          max(0, 1 - m)                           SLiC: a pair that is 1 apart rests
        "ipo"            (r_w - r_l - 1 / (2 beta))²             IPO: a distance to meet, not to exceed
        "bco_pair"       -log s(beta r_w) - log s(-beta r_l)     BCO: each answer judged by itself
        "sigmoid_norm"   -log s(beta (r_w / |y_w| - r_l / |y_l|))      DPO, a token's share

    The mean over pairs. s is the logistic function.

    `policy_*` [B] carry the gradient; `reference_*` [B] are those of the frozen model and constants
    here. All are log p(answer | image, prompt): summed over the answer's tokens and no others, on
    the same image, the end token included (`sequence_logprobs`).

    *beta* says how dear it is to leave the reference. In DPO and BCO a small one asks for large
    log-ratios before a pair counts as told apart, so the policy moves far; a large one is content
    early. In IPO it is the paper's tau, and 1 / (2 beta) the distance to reach, so a small one
    again moves further. 0.1 is usual for sums of log-probabilities. A length-averaged ratio is
    smaller by the length, and wants a larger beta in "sigmoid_norm".

    *label_smoothing*, in [0, 0.5), is how often labels are thought to be wrong. cDPO stops at a
    finite margin. Robust DPO never does: its slope stays above eps / (1 - 2 eps) at any margin, and
    its value has no lower bound. `DPOTrainer` of TRL 1.16 ignores `label_smoothing` with "sigmoid";
    its `CPOTrainer` has the cDPO form, and so has this function: a number that is given counts. The
    other variants refuse it.

    *Lengths.* `chosen_lengths` and `rejected_lengths` [B] are numbers of tokens. "sigmoid_norm" needs
    them. "ipo" divides by them where given, as TRL does, else it is the paper's loss on what was
    passed: sums differ by more tokens in long answers, against the same distance. The others do
    not look at them.

    *What it does not hold.* Only differences enter (but for "bco_pair"), so the chosen answer may
    become *less* likely as long as the rejected one falls faster. Log mean log p(y_w); `mpo_loss`
    and `anchored_loss` hold it.

    Returns a `PreferenceLoss` in float32 or wider; its rewards are beta times the ratio that the
    loss has seen, so length-averaged where it averaged (TRL logs sums there, too). No pair at all
    gives 0. Raises ValueError for beta not above zero, an unknown variant, `label_smoothing` out of
    range or with a variant that has none, or lengths that are missing.

    Rafailov et al. 2023 (DPO), arXiv:2305.18290, equation 7; Mitchell 2023 (cDPO), "A note on DPO
    with noisy preferences"; Chowdhury et al. 2024 (robust), arXiv:2403.00409; Zhao et al. 2023
    (SLiC), arXiv:2305.10425, against a reference as in Liu et al. 2023 (RSO), arXiv:2309.06657;
    Azar et al. 2023 (IPO), arXiv:2310.12036, equation 17; Jung et al. 2024 (BCO), arXiv:2404.04656,
    here without its reward shift; Lambert et al. 2024 (Tulu 3, length-normalised DPO),
    arXiv:2411.15124. Names as in TRL. Chapter 6.
    """
    require_positive(beta)
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}.")
    eps = label_smoothing
    if not 0 <= eps < 0.5:
        raise ValueError(f"label_smoothing is a share of wrong labels in [0, 0.5), not {eps}.")
    if eps and variant not in SMOOTHED:
        raise ValueError(f"variant {variant!r} has no label_smoothing, only {SMOOTHED} have.")

    chosen = log_ratios(policy_chosen, reference_chosen)
    rejected = log_ratios(policy_rejected, reference_rejected)
    if variant in AVERAGED:
        if (chosen_lengths is None) != (rejected_lengths is None):
            raise ValueError("chosen_lengths and rejected_lengths come together, or not at all.")
        if chosen_lengths is not None:
            chosen = chosen / chosen_lengths.clamp(min=1)
            rejected = rejected / rejected_lengths.clamp(min=1)
        elif variant == "sigmoid_norm":
            raise ValueError("sigmoid_norm needs chosen_lengths and rejected_lengths, in tokens.")

    distance = chosen - rejected
    margin = beta * distance
    if variant == "hinge":
        losses = F.relu(1 - margin)
    elif variant == "ipo":
        losses = (distance - 1 / (2 * beta)).square()
    elif variant == "bco_pair":
        losses = -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)
    else:
        losses = -F.logsigmoid(margin)
        if eps:
            flipped = -F.logsigmoid(-margin)
            if variant == "robust":
                losses = ((1 - eps) * losses - eps * flipped) / (1 - 2 * eps)
            else:
                losses = (1 - eps) * losses + eps * flipped
    return PreferenceLoss(
        per_item(losses.sum(), len(losses)), (beta * chosen).detach(), (beta * rejected).detach()
    )


def log_ratios(
    policy: Float[Tensor, " batch"], reference: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """log p - log p_ref of each answer, in float32 or wider; the reference is a constant."""
    return upcast(policy) - upcast(reference.detach())


def require_positive(beta: int | float, name: str = "beta") -> None:
    """ValueError unless `beta` is a number above zero: at 0 nothing is learnt, below it the reverse."""
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"{name} is a number above zero, not {beta}.")
