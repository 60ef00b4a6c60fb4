"""Chapter 5, RLHF for a vision-language model: exercises.

Written from solutions/ch05_rlhf.py; don't edit this file. `labs start ch05` copies it to
work/ch05_rlhf/exercises.py: write your answers there, then `labs grade ch05`.
"""

# ruff: noqa: F401  (imports that the answers need)

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def run_rlhf(
    scores: Float[Tensor, "pictures captions"],
    lengths: Float[Tensor, " captions"],
    start: Float[Tensor, "pictures captions"],
    pair_scores: Float[Tensor, "pairs 2"],
    pair_lengths: Float[Tensor, "pairs 2"],
    steps: int = 80,
    learning_rate: float = 0.1,
    kl_coef: float = 0.0,
) -> dict[str, Tensor]:
    """Train a captioner on the scores of a reward model, without sampling noise: the policy is a
    table of log-probabilities of all captions of each picture, and every step is the exact
    policy-gradient step (the natural one, so it adds the reward to the logits).

    `scores`: the reward model's score of each caption; `lengths`: its words; `start`: its
    log-probability after supervised fine-tuning. `pair_scores`, `pair_lengths`: a test of the
    reward model, captions as they are (column 0) and with words of filler added (column 1), which
    say the same. The patch may use all of it; the oracle's judgement is for the diary only.

    Returns "policy" [steps + 1, pictures, captions], the probabilities before every step and at the
    end, and "reward" [steps + 1], the mean of what the policy is paid.
    """
    reward = scores
    logits, policy, paid = start, [], []
    for step in range(steps + 1):
        probabilities = logits.softmax(-1)
        policy.append(probabilities)
        paid.append((probabilities * reward).sum(-1).mean())
        if step < steps:
            pull = kl_coef * start  # towards the start: with kl_coef = 0 there is none
            logits = (logits + learning_rate * (reward + pull)) / (1 + learning_rate * kl_coef)
    return {"policy": torch.stack(policy), "reward": torch.stack(paid)}


HACKED_LOG = """
step  reward  oracle  words  not there    kl
   0    4.07    1.07  11.41       0.39  0.00
  10    6.69    1.79  18.73       0.58  1.21
  20    8.22    1.63  24.20       0.86  3.42
  30    8.86    1.11  27.33       1.25  4.98
  40    9.17    0.48  29.49       1.68  6.03
  50    9.35   -0.07  31.11       2.05  6.83
  60    9.46   -0.48  32.24       2.32  7.44
  70    9.53   -0.74  32.97       2.50  7.88
  80    9.57   -0.91  33.41       2.60  8.17
pairs    31 captions, and the same with 3, 6 or 9 words of filler: the oracle sees no difference,
         the reward model gives 0.30 more for each of those words
control  a reward model that gives nothing for a word: reward 0.65 -> 1.73, oracle 1.07 -> 2.80
"""


def tokens_to_train(
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Int[Tensor, "batch tokens"],
    prompt_tokens: int,
    image: int,
) -> Bool[Tensor, "batch places"]:
    """At which places of `[batch, tokens - 1]` the policy loss and the KL are taken.

    Place t belongs to the logits at t, which predict the token at t + 1: it is that token's
    log-probability that stands there. A row is a prompt, padded on the left to `prompt_tokens`
    columns, and behind it an answer, padded on the right. `attention_mask` is 1 at every token that
    is not padding, the end token of an answer too; `image` is the id of an image placeholder.
    """
    return attention_mask[:, 1:].bool()


MASKED_LOG = """
rollout  5 prompts of [19, 49, 53, 53, 96] tokens, padded on the left to 96; no, one or two images
         21 tokens sampled, log p -0.20 a token under the policy that sampled them
trainer  mask [5, 108], True at 290 places, 180 of them in front of an image placeholder
         log p -11.04 a place; kl to the reference before the first update 0.0000
update   after one step on the answers: over the mask k2 0.0387, over the sampled tokens k2 0.436
control  4 answers to a prompt of one token, no image: 30 tokens sampled, True at 30 places
"""


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
    the reward does not know how it ends; one later, or in the last column, it is read off a padding
    token, at a position that depends on the longest answer in the batch: the same answer then scores
    differently in another batch.
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


