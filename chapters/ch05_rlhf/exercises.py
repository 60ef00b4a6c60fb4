"""Chapter 5, RLHF for a vision-language model: exercises.

Written from solutions/ch05_rlhf.py; don't edit this file. `labs start ch05` copies it to
work/ch05_rlhf/exercises.py: write your answers there, then `labs grade ch05`.
"""

# ruff: noqa: F401  (imports that the answers need)

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def reward_loss(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    margin: Float[Tensor, " pairs"] | None = None,
    centring: float = 0.0,
) -> Float[Tensor, ""]:
    r"""The loss of a reward model on pairs: the chosen answer should score higher, by a margin.

    $$L = -\frac{1}{B} \sum_i \log \sigma(c_i - r_i - m_i)
          + \lambda\, \frac{1}{B} \sum_i (c_i + r_i)^2$$

    - `chosen`, `rejected`: `[pairs]`, the scores $c_i$ and $r_i$ of the two answers of a pair.
    - `margin`: `[pairs]`, $m_i \geq 0$, larger where the annotators agreed more; None is no margin.
    - `centring`: $\lambda$. The first term knows differences only: without the second, the scores
      of a whole model may drift by any amount, and a reward that is added to a KL term, or a stop
      penalty of -8 as in LLaVA-RLHF, then means something else after every training.

    Returns a scalar tensor of the scores' dtype. Graded: the value, with and without margin and
    centring; the gradient; scores that are hundreds apart (the loss stays finite); that a constant
    added to all scores changes nothing without centring.
    """
    raise NotImplementedError("reward_loss: not started")


def last_token_reward(
    hidden: Float[Tensor, "batch tokens width"],
    attention_mask: Int[Tensor, "batch tokens"],
    head: Float[Tensor, " width"],
) -> Float[Tensor, " batch"]:
    r"""The reward of each answer: a linear head on the hidden state of its last real token.

    $$r_b = w \cdot h_{b,\,t^*_b}, \qquad t^*_b = \max \{t : \text{mask}_{b,t} = 1\}$$

    - `hidden`: `[batch, tokens, width]`, what the language model gives after its last layer.
    - `attention_mask`: `[batch, tokens]`, 1 where a token is. Padding may stand on the right, on
      the left, or on both sides: a rollout is a left-padded prompt with a right-padded answer
      behind it. A place inside may be masked too (an image token that was dropped). Every row has
      a token after its first column.
    - `head`: `[width]`, the weight $w$ of the reward head, without a bias.

    Returns rewards `[batch]`. Only the last token has read the whole answer: one token earlier and
    the reward does not know how it ends; one later and it is the reward of padding, which is the
    same number for every answer of one length and trains a reward model that measures length.
    Graded: the values under every kind of padding, a row without padding, a masked place inside;
    the gradients into `hidden` and `head`; that padding does not matter, whatever stands in it.
    """
    raise NotImplementedError("last_token_reward: not started")


def gae(
    rewards: Float[Tensor, "batch tokens"],
    values: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, "batch tokens"], Float[Tensor, "batch tokens"]]:
    r"""Generalised advantage estimation (Schulman et al. 2016) over answers of unequal length.

    $$\delta_t = r_t + \gamma V_{t+1} - V_t, \qquad
      A_t = \delta_t + \gamma \lambda A_{t+1}, \qquad R_t = A_t + V_t$$

    - `rewards`, `values`: `[batch, tokens]`, one reward and one value a token of the answer. In
      RLHF the reward is minus the KL at every token, plus the reward model's score at the last.
    - `mask`: `[batch, tokens]`, True up to and including the last token of an answer, then False;
      a row may have no token at all. **Behind the last token anything may stand in `rewards` and
      `values`**: a value head gives a number for padding too.
    - After the last token there is nothing more to come: there, $V_{t+1} = 0$ and $A_{t+1} = 0$.

    Returns `(advantages, returns)`, both `[batch, tokens]` and 0 where the mask is False. With
    $\gamma = \lambda = 1$, as in LLaVA-RLHF, the return of a token is the sum of the rewards from
    there on. A single value read from padding is enough to teach the critic the value of a pad
    token, and shows only as an explained variance that stays low. Graded: both results, with
    ragged answers, a row without tokens, and numbers in the padding; gamma and lambda apart; the
    limits $\lambda = 0$ and $\lambda = 1$; that more padding changes nothing.
    """
    raise NotImplementedError("gae: not started")