def hacked() -> dict:
    r"""A run whose reward rises and whose captions get worse: find out why, when, and mend it.

    The diary below is of a captioner trained on a reward model. Its *reward* column is what the
    model was paid, the *oracle* column what the captions are worth (a thing that is there counts 1,
    a thing that is not there -1.5; the run never sees it). Reward hacking is when the two part.

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`:

    - a key of the list;
    - the line of the diary where they part, by this rule: **the first line whose reward is higher
      and whose oracle is lower than in the line before**;
    - a function with the parameters and the result of `run_rlhf`, in which the cause is gone. It
      may use every argument, and must mend a reward model that it has not seen, whatever that one's
      fault is worth and whichever way it points. "reward" is not graded, it is for the diary.

    Graded, on runs of the patch: in the failing run the captions get better, and name *fewer* things
    that are not there than at the start; the final policy is the one that the same reward model
    without its fault would have given; a healthy reward model gives the policy that it gave before,
    with and without a KL term; another faulty one is mended too.

    The log:

    ```text
    step  reward  oracle  words  not there    kl
       0    4.07    1.07  11.41       0.39  0.00
      10    6.69    1.79  18.73       0.58  1.21
      20    8.22    1.63  24.20       0.86  3.42
      30    8.86    1.11  27.33       1.25  4.98
      40    9.17    0.48  29.49       1.68  6.03
      50    9.35   -0.07  31.11       2.05  6.83
      60    9.46   -0.48  32.24       2.32  7.44
      70    9.53   -0.74  32.97       2.50  7.88
      80    9.57   -0.91  33.41       2.60  8.17
    pairs    31 captions, and the same with 3, 6 or 9 words of filler: the oracle sees no difference,
             the reward model gives 0.30 more for each of those words
    control  a reward model that gives nothing for a word: reward 0.65 -> 1.73, oracle 1.07 -> 2.80
    ```

    The diagnosis is one of:

    - `"length_bias"`: the reward model pays for words, and the policy has found out
    - `"step_too_large"`: the steps are so large that the policy jumps past what it should learn
    - `"no_signal"`: the rewards do not tell the captions apart, so nothing is learnt
    - `"kl_too_strong"`: the KL term holds the policy at its start
    - `"start_too_narrow"`: the policy never says a good caption, so none can be reinforced
    """

    raise NotImplementedError("hacked: not started")


def masked() -> dict:
    r"""A policy loss over tokens that nobody sampled: find the fault of the mask and mend it.

    The log below is of the first updates of tiny-sft, on pictures and without. Everything that RL
    computes on tokens (the ratio, the KL, the entropy, the mean's denominator) is about tokens that
    the *policy* chose. `tokens_to_train` makes the mask.

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters of `tokens_to_train` that
    returns a Bool mask `[batch, tokens - 1]`, True exactly where the token at t + 1 was sampled: from
    the first token of the answer up to and including its end token, or its last token where it was
    cut. A policy may sample any token, an image placeholder too; that one counts.

    Graded: a real batch of the tiny LLaVA with no, one and two images, and what KL and
    log-probability become under the patched mask; answers that are cut, that are an end token alone
    or missing altogether; a healthy batch (a prompt of one token, no image), which must stay as it
    is; inputs unchanged.

    The log:

    ```text
    rollout  5 prompts of [19, 49, 53, 53, 96] tokens, padded on the left to 96; no, one or two images
             21 tokens sampled, log p -0.20 a token under the policy that sampled them
    trainer  mask [5, 108], True at 290 places, 180 of them in front of an image placeholder
             log p -11.04 a place; kl to the reference before the first update 0.0000
    update   after one step on the answers: over the mask k2 0.0387, over the sampled tokens k2 0.436
    control  4 answers to a prompt of one token, no image: 30 tokens sampled, True at 30 places
    ```

    The diagnosis is one of:

    - `"prompt_in_mask"`: the mask holds the prompt too, image placeholders included
    - `"padding_in_mask"`: the mask holds padding
    - `"wrong_reference"`: the reference is not the policy that the run started from
    - `"temperature"`: the rollout and the trainer divide the logits by different temperatures
    - `"stale"`: the old log-probabilities are those of an earlier policy
    """

    raise NotImplementedError("masked: not started")