def ppo_policy_loss(
    logprobs: Float[Tensor, "batch tokens"],
    old_logprobs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    r"""PPO's clipped policy loss (Schulman et al. 2017): the mean over all sampled tokens.

    $$\rho_t = \exp(\log \pi(y_t) - \log \pi_\text{old}(y_t)), \qquad
      L = -\frac{1}{N} \sum_{t \in \text{mask}}
      \min\big(\rho_t A_t,\ \text{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, A_t\big)$$

    - `logprobs`: `[batch, tokens]`, of the sampled tokens under the policy as it is now; carries
      the gradient.
    - `old_logprobs`: `[batch, tokens]`, under the policy that sampled them, and `advantages`
      `[batch, tokens]`: constants. No gradient flows into them, even if they were computed with one.
    - `mask`: `[batch, tokens]`, True for sampled tokens; a row may have none. $N$ is their number
      in the whole batch, so every token weighs the same (a mean over rows of each row's mean would
      make a token of a short answer weigh more). What stands under the padding does not matter.
    - `clip`: $\epsilon$.

    The minimum is what makes the clipping one-sided: a step that went too far in the wrong
    direction keeps its gradient and can be taken back. Returns a scalar tensor. Graded: value and
    gradient, for ratios on either side of the clip range and advantages of both signs, with ragged
    answers; that it is minus the mean advantage where the policy has not moved; that nothing flows
    into the constants; that a ratio which overflows in the padding does no harm.
    """
    raise NotImplementedError("ppo_policy_loss: not started")


def mean_kl(
    logprobs: Float[Tensor, "batch tokens"],
    reference_logprobs: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    kind: str = "k1",
) -> Float[Tensor, ""]:
    r"""Three estimates of the KL divergence from the reference, from the sampled tokens alone.

    With $d_t = \log \pi(y_t) - \log \pi_\text{ref}(y_t)$ and $r_t = e^{-d_t}$ (J. Schulman,
    "Approximating KL divergence", 2020):

    $$k_1 = d_t, \qquad k_2 = \tfrac{1}{2} d_t^2, \qquad k_3 = r_t - 1 - \log r_t$$

    - `logprobs`, `reference_logprobs`: `[batch, tokens]`, of the same sampled tokens.
    - `mask`: `[batch, tokens]`, True for sampled tokens; a row may have none.
    - `kind`: "k1", "k2" or "k3".

    Returns a scalar: the mean over all sampled tokens of the batch. Under tokens sampled from
    $\pi$, k1 and k3 average to $\mathrm{KL}(\pi \| \pi_\text{ref})$; k1 may be negative at a token
    (LLaVA-RLHF clamps it at 0, which makes it too large on average), k3 never is, and k2 is a
    little off on average. Over the image placeholders of a prompt none of them means anything:
    nobody sampled those. Graded: the value and the gradient of each kind, with ragged answers; that
    k1 and k3 give the true divergence where every token is there as often as the policy says it.
    """
    raise NotImplementedError("mean_kl: not started")


def group_advantages(
    rewards: Float[Tensor, " answers"], group_size: int, kind: str = "grpo"
) -> Float[Tensor, " answers"]:
    r"""Advantages without a critic: an answer is compared with the other answers to its prompt.

    With the rewards $r_1 \dots r_G$ of one group:

    $$A_i^\text{GRPO} = \frac{r_i - \bar r}{s + 10^{-4}}, \qquad
      A_i^\text{RLOO} = r_i - \frac{1}{G-1} \sum_{j \neq i} r_j$$

    - `rewards`: `[answers]`, the answers to one prompt next to each other: rows 0 to G - 1 answer
      the first prompt, and so on.
    - `group_size`: G, at least 2.
    - `kind`: "grpo" (Shao et al. 2024), where $s$ is the standard deviation of the *group* with
      G - 1 in the denominator, as TRL computes it; or "rloo", leave one out (Ahmadian et al. 2024):
      the baseline is the mean of the *others*, and nothing is divided.

    Returns advantages `[answers]`. A group whose rewards are all equal gives 0 for each of its
    answers: it carries no signal, and a diary should count such groups, because a prompt that is
    always or never answered rightly teaches nothing. Graded: both kinds, for groups of several
    sizes, scales and offsets; a group without a signal; that groups do not see each other.
    """
    raise NotImplementedError("group_advantages: not started")
