"""Chapter 5, RLHF for a vision-language model: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labs.grading import exercise

# -- reward_loss -------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=15,
    section="The reward model",
    forbid=("trl",),
    hints=(
        "Bradley-Terry: the chance that the chosen answer wins is the sigmoid of a difference. Of "
        "which one, and where does a margin make that harder?",
        "`log(sigmoid(x))` is minus infinity as soon as `sigmoid(x)` underflows, near x = -89. "
        "PyTorch has one function for both.",
        "`gap = chosen - rejected - margin`, then `-F.logsigmoid(gap).mean()`, and "
        "`centring * (chosen + rejected).square().mean()` on top.",
    ),
)
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
    # --- answer
    gap = chosen - rejected
    if margin is not None:
        gap = gap - margin
    return -F.logsigmoid(gap).mean() + centring * (chosen + rejected).square().mean()
    # --- end


@reward_loss.alternative
def by_softplus(chosen, rejected, margin=None, centring=0.0):
    wrong_way = rejected - chosen + (0 if margin is None else margin)
    total = F.softplus(wrong_way).sum() + centring * ((chosen + rejected) ** 2).sum()
    return total / len(chosen)


@reward_loss.alternative
def as_a_two_way_choice(chosen, rejected, margin=None, centring=0.0):
    handicap = torch.zeros_like(chosen) if margin is None else margin
    logits = torch.stack([chosen - handicap, rejected], dim=1)
    first = torch.zeros(len(chosen), dtype=torch.long)
    middle = (chosen + rejected) / 2
    return F.cross_entropy(logits, first) + 4 * centring * middle.pow(2).mean()


@reward_loss.mistake(
    "The difference is the wrong way round: the loss falls when the rejected answer scores higher."
)
def prefers_the_rejected(chosen, rejected, margin=None, centring=0.0):
    gap = rejected - chosen
    if margin is not None:
        gap = gap - margin
    return -F.logsigmoid(gap).mean() + centring * (chosen + rejected).square().mean()


@prefers_the_rejected.again
def pair_exchanged(chosen, rejected, margin=None, centring=0.0):
    m = 0.0 if margin is None else margin
    push = torch.nn.functional.softplus(chosen - rejected + m)
    drift = (rejected + chosen).pow(2)
    return torch.mean(push + centring * drift)


@reward_loss.mistake(
    "The margin is added to the difference: a pair that should be further apart is let off sooner."
)
def margin_added(chosen, rejected, margin=None, centring=0.0):
    gap = chosen - rejected
    if margin is not None:
        gap = gap + margin
    return -F.logsigmoid(gap).mean() + centring * (chosen + rejected).square().mean()


@margin_added.again
def head_start_for_the_chosen(chosen, rejected, margin=None, centring=0.0):
    lead = torch.zeros_like(chosen) if margin is None else margin
    target = torch.ones_like(chosen)
    bce = F.binary_cross_entropy_with_logits(chosen + lead - rejected, target)
    return bce + centring * torch.mean((chosen + rejected) ** 2)


@reward_loss.mistake(
    "Centring acts on the difference of the scores. That pulls the pair together, which the first "
    "term pushes apart, and leaves the drift of both alone: it is their *sum* that should be small."
)
def centres_the_difference(chosen, rejected, margin=None, centring=0.0):
    gap = chosen - rejected - (0 if margin is None else margin)
    return -F.logsigmoid(gap).mean() + centring * (chosen - rejected).square().mean()


@centres_the_difference.again
def squared_gap_penalty(chosen, rejected, margin=None, centring=0.0):
    difference = chosen - rejected
    lowered = difference if margin is None else difference - margin
    losses = F.softplus(-lowered) + centring * difference * difference
    return losses.sum() / losses.numel()


@reward_loss.mistake(
    "That is LLaVA-RLHF's centring, the absolute value of the *mean* of the sums: pairs that are far "
    "off on either side cancel. The exercise asks for the mean of the squares."
)
def absolute_mean(chosen, rejected, margin=None, centring=0.0):
    gap = chosen - rejected - (0 if margin is None else margin)
    return -F.logsigmoid(gap).mean() + centring * (chosen + rejected).mean().abs()


@absolute_mean.again
def size_of_the_average(chosen, rejected, margin=None, centring=0.0):
    both = torch.stack([chosen, rejected])
    gap = both[0] - both[1]
    if margin is not None:
        gap = gap - margin
    drift = both.sum(0).mean()
    return F.softplus(-gap).mean() + centring * torch.sqrt(drift * drift)


@reward_loss.mistake(
    "Sigmoid first, logarithm after: where the scores are hundreds apart the sigmoid underflows to 0 "
    "and its logarithm is minus infinity. `F.logsigmoid` does both at once."
)
def log_of_sigmoid(chosen, rejected, margin=None, centring=0.0):
    gap = chosen - rejected - (0 if margin is None else margin)
    return -torch.log(torch.sigmoid(gap)).mean() + centring * (chosen + rejected).square().mean()


@log_of_sigmoid.again
def log_one_plus_exp(chosen, rejected, margin=None, centring=0.0):
    x = chosen - rejected
    if margin is not None:
        x = x - margin
    pairwise = (1 + (-x).exp()).log()
    return pairwise.mean() + centring * ((chosen + rejected) ** 2).mean()


@reward_loss.mistake("The losses of the pairs are summed: a larger batch takes larger steps.")
def summed_over_pairs(chosen, rejected, margin=None, centring=0.0):
    gap = chosen - rejected - (0 if margin is None else margin)
    return -F.logsigmoid(gap).sum() + centring * (chosen + rejected).square().sum()


@summed_over_pairs.again
def added_pair_by_pair(chosen, rejected, margin=None, centring=0.0):
    loss = 0.0
    for i in range(chosen.shape[0]):
        m = 0.0 if margin is None else margin[i]
        loss = loss + F.softplus(m - (chosen[i] - rejected[i]))
        loss = loss + centring * (chosen[i] + rejected[i]) ** 2
    return loss


# -- last_token_reward -------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="The reward model",
    forbid=("trl", "transformers"),
    hints=(
        "In a rollout the prompt is padded on the left and the answer on the right. In which column "
        "does the last real token of such a row stand, and what do `-1` and `mask.sum() - 1` give?",
        "You want the largest column whose mask is 1. Give every column its number, hide those "
        "without a token, and take the maximum of each row.",
        "`columns = torch.arange(tokens)`, `last = (columns * attention_mask).argmax(1)`, then "
        "`hidden[torch.arange(batch), last] @ head`.",
    ),
)
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
    # --- answer
    columns = torch.arange(attention_mask.shape[1])
    last = (columns * attention_mask).argmax(dim=1)
    return hidden[torch.arange(len(hidden)), last] @ head
    # --- end


@last_token_reward.alternative
def by_counting_up(hidden, attention_mask, head):
    last = attention_mask.cumsum(dim=1).argmax(dim=1)  # the first column that has seen them all
    index = last[:, None, None].expand(-1, 1, hidden.shape[-1])
    return (hidden.gather(1, index).squeeze(1) * head).sum(-1)


@last_token_reward.alternative
def row_by_row(hidden, attention_mask, head):
    rewards = []
    for states, mask in zip(hidden, attention_mask, strict=True):
        rewards.append(states[mask.bool()][-1] @ head)
    return torch.stack(rewards)


@last_token_reward.alternative
def from_behind(hidden, attention_mask, head):
    from_the_end = attention_mask.flip(1).argmax(dim=1)
    scores = (hidden * head).sum(-1)
    return scores.flip(1).gather(1, from_the_end[:, None])[:, 0]


@last_token_reward.mistake(
    "The last *column* is read, -1: with padding on the right that is the state of a padding token."
)
def last_column(hidden, attention_mask, head):
    return hidden[:, -1] @ head


@last_column.again
def whatever_stands_last(hidden, attention_mask, head):
    scores = torch.einsum("btd,d->bt", hidden, head)
    return scores[:, scores.shape[1] - 1]


@last_token_reward.mistake(
    "The number of real tokens, less one, is taken for a column. That holds where they start in "
    "column 0 and none is missing: with padding on the left, or a masked place, it points too early."
)
def count_less_one(hidden, attention_mask, head):
    last = attention_mask.sum(dim=1) - 1
    return hidden[torch.arange(len(hidden)), last] @ head


@count_less_one.again
def length_as_index(hidden, attention_mask, head):
    out = []
    for b in range(hidden.shape[0]):
        length = int(attention_mask[b].sum())
        out.append(hidden[b, length - 1].dot(head))
    return torch.stack(out)


@last_token_reward.mistake(
    "The column before the first masked one is read. That is right for padding on the right, and by "
    "luck for padding on the left alone, where it wraps to -1; with padding on both sides, or a masked "
    "place inside, it is another token."
)
def before_the_first_zero(hidden, attention_mask, head):
    last = attention_mask.argmin(dim=1) - 1
    return hidden[torch.arange(len(hidden)), last] @ head


@before_the_first_zero.again
def where_padding_begins(hidden, attention_mask, head):
    is_pad = (attention_mask == 0).int()
    index = is_pad.argmax(-1) - 1
    index = index % attention_mask.shape[-1]  # as in GPT2ForSequenceClassification
    picked = hidden.take_along_dim(index[:, None, None], dim=1)[:, 0]
    return picked @ head


@last_token_reward.mistake(
    "One token too early: the state before the last has not read how the answer ends. (Labels are "
    "shifted in a language model's loss; a reward is not a prediction of the next token.)"
)
def one_too_early(hidden, attention_mask, head):
    columns = torch.arange(attention_mask.shape[1])
    last = (columns * attention_mask).argmax(dim=1)
    return hidden[torch.arange(len(hidden)), last - 1] @ head


@one_too_early.again
def predicts_the_last_token(hidden, attention_mask, head):
    rewards = hidden.new_zeros(len(hidden))
    for b, row in enumerate(attention_mask.tolist()):
        end = max(t for t, real in enumerate(row) if real)
        rewards[b] = hidden[b, end - 1] @ head
    return rewards


@last_token_reward.mistake(
    "One token too late: the column after the last token is padding, and its state is not that of the "
    "answer. (Where a row has no padding behind it, this happens to read the right one.)"
)
def one_too_late(hidden, attention_mask, head):
    columns = torch.arange(attention_mask.shape[1])
    last = (columns * attention_mask).argmax(dim=1) + 1
    last = last.clamp(max=attention_mask.shape[1] - 1)
    return hidden[torch.arange(len(hidden)), last] @ head


@one_too_late.again
def first_pad_after_it(hidden, attention_mask, head):
    scores, width = hidden @ head, attention_mask.shape[1]
    behind = width - attention_mask.flip(1).argmax(1)
    behind = torch.where(behind < width, behind, width - 1)
    return scores[range(len(scores)), behind]


@last_token_reward.mistake(
    "This is the mean over all real tokens. A causal model's early states have not read the answer: "
    "the reward would be mostly that of the prompt and its image tokens."
)
def mean_pooled(hidden, attention_mask, head):
    scores = (hidden @ head) * attention_mask
    return scores.sum(dim=1) / attention_mask.sum(dim=1)


@mean_pooled.again
def average_state(hidden, attention_mask, head):
    pooled = [h[m > 0].mean(0) for h, m in zip(hidden, attention_mask, strict=True)]
    return torch.stack(pooled) @ head


# -- gae ---------------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=15,
    difficulty="challenge",
    minutes=35,
    section="PPO",
    forbid=("trl",),
    hints=(
        "Which advantage do you know without knowing any other? Start there, and let each one use "
        "the one after it.",
        "Two things cross from t + 1 to t: its value, times gamma, and its advantage, times gamma and "
        "lambda. What must both be after the last token of an answer?",
        "Keep `running` and `next_value`, both zeros `[batch]`. For t from the last to the first: "
        "`delta = rewards[:, t] + gamma * next_value - values[:, t]`, `running = (delta + gamma * lam "
        "* running) * mask[:, t]`, `next_value = values[:, t] * mask[:, t]`.",
    ),
)
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
    # --- answer
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask
    # --- end


@gae.alternative
def by_discount_matrix(rewards, values, mask, gamma, lam):
    kept = values * mask
    following = F.pad(kept[:, 1:], (0, 1))
    delta = (rewards + gamma * following - values) * mask
    tokens = torch.arange(rewards.shape[1])
    ahead = tokens[None, :] - tokens[:, None]
    weights = torch.where(ahead >= 0, (gamma * lam) ** ahead.clamp(min=0), 0.0).to(rewards.dtype)
    advantages = delta @ weights.T * mask
    return advantages, advantages + kept


@gae.alternative
def by_lambda_returns(rewards, values, mask, gamma, lam):
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b in range(len(rewards)):
        to_come, value = 0.0, 0.0
        for t in reversed(range(int(mask[b].sum()))):
            blend = (1 - lam) * value + lam * to_come
            to_come = float(rewards[b, t]) + gamma * blend
            value = float(values[b, t])
            returns[b, t] = to_come
            advantages[b, t] = to_come - value
    return advantages, returns


@gae.mistake(
    "The last token bootstraps from padding: the value one place further belongs to no token of the "
    "answer. After the last token the next value is 0."
)
def value_of_padding(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * after - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


@value_of_padding.again
def next_column_always(rewards, values, mask, gamma, lam):
    m = mask.to(values.dtype)
    v_next = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    td = (rewards + gamma * v_next - values) * m
    adv, last = [], 0.0
    for step in range(td.shape[1] - 1, -1, -1):
        last = td[:, step] + gamma * lam * last
        adv.insert(0, last)
    adv = torch.stack(adv, dim=1) * m
    return adv, adv + values * m


@gae.mistake(
    "The sum is not reset at the end of an answer: what was gathered in the padding, where the loop "
    "began, flows into its last tokens."
)
def never_reset(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    following = F.pad((values * mask)[:, 1:], (0, 1))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * following[:, t] - values[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages * mask, (advantages + values) * mask


@never_reset.again
def masks_only_the_result(rewards, values, mask, gamma, lam):
    batch, n = rewards.shape
    out = torch.empty_like(rewards)
    for i in range(batch):
        carry = 0.0
        for t in range(n - 1, -1, -1):
            nxt = values[i, t + 1].item() if t < n - 1 and mask[i, t + 1] else 0.0
            carry = (rewards[i, t] + gamma * nxt - values[i, t]).item() + gamma * lam * carry
            out[i, t] = carry
    return torch.where(mask, out, 0.0), torch.where(mask, out + values, 0.0)


@gae.mistake(
    "The advantage after this one is weighted with lambda alone: gamma is missing in the recursion."
)
def gamma_forgotten(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + lam * running) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


@gamma_forgotten.again
def decays_by_lambda_only(rewards, values, mask, gamma, lam):
    v = values.masked_fill(~mask, 0.0)
    deltas = rewards + gamma * torch.nn.functional.pad(v, (0, 1))[:, 1:] - v
    deltas = deltas.masked_fill(~mask, 0.0)
    adv = deltas.clone()
    for t in range(adv.size(1) - 2, -1, -1):
        adv[:, t] += lam * adv[:, t + 1]
    return adv, adv + v


@gae.mistake(
    "Gamma and lambda have changed places: lambda discounts the next value. Their product hides it in "
    "the recursion; the deltas show it."
)
def exchanged(rewards, values, mask, gamma, lam):
    gamma, lam = lam, gamma
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


@exchanged.again
def lambda_on_the_value(rewards, values, mask, gamma, lam):
    adv = torch.zeros_like(rewards)
    for b, length in enumerate(mask.sum(1).tolist()):
        for t in reversed(range(length)):
            ahead = t + 1 < length
            td = rewards[b, t] - values[b, t] + (lam * values[b, t + 1] if ahead else 0.0)
            adv[b, t] = td + (lam * gamma * adv[b, t + 1] if ahead else 0.0)
    return adv, torch.where(mask, adv + values, torch.zeros_like(adv))


@gae.mistake(
    "The returns are the advantages again. The critic learns values, so its target is the advantage "
    "plus the value it was measured from."
)
def advantages_twice(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = running
    return advantages, advantages.clone()


@advantages_twice.again
def target_without_the_value(rewards, values, mask, gamma, lam):
    n = rewards.shape[1]
    kept = values * mask
    delta = (rewards - kept) * mask
    delta[:, :-1] += gamma * kept[:, 1:]
    adv = sum(
        (gamma * lam) ** k * torch.cat([delta[:, k:], delta.new_zeros(len(delta), k)], dim=1)
        for k in range(n)
    )
    adv = adv * mask
    return adv, adv


@gae.mistake(
    "The loop runs forwards: an early token is credited with what came before it, and the last one "
    "with the whole answer. Advantages look ahead."
)
def forwards(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    following = F.pad((values * mask)[:, 1:], (0, 1))
    for t in range(rewards.shape[1]):
        delta = rewards[:, t] + gamma * following[:, t] - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


@forwards.again
def past_deltas(rewards, values, mask, gamma, lam):
    adv = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        length, before = int(mask[b].sum()), 0.0
        for t in range(length):
            v_next = float(values[b, t + 1]) if t + 1 < length else 0.0
            before = float(rewards[b, t] - values[b, t]) + gamma * (v_next + lam * before)
            adv[b, t] = before
    return adv, adv + values.masked_fill(~mask, 0)


@gae.mistake(
    "The returns are the discounted sums of the rewards, whatever lambda is. That is the return for "
    "lambda = 1 only; else it is the advantage plus the value."
)
def monte_carlo_returns(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    next_value, to_come = torch.zeros_like(running), torch.zeros_like(running)
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        to_come = (rewards[:, t] + gamma * to_come) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t], returns[:, t] = running, to_come
    return advantages, returns


@monte_carlo_returns.again
def rewards_to_go(rewards, values, mask, gamma, lam):
    adv, ret = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b, n in enumerate(mask.sum(dim=1).tolist()):
        r, v = rewards[b, :n].tolist(), [*values[b, :n].tolist(), 0.0]
        for t in range(n):
            ret[b, t] = sum(gamma ** (s - t) * r[s] for s in range(t, n))
            adv[b, t] = sum(
                (gamma * lam) ** (s - t) * (r[s] + gamma * v[s + 1] - v[s]) for s in range(t, n)
            )
    return adv, ret


@gae.mistake(
    "The returns are not masked: behind an answer they are the values of padding, and a value loss "
    "that forgets its own mask learns them."
)
def returns_in_the_padding(rewards, values, mask, gamma, lam):
    running = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(running)
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = running
    return advantages, advantages + values


@returns_in_the_padding.again
def values_everywhere(rewards, values, mask, gamma, lam):
    out = values.clone()
    adv = values * 0
    for b, n in enumerate(mask.sum(1).tolist()):
        last = 0.0
        for t in range(n - 1, -1, -1):
            bootstrap = values[b, t + 1] if t < n - 1 else 0.0
            last = rewards[b, t] + gamma * bootstrap - values[b, t] + gamma * lam * last
            adv[b, t] = last
            out[b, t] += last
    return adv, out


# -- ppo_policy_loss ---------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=15,
    difficulty="challenge",
    minutes=30,
    section="PPO",
    forbid=("trl",),
    hints=(
        "What is the ratio when the policy has not moved since the rollout, and what is the loss "
        "then? Which of the inputs are only numbers that were written down?",
        "The objective is the *smaller* of two products, and a loss is minus an objective. The mask "
        "decides which tokens are summed, and how many they are.",
        "`ratio = (logprobs - old_logprobs).exp()`; `worse = torch.minimum(ratio * a, "
        "ratio.clamp(1 - clip, 1 + clip) * a)`; the loss is `-worse[mask].mean()`, with "
        "`old_logprobs` and `a` detached.",
    ),
)
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
    # --- answer
    log_ratio = (logprobs - old_logprobs.detach())[mask]
    advantage = advantages.detach()[mask]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()
    # --- end


@ppo_policy_loss.alternative
def larger_of_two_losses(logprobs, old_logprobs, advantages, mask, clip=0.2):
    a = advantages.detach()
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs.detach(), 0.0))
    losses = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1.0 - clip, 1.0 + clip))
    return (losses * mask).sum() / mask.sum()


@ppo_policy_loss.alternative
def by_the_sign_of_the_advantage(logprobs, old_logprobs, advantages, mask, clip=0.2):
    with torch.no_grad():
        old, a = old_logprobs[mask], advantages[mask]
    ratio = torch.exp(logprobs[mask] - old)
    limit = torch.where(a > 0, ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip))
    return -(limit @ a) / len(a)


@ppo_policy_loss.mistake(
    "The *larger* of the two products is taken: clipping then acts where it should not, and a policy "
    "that moves too far in the good direction is paid for it. A loss is minus the minimum."
)
def optimistic(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs.detach())[mask].exp()
    a = advantages.detach()[mask]
    return -torch.maximum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()


@optimistic.again
def smaller_of_two_losses(logprobs, old_logprobs, advantages, mask, clip=0.2):
    adv = advantages.detach()
    r = torch.exp((logprobs - old_logprobs.detach()).masked_fill(~mask, 0.0))
    plain, bounded = -adv * r, -adv * torch.clip(r, 1 - clip, 1 + clip)
    return torch.min(plain, bounded).masked_fill(~mask, 0.0).sum() / mask.sum()


@ppo_policy_loss.mistake(
    "The sign is missing: this is the objective, which should grow. An optimizer makes it smaller, "
    "and the policy learns what it should avoid."
)
def objective_not_loss(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs.detach())[mask].exp()
    a = advantages.detach()[mask]
    return torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()


@objective_not_loss.again
def ascends_downhill(logprobs, old_logprobs, advantages, mask, clip=0.2):
    total, count = logprobs.new_zeros(()), 0
    for new, old, a in zip(
        logprobs[mask], old_logprobs[mask].tolist(), advantages[mask].tolist(), strict=True
    ):
        ratio = torch.exp(new - old)
        bound = ratio.clamp(1 - clip, 1 + clip)
        total = total + torch.min(ratio * a, bound * a)
        count += 1
    return total / count


@ppo_policy_loss.mistake(
    "The *logarithm* of the ratio is clipped to plus or minus epsilon: the ratio then ranges from "
    "exp(-0.2) = 0.82 to exp(0.2) = 1.22, not from 0.8 to 1.2."
)
def clips_the_logarithm(logprobs, old_logprobs, advantages, mask, clip=0.2):
    log_ratio = (logprobs - old_logprobs.detach())[mask]
    a = advantages.detach()[mask]
    return -torch.minimum(log_ratio.exp() * a, log_ratio.clamp(-clip, clip).exp() * a).mean()


@clips_the_logarithm.again
def bounded_before_exp(logprobs, old_logprobs, advantages, mask, clip=0.2):
    shift = torch.where(mask, logprobs - old_logprobs.detach(), torch.zeros_like(logprobs))
    bounded = torch.maximum(torch.minimum(shift, shift * 0 + clip), shift * 0 - clip)
    a = advantages.detach()
    losses = torch.max(-a * shift.exp(), -a * bounded.exp())
    return torch.where(mask, losses, 0).sum() / mask.sum()


@ppo_policy_loss.mistake(
    "The sum is divided by all positions, padding too: the loss shrinks with the longest answer of "
    "the batch."
)
def mean_over_padding(logprobs, old_logprobs, advantages, mask, clip=0.2):
    log_ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)
    a = advantages.detach()
    ratio = log_ratio.exp()
    return -(torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a) * mask).mean()


@mean_over_padding.again
def divided_by_every_place(logprobs, old_logprobs, advantages, mask, clip=0.2):
    r = (logprobs[mask] - old_logprobs.detach()[mask]).exp()
    a = advantages.detach()[mask]
    losses = torch.maximum(-r * a, -torch.clamp(r, 1 - clip, 1 + clip) * a)
    batch, tokens = mask.shape
    return losses.sum() / (batch * tokens)


@ppo_policy_loss.mistake(
    "Gradient flows into the log-probabilities of the rollout, or into the advantages: both are "
    "numbers that were written down. Where the old policy is the same module the two gradients "
    "cancel, and where advantages carry one, the policy loss trains the critic."
)
def constants_not_detached(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs)[mask].exp()
    a = advantages[mask]
    return -torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()


@constants_not_detached.again
def everything_differentiable(logprobs, old_logprobs, advantages, mask, clip=0.2):
    delta = torch.where(mask, logprobs - old_logprobs, 0.0)
    r = torch.exp(delta)
    losses = torch.max(-advantages * r, -advantages * r.clip(1 - clip, 1 + clip))
    return (losses * mask.float()).sum() / mask.float().sum()


@ppo_policy_loss.mistake(
    "Clipped above only: a token of negative advantage whose ratio has fallen below 1 - epsilon is "
    "pushed down without end."
)
def clips_only_above(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs.detach())[mask].exp()
    a = advantages.detach()[mask]
    return -torch.minimum(ratio * a, ratio.clamp(max=1 + clip) * a).mean()


@clips_only_above.again
def no_floor(logprobs, old_logprobs, advantages, mask, clip=0.2):
    adv = advantages.detach()
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs.detach(), 0.0))
    ceiling = torch.minimum(ratio, torch.full_like(ratio, 1 + clip))
    losses = torch.maximum(-ratio * adv, -ceiling * adv)
    return (losses * mask).sum() / mask.sum()


@ppo_policy_loss.mistake(
    "Only the clipped product is used, without the minimum: a step in the wrong direction that has "
    "left the range loses its gradient and is never taken back."
)
def never_the_minimum(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs.detach())[mask].exp()
    return -(ratio.clamp(1 - clip, 1 + clip) * advantages.detach()[mask]).mean()


@never_the_minimum.again
def clipped_surrogate_alone(logprobs, old_logprobs, advantages, mask, clip=0.2):
    delta = (logprobs - old_logprobs.detach()).masked_fill(~mask, 0)
    bounded = torch.clip(delta.exp(), 1 - clip, 1 + clip)
    return torch.sum(-bounded * advantages.detach() * mask) / torch.sum(mask)


@ppo_policy_loss.mistake(
    "The old log-probabilities are not used: the ratio is 1 everywhere, nothing is ever clipped, and "
    "from the second minibatch on the answers are not those of the policy that is updated."
)
def ratio_always_one(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - logprobs.detach())[mask].exp()
    a = advantages.detach()[mask]
    return -torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()


@ratio_always_one.again
def fresh_old_policy(logprobs, old_logprobs, advantages, mask, clip=0.2):
    old = logprobs.clone().detach()
    r = torch.exp(torch.where(mask, logprobs - old, 0.0))
    a = advantages.detach()
    losses = torch.maximum(-a * r, -a * torch.clamp(r, 1 - clip, 1 + clip))
    return (losses * mask).sum() / mask.sum()


@ppo_policy_loss.mistake(
    "This is the mean over answers of each answer's mean, GRPO's first form: a token of a short answer "
    "weighs more. The exercise asks for the mean over all tokens."
)
def mean_of_row_means(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = advantages.detach()
    worse = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a) * mask
    counts = mask.sum(1)
    return -(worse.sum(1)[counts > 0] / counts[counts > 0]).mean()


@mean_of_row_means.again
def answer_by_answer(logprobs, old_logprobs, advantages, mask, clip=0.2):
    means = []
    for new, old, a, m in zip(logprobs, old_logprobs, advantages, mask, strict=True):
        if not m.any():
            continue
        r, a = torch.exp(new[m] - old[m].detach()), a[m].detach()
        means.append(torch.max(-a * r, -a * r.clamp(1 - clip, 1 + clip)).mean())
    return torch.stack(means).mean()


@ppo_policy_loss.mistake(
    "The mask comes after the exponential: a ratio that overflows in the padding is infinity times 0, "
    "which is not a number. Mask the logarithm first."
)
def infinity_times_zero(logprobs, old_logprobs, advantages, mask, clip=0.2):
    ratio = (logprobs - old_logprobs.detach()).exp()
    a = advantages.detach()
    worse = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return -(worse * mask).sum() / mask.sum()


@infinity_times_zero.again
def multiplied_by_the_mask(logprobs, old_logprobs, advantages, mask, clip=0.2):
    weight = mask.to(logprobs.dtype)
    r = torch.exp(logprobs - old_logprobs.detach())
    losses = torch.maximum(
        -advantages.detach() * r, -advantages.detach() * torch.clamp(r, 1 - clip, 1 + clip)
    )
    return torch.sum(losses * weight) / torch.sum(weight)


# -- mean_kl -----------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="PPO",
    forbid=("trl",),
    hints=(
        "Write d for log p minus log q at the sampled token. Which sign has the average of d, and "
        "which of the three estimates can never be negative at a single token?",
        "k3 is `r - 1 - log r` with r = q / p, the *reference* over the policy. What are r and "
        "log r in terms of d?",
        "`d = (logprobs - reference_logprobs)[mask]`; k1 is `d`, k2 is `d**2 / 2`, k3 is "
        "`torch.exp(-d) - 1 + d`; then `.mean()`.",
    ),
)
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
    # --- answer
    d = (logprobs - reference_logprobs)[mask]
    estimates = {"k1": d, "k2": d.square() / 2, "k3": torch.exp(-d) - 1 + d}
    return estimates[kind].mean()
    # --- end


@mean_kl.alternative
def one_branch_each(logprobs, reference_logprobs, mask, kind="k1"):
    log_r = torch.where(mask, reference_logprobs - logprobs, 0.0)
    if kind == "k1":
        tokens = -log_r
    elif kind == "k2":
        tokens = 0.5 * log_r**2
    else:
        tokens = torch.expm1(log_r) - log_r
    return tokens.sum() / mask.sum()


@mean_kl.alternative
def token_by_token(logprobs, reference_logprobs, mask, kind="k1"):
    total = logprobs.new_zeros(())
    for p, q in zip(logprobs[mask], reference_logprobs[mask], strict=True):
        ratio = (q - p).exp()
        k1 = p - q
        total = total + (k1 if kind == "k1" else k1 * k1 / 2 if kind == "k2" else ratio - 1 + k1)
    return total / mask.sum()


@mean_kl.mistake(
    "k1 has the wrong sign: it is log policy minus log reference, so that it grows as the policy "
    "says more often what the reference would not. As a penalty this one pays the policy to leave."
)
def k1_negated(logprobs, reference_logprobs, mask, kind="k1"):
    d = (logprobs - reference_logprobs)[mask]
    return {"k1": -d, "k2": d.square() / 2, "k3": torch.exp(-d) - 1 + d}[kind].mean()


@k1_negated.again
def reference_minus_policy(logprobs, reference_logprobs, mask, kind="k1"):
    gap = torch.where(mask, reference_logprobs - logprobs, torch.zeros_like(logprobs))
    n = mask.sum()
    if kind == "k2":
        return (gap * gap).sum() / (2 * n)
    if kind == "k3":
        return (gap.exp() - 1 - gap).sum() / n
    return gap.sum() / n


@mean_kl.mistake(
    "k3 has the ratio the wrong way round, policy over reference: its average under the policy is not "
    "the divergence. r is the reference over the policy."
)
def k3_upside_down(logprobs, reference_logprobs, mask, kind="k1"):
    d = (logprobs - reference_logprobs)[mask]
    return {"k1": d, "k2": d.square() / 2, "k3": torch.exp(d) - 1 - d}[kind].mean()


@k3_upside_down.again
def policy_over_reference(logprobs, reference_logprobs, mask, kind="k1"):
    p, q = logprobs[mask], reference_logprobs[mask]
    if kind == "k1":
        return (p - q).mean()
    if kind == "k2":
        return 0.5 * torch.mean((p - q) ** 2)
    ratio = torch.exp(p) / torch.exp(q)
    return torch.mean(ratio - 1 - torch.log(ratio))


@mean_kl.mistake(
    "Reference and policy have changed places in all of it: this is the divergence seen from the "
    "reference, under tokens that the reference did not sample."
)
def sides_exchanged(logprobs, reference_logprobs, mask, kind="k1"):
    d = (reference_logprobs - logprobs)[mask]
    return {"k1": d, "k2": d.square() / 2, "k3": torch.exp(-d) - 1 + d}[kind].mean()


@sides_exchanged.again
def seen_from_the_reference(logprobs, reference_logprobs, mask, kind="k1"):
    log_ratio = torch.where(mask, logprobs - reference_logprobs, 0.0)
    k = {
        "k1": -log_ratio,
        "k2": log_ratio.pow(2).div(2),
        "k3": torch.expm1(log_ratio) - log_ratio,
    }
    return torch.sum(k[kind]) / torch.count_nonzero(mask)


@mean_kl.mistake("k2 lacks its half: near the reference it is then twice the divergence.")
def k2_without_half(logprobs, reference_logprobs, mask, kind="k1"):
    d = (logprobs - reference_logprobs)[mask]
    return {"k1": d, "k2": d.square(), "k3": torch.exp(-d) - 1 + d}[kind].mean()


@k2_without_half.again
def mean_squared_difference(logprobs, reference_logprobs, mask, kind="k1"):
    p, q = logprobs[mask], reference_logprobs[mask]
    if kind == "k2":
        return F.mse_loss(p, q)
    gap = p - q
    return gap.mean() if kind == "k1" else (torch.expm1(-gap) + gap).mean()


@mean_kl.mistake(
    "k3 lacks the minus 1: equal policies would be one apart, and that one cannot be learnt away."
)
def k3_without_one(logprobs, reference_logprobs, mask, kind="k1"):
    d = (logprobs - reference_logprobs)[mask]
    return {"k1": d, "k2": d.square() / 2, "k3": torch.exp(-d) + d}[kind].mean()


@k3_without_one.again
def ratio_less_its_logarithm(logprobs, reference_logprobs, mask, kind="k1"):
    log_r = torch.where(mask, reference_logprobs - logprobs, 0.0)
    n = mask.sum()
    if kind == "k3":
        return ((log_r.exp() - log_r) * mask).sum() / n
    return -log_r.sum() / n if kind == "k1" else log_r.square().sum() / n * 0.5


@mean_kl.mistake(
    "The mean is taken over all positions, padding too: the same answers are nearer to the reference "
    "in a batch that has one long one."
)
def mean_over_all_places(logprobs, reference_logprobs, mask, kind="k1"):
    d = torch.where(mask, logprobs - reference_logprobs, 0.0)
    return {"k1": d, "k2": d.square() / 2, "k3": torch.exp(-d) - 1 + d}[kind].mean()


@mean_over_all_places.again
def divided_by_the_whole_batch(logprobs, reference_logprobs, mask, kind="k1"):
    gap = (logprobs - reference_logprobs)[mask]
    if kind == "k3":
        gap = torch.expm1(-gap) + gap
    if kind == "k2":
        gap = gap * gap * 0.5
    return gap.sum() / logprobs.numel()


@mean_kl.mistake(
    "k1 is clamped at 0 token by token, as LLaVA-RLHF's trainer does: what is cut away would have "
    "cancelled, and the average is too large even where both policies are nearly the same."
)
def k1_clamped(logprobs, reference_logprobs, mask, kind="k1"):
    d = (logprobs - reference_logprobs)[mask]
    estimates = {"k1": d.clamp(min=0), "k2": d.square() / 2, "k3": torch.exp(-d) - 1 + d}
    return estimates[kind].mean()


@k1_clamped.again
def positive_part_only(logprobs, reference_logprobs, mask, kind="k1"):
    gap = torch.where(mask, logprobs - reference_logprobs, 0.0)
    if kind == "k1":
        tokens = torch.relu(gap)
    else:
        tokens = gap**2 / 2 if kind == "k2" else torch.expm1(-gap) + gap
    return tokens.sum() / mask.sum()


# -- group_advantages --------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="GRPO and RLOO",
    forbid=("trl",),
    hints=(
        "`rewards.view(-1, group_size)` puts the answers to one prompt in one row. What is the "
        "baseline of each, in either kind?",
        'For "rloo" the mean of the others is (sum of the row minus this one) / (group_size - 1). For '
        '"grpo" think of a row in which all rewards are equal before you divide.',
        "`rows.std(dim=1, keepdim=True)` divides by n - 1, which is what is asked for. Then "
        "`(rows - rows.mean(1, keepdim=True)) / (std + 1e-4)`, flattened again.",
    ),
)
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
    # --- answer
    rows = rewards.view(-1, group_size)
    if kind == "rloo":
        others = (rows.sum(dim=1, keepdim=True) - rows) / (group_size - 1)
        return (rows - others).flatten()
    deviation = rows.std(dim=1, keepdim=True)
    return ((rows - rows.mean(dim=1, keepdim=True)) / (deviation + 1e-4)).flatten()
    # --- end


@group_advantages.alternative
def scaled_deviations(rewards, group_size, kind="grpo"):
    rows = rewards.reshape(len(rewards) // group_size, group_size)
    centred = rows - rows.mean(1)[:, None]
    if kind == "rloo":  # r - (S - r) / (G - 1) is the deviation from the mean, times G / (G - 1)
        return (centred * group_size / (group_size - 1)).reshape(-1)
    spread = (centred.square().sum(1) / (group_size - 1)).sqrt()
    return (centred / (spread[:, None] + 1e-4)).reshape(-1)


@group_advantages.alternative
def answer_for_answer(rewards, group_size, kind="grpo"):
    found = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        for i in range(group_size):
            if kind == "grpo":
                found.append((group[i] - group.mean()) / (group.std() + 1e-4))
            else:
                found.append(group[i] - torch.cat([group[:i], group[i + 1 :]]).mean())
    return torch.stack(found)


@group_advantages.mistake(
    "The deviation is that of the whole batch: a group with small differences is drowned by one with "
    "large ones. Each group has its own."
)
def deviation_of_the_batch(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    if kind == "rloo":
        return (rows - (rows.sum(1, keepdim=True) - rows) / (group_size - 1)).flatten()
    return ((rows - rows.mean(1, keepdim=True)) / (rewards.std() + 1e-4)).flatten()


@deviation_of_the_batch.again
def one_scale_for_all(rewards, group_size, kind="grpo"):
    out, spread = torch.zeros_like(rewards), float(torch.std(rewards))
    for g in range(0, len(rewards), group_size):
        part = rewards[g : g + group_size]
        if kind == "grpo":
            out[g : g + group_size] = (part - part.mean()) / (spread + 1e-4)
        else:
            out[g : g + group_size] = part - (part.sum() - part) / (group_size - 1)
    return out


@group_advantages.mistake(
    "The standard deviation is divided by G, not by G - 1: with 8 answers all advantages are 7 % too "
    "large, with 2 answers 41 %."
)
def biased_deviation(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    if kind == "rloo":
        return (rows - (rows.sum(1, keepdim=True) - rows) / (group_size - 1)).flatten()
    deviation = rows.std(1, keepdim=True, unbiased=False)
    return ((rows - rows.mean(1, keepdim=True)) / (deviation + 1e-4)).flatten()


@biased_deviation.again
def as_numpy_does(rewards, group_size, kind="grpo"):
    groups = rewards.unflatten(0, (-1, group_size))
    centred = groups - groups.mean(-1, keepdim=True)
    if kind == "rloo":
        return centred.flatten() * (group_size / (group_size - 1))
    rms = centred.pow(2).mean(-1, keepdim=True).sqrt()
    return torch.flatten(centred / (rms + 0.0001))


@group_advantages.mistake(
    "Nothing is added to the deviation: a group of equal rewards is 0 / 0, and one such group makes "
    "the whole update NaN."
)
def no_epsilon(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    if kind == "rloo":
        return (rows - (rows.sum(1, keepdim=True) - rows) / (group_size - 1)).flatten()
    return ((rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)).flatten()


@no_epsilon.again
def z_scores(rewards, group_size, kind="grpo"):
    result = []
    for group in rewards.split(group_size):
        if kind == "rloo":
            result.append(group - (group.sum() - group) / (len(group) - 1))
        else:
            spread, middle = torch.std_mean(group)
            result.append((group - middle) / spread)
    return torch.cat(result)


@group_advantages.mistake(
    "The baseline of RLOO includes the answer itself: each is compared partly with itself, which "
    "makes every advantage too small by (G - 1) / G. Leave it out."
)
def baseline_includes_itself(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    centred = rows - rows.mean(1, keepdim=True)
    if kind == "rloo":
        return centred.flatten()
    return (centred / (rows.std(1, keepdim=True) + 1e-4)).flatten()


@baseline_includes_itself.again
def leaves_nobody_out(rewards, group_size, kind="grpo"):
    baseline = rewards.reshape(-1, group_size).mean(1).repeat_interleave(group_size)
    if kind != "grpo":
        return rewards - baseline
    spread = rewards.reshape(-1, group_size).std(1).repeat_interleave(group_size)
    return (rewards - baseline) / (spread + 1e-4)


@group_advantages.mistake(
    "The sum of the others is divided by G instead of G - 1: they are one fewer, and rewards that are "
    "all shifted up shift the advantages too."
)
def others_divided_by_all(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    if kind == "rloo":
        return (rows - (rows.sum(1, keepdim=True) - rows) / group_size).flatten()
    return ((rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-4)).flatten()


@others_divided_by_all.again
def hole_counted_too(rewards, group_size, kind="grpo"):
    found = torch.empty_like(rewards)
    for i in range(len(rewards)):
        first = i // group_size * group_size
        group = rewards[first : first + group_size].clone()
        if kind == "grpo":
            found[i] = (rewards[i] - group.mean()) / (group.std() + 1e-4)
        else:
            group[i - first] = 0.0
            found[i] = rewards[i] - group.mean()
    return found


@group_advantages.mistake(
    "Answers to different prompts are compared: the batch is laid out group after group, so a group is "
    "a row of `view(-1, group_size)`, not a column of `view(group_size, -1)`."
)
def groups_interleaved(rewards, group_size, kind="grpo"):
    rows = rewards.view(group_size, -1)
    if kind == "rloo":
        return (rows - (rows.sum(0, keepdim=True) - rows) / (group_size - 1)).flatten()
    return ((rows - rows.mean(0, keepdim=True)) / (rows.std(0, keepdim=True) + 1e-4)).flatten()


@groups_interleaved.again
def every_nth_answer(rewards, group_size, kind="grpo"):
    out, prompts = torch.zeros_like(rewards), len(rewards) // group_size
    for p in range(prompts):
        mine = rewards[p::prompts]
        if kind == "rloo":
            out[p::prompts] = mine - (mine.sum() - mine) / (group_size - 1)
        else:
            out[p::prompts] = (mine - mine.mean()) / (mine.std() + 1e-4)
    return out


@group_advantages.mistake(
    "RLOO is divided by the deviation too. Its advantages keep the size of the rewards: dividing makes "
    "a group that nearly always agrees as loud as one that is torn."
)
def rloo_divided_too(rewards, group_size, kind="grpo"):
    rows = rewards.view(-1, group_size)
    baseline = rows.mean(1, keepdim=True)
    if kind == "rloo":
        baseline = (rows.sum(1, keepdim=True) - rows) / (group_size - 1)
    return ((rows - baseline) / (rows.std(1, keepdim=True) + 1e-4)).flatten()


@rloo_divided_too.again
def always_standardised(rewards, group_size, kind="grpo"):
    pieces = []
    for group in rewards.split(group_size):
        centred = group - group.mean()
        if kind == "rloo":
            centred = centred * (group_size / (group_size - 1))
        pieces.append(centred / (group.std() + 1e-4))
    return torch.cat(pieces)


# -- hacked ------------------------------------------------------------------------------------


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


@exercise(
    kind="debug",
    points=15,
    difficulty="challenge",
    minutes=40,
    section="Reward hacking",
    forbid=("trl",),
    diagnoses={
        "length_bias": "the reward model pays for words, and the policy has found out",
        "step_too_large": "the steps are so large that the policy jumps past what it should learn",
        "no_signal": "the rewards do not tell the captions apart, so nothing is learnt",
        "kl_too_strong": "the KL term holds the policy at its start",
        "start_too_narrow": "the policy never says a good caption, so none can be reinforced",
    },
    log=HACKED_LOG,
    broken=run_rlhf,
    hints=(
        "Read the column of the reward and that of the oracle side by side. What else grows in the "
        "lines after they part, and what does the line about pairs say about it?",
        "A KL term makes the same road longer; it does not make it another road. What does the reward "
        "model pay for one word that says nothing, and can you measure that before training?",
        "Both captions of a pair say the same, so `d = pair_scores[:, 1] - pair_scores[:, 0]` is paid "
        "for `w = pair_lengths[:, 1] - pair_lengths[:, 0]` words alone: `slope = (d * w).sum() / "
        "(w * w).sum()`, and the reward is `scores - slope * lengths`.",
    ),
)
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
    """

    # --- answer
    def patched(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        paid = pair_scores[:, 1] - pair_scores[:, 0]
        words = pair_lengths[:, 1] - pair_lengths[:, 0]
        slope = (paid * words).sum() / words.square().sum()
        mended = scores - slope * lengths
        return run_rlhf(
            mended, lengths, start, pair_scores, pair_lengths, steps, learning_rate, kl_coef
        )

    lines = [line for line in HACKED_LOG.splitlines() if line[:4].strip().isdigit()]
    diary = [[float(x) for x in line.split()] for line in lines]
    line = next(
        line
        for line, now, before in zip(lines[1:], diary[1:], diary, strict=False)
        if now[1] > before[1] and now[2] < before[2]
    )
    return {"diagnosis": "length_bias", "evidence": line, "patch": patched}
    # --- end


PARTING = "20    8.22    1.63  24.20       0.86  3.42"


def trained_on(change, diagnosis="length_bias", evidence=PARTING):
    """A whole answer whose patch changes the arguments of `run_rlhf`; it is no answer by itself."""

    def patch(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        given = {
            "scores": scores,
            "lengths": lengths,
            "start": start,
            "pair_scores": pair_scores,
            "pair_lengths": pair_lengths,
            "steps": steps,
            "learning_rate": learning_rate,
            "kl_coef": kl_coef,
        }
        return run_rlhf(**(given | change(given)))

    return {"diagnosis": diagnosis, "evidence": evidence, "patch": patch}


def own_loop(reward_of, rate_of=None):
    """A whole answer with a training loop of its own; it is no answer by itself."""

    def patch(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        reward = reward_of(scores, lengths, start, pair_scores, pair_lengths)
        rate = learning_rate if rate_of is None else rate_of(learning_rate)
        logp, history, paid = start, [start.softmax(-1)], []
        for _ in range(steps):
            paid.append((history[-1] * reward).sum(-1).mean())
            to_start = kl_coef * (logp - start)
            logp = (logp + rate / (1 + rate * kl_coef) * (reward - to_start)).log_softmax(-1)
            history.append(logp.exp())
        paid.append((history[-1] * reward).sum(-1).mean())
        return {"policy": torch.stack(history), "reward": torch.stack(paid)}

    return {"diagnosis": "length_bias", "evidence": PARTING, "patch": patch}


@hacked.alternative
def ratio_of_sums():
    def change(given):
        paid = given["pair_scores"][:, 1].sum() - given["pair_scores"][:, 0].sum()
        words = given["pair_lengths"][:, 1].sum() - given["pair_lengths"][:, 0].sum()
        middle = given["lengths"].mean()
        return {"scores": given["scores"] - paid / words * (given["lengths"] - middle)}

    return trained_on(change)


@hacked.alternative
def median_price_of_a_word():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        prices = pair_scores.diff(dim=1) / pair_lengths.diff(dim=1)
        return scores - prices.median() * lengths

    return own_loop(reward_of)


@hacked.mistake(
    "That is the line where the oracle has fallen below the start. The two have parted long before: by "
    "the rule, at the first line whose reward is higher and whose oracle is lower than just before."
)
def worse_than_the_start():
    line = "40    9.17    0.48  29.49       1.68  6.03"
    return ratio_of_sums() | {"evidence": line}


@worse_than_the_start.again
def below_where_it_began():
    lines = [text.strip() for text in HACKED_LOG.splitlines()]
    rows = [text for text in lines if text and text[0].isdigit()]
    began = float(rows[0].split()[2])
    late = [text for text in rows if float(text.split()[2]) < began]
    return {**median_price_of_a_word(), "evidence": late[0]}


@hacked.mistake(
    "The reward is 0 for every caption: nothing is learnt at all, which hides the fault together with "
    "the training."
)
def paid_nothing():
    return trained_on(lambda given: {"scores": torch.zeros_like(given["scores"])})


@paid_nothing.again
def reward_wiped_out():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        return scores * 0.0

    return own_loop(reward_of)


@hacked.mistake(
    "The learning rate is 0: a policy that does not move cannot be hacked, and cannot learn either."
)
def rate_of_zero():
    return trained_on(lambda given: {"learning_rate": 0.0})


@rate_of_zero.again
def frozen_policy():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        return scores

    return own_loop(reward_of, rate_of=lambda rate: 0)


@hacked.mistake(
    "The KL term is so strong that the policy stays where it started: the fault is hidden, and so is "
    "everything that the reward model knows."
)
def kl_without_end():
    return trained_on(lambda given: {"kl_coef": 1000.0})


@kl_without_end.again
def chained_to_the_start():
    def patch(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        beta, eta = 1e3, learning_rate
        x, seen, paid = start.clone(), [], []
        for _ in range(steps + 1):
            seen.append(torch.exp(x - x.logsumexp(-1, keepdim=True)))
            paid.append((seen[-1] * scores).sum(-1).mean())
            x = (x + eta * (scores + beta * start)) / (1.0 + eta * beta)
        return {"policy": torch.stack(seen), "reward": torch.stack(paid)}

    return {"diagnosis": "length_bias", "evidence": PARTING, "patch": patch}


@hacked.mistake(
    "A KL term of 0.1 makes the same road a little longer: after enough steps the captions are as long "
    "and as wrong. The reward model still pays for words, and a healthy run is held back now too."
)
def kl_added():
    return trained_on(lambda given: {"kl_coef": given["kl_coef"] + 0.1})


@kl_added.again
def a_tenth_of_kl():
    def patch(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        kl_coef = kl_coef + 0.1
        kept = 1 / (1 + learning_rate * kl_coef)
        moved, seen, paid = torch.zeros_like(start), [], []
        for _ in range(steps + 1):
            p = torch.softmax(start + moved, dim=-1)
            seen.append(p)
            paid.append((p * scores).sum() / len(p))
            moved = kept * (moved + learning_rate * scores)
        return {"policy": torch.stack(seen), "reward": torch.stack(paid)}

    return {"diagnosis": "length_bias", "evidence": PARTING, "patch": patch}


def stays_after(patch, step):
    """The run's result with the policy of `step` kept from there on; it is no answer."""

    def stopped(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        found = patch(
            scores, lengths, start, pair_scores, pair_lengths, steps, learning_rate, kl_coef
        )
        kept = [min(step, i) for i in range(steps + 1)]
        return {name: part[kept] for name, part in found.items()}

    return stopped


@hacked.mistake(
    "The run is stopped where the two part. By then the policy has already learnt to be paid for words: "
    "it names more things that are not there than at the start, and a healthy run is cut short."
)
def stopped_early():
    patch = stays_after(run_rlhf, 10)
    return {"diagnosis": "length_bias", "evidence": PARTING, "patch": patch}


@stopped_early.again
def ten_steps_and_no_more():
    def patch(
        scores,
        lengths,
        start,
        pair_scores,
        pair_lengths,
        steps=80,
        learning_rate=0.1,
        kl_coef=0.0,
    ):
        n = min(steps, 10)
        short = run_rlhf(
            scores,
            lengths,
            start,
            pair_scores,
            pair_lengths,
            steps=n,
            learning_rate=learning_rate,
            kl_coef=kl_coef,
        )
        rest = steps - n
        policy = torch.cat([short["policy"], short["policy"][-1:].expand(rest, -1, -1)])
        reward = torch.cat([short["reward"], short["reward"][-1:].expand(rest)])
        return {"policy": policy, "reward": reward}

    return {"diagnosis": "length_bias", "evidence": PARTING, "patch": patch}


@hacked.mistake(
    "The price of a word is copied from the log: that mends this reward model and spoils every other "
    "one. A healthy reward model has no such price. Measure it on the pairs."
)
def price_from_the_log():
    return trained_on(lambda given: {"scores": given["scores"] - 0.3 * given["lengths"]})


@price_from_the_log.again
def fixed_length_penalty():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        penalty = torch.full_like(scores, 0.3) * lengths
        return scores - penalty

    return own_loop(reward_of)


@hacked.mistake(
    "The score is divided by the length. That is a new fault: what a caption says well is worth less "
    "the more it says, and a bad long caption is forgiven."
)
def score_a_word():
    return trained_on(lambda given: {"scores": given["scores"] / given["lengths"]})


@score_a_word.again
def length_normalised():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        per_word = torch.empty_like(scores)
        for i, n in enumerate(lengths.tolist()):
            per_word[:, i] = scores[:, i] / n
        return per_word

    return own_loop(reward_of)


@hacked.mistake(
    "The price of a word is estimated from the policy's own captions. Among those, longer ones also "
    "name more of what is there, so merit is taken for bias and a healthy reward model is spoilt. Two "
    "captions that say the same tell the two apart."
)
def slope_of_all_captions():
    def change(given):
        scores, lengths, p = given["scores"], given["lengths"], given["start"].exp()
        away = lengths - (p * lengths).sum(-1, keepdim=True)
        slope = (p * away * scores).sum() / (p * away.square()).sum()
        return {"scores": scores - slope * lengths}

    return trained_on(change)


@slope_of_all_captions.again
def regression_on_the_policys_captions():
    def reward_of(scores, lengths, start, pair_scores, pair_lengths):
        covariance = variance = 0.0
        for row, logp in zip(scores.double(), start.double(), strict=True):
            p, words = logp.exp(), lengths.double()
            off = words - p @ words
            covariance += p @ (off * (row - p @ row))
            variance += p @ off**2
        return scores - float(covariance / variance) * lengths

    return own_loop(reward_of)


# -- masked ------------------------------------------------------------------------------------


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


@exercise(
    kind="debug",
    points=15,
    difficulty="challenge",
    minutes=30,
    section="What makes it unstable",
    forbid=("trl", "transformers"),
    diagnoses={
        "prompt_in_mask": "the mask holds the prompt too, image placeholders included",
        "padding_in_mask": "the mask holds padding",
        "wrong_reference": "the reference is not the policy that the run started from",
        "temperature": "the rollout and the trainer divide the logits by different temperatures",
        "stale": "the old log-probabilities are those of an earlier policy",
    },
    log=MASKED_LOG,
    broken=tokens_to_train,
    hints=(
        "How many tokens did the policy sample, and over how many places is the mean taken? What does "
        "a language model say about the next token where that token is a placeholder for an image?",
        "The policy chose the tokens of the answer and nothing else: not the image, not the question, "
        "not the padding. In which column does the first token of every answer stand, and which logits "
        "predict it?",
        "`chosen = attention_mask.bool()`, a copy; `chosen[:, :prompt_tokens] = False`; then "
        "`chosen[:, 1:]`, because place t is about the token at t + 1.",
    ),
)
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
    """

    # --- answer
    def patched(input_ids, attention_mask, prompt_tokens, image):
        chosen = attention_mask.bool()
        columns = torch.arange(input_ids.shape[1])
        return (chosen & (columns >= prompt_tokens))[:, 1:]

    line = next(line for line in MASKED_LOG.splitlines() if "True at" in line and "mask" in line)
    return {"diagnosis": "prompt_in_mask", "evidence": line, "patch": patched}
    # --- end


MASK_LINE = "mask [5, 108], True at 290 places, 180 of them in front of an image placeholder"


def masks_with(patch, diagnosis="prompt_in_mask", evidence=MASK_LINE):
    """A whole answer with this patch; it is no answer by itself."""
    return {"diagnosis": diagnosis, "evidence": evidence, "patch": patch}


@masked.alternative
def answer_columns_only():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        before = attention_mask.new_zeros(len(attention_mask), prompt_tokens - 1)
        return torch.cat([before, attention_mask[:, prompt_tokens:]], dim=1) == 1

    return masks_with(patch)


@masked.alternative
def one_row_at_a_time():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = torch.zeros(input_ids.shape[0], input_ids.shape[1] - 1, dtype=torch.bool)
        for row, real in zip(mask, attention_mask, strict=True):
            sampled = int(real[prompt_tokens:].sum())
            row[prompt_tokens - 1 : prompt_tokens - 1 + sampled] = True
        return mask

    return masks_with(patch)


@masked.mistake(
    "Only the image placeholders are taken out: the words of the question and the chat template are "
    "still trained, and the policy sampled none of them. (And a placeholder that it did sample is lost.)"
)
def without_placeholders():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        real = attention_mask[:, 1:].bool()
        return real & (input_ids[:, 1:] != image)

    return masks_with(patch)


@without_placeholders.again
def images_filled_out():
    def no_images(input_ids, attention_mask, prompt_tokens, image):
        kept = attention_mask.masked_fill(input_ids.eq(image), 0)
        return kept[:, 1:] > 0

    return {"diagnosis": "prompt_in_mask", "evidence": MASK_LINE, "patch": no_images}


@masked.mistake(
    "Everything behind the last image placeholder is trained: the question, the template, and the whole "
    "prompt where there is no image."
)
def after_the_last_image():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = attention_mask.bool()
        for b, ids in enumerate(input_ids[:, :prompt_tokens].tolist()):
            if image in ids:
                last = prompt_tokens - 1 - ids[::-1].index(image)
                mask[b, : last + 1] = False
        return mask[:, 1:]

    return masks_with(patch)


@after_the_last_image.again
def from_the_question_on():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        columns = torch.arange(input_ids.shape[1])
        is_image = (input_ids == image) & (columns < prompt_tokens)
        last = torch.where(is_image, columns, -1).amax(dim=1, keepdim=True)
        return (attention_mask.gt(0) & (columns > last))[:, 1:]

    return masks_with(patch)


@masked.mistake(
    "One place too late: the column of a token was taken for the place of its log-probability. The "
    "first token of every answer is lost, and with it the whole of an answer that is one token long."
)
def first_token_lost():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = attention_mask[:, 1:].bool()
        mask[:, :prompt_tokens] = False
        return mask

    return masks_with(patch)


@first_token_lost.again
def places_taken_for_columns():
    def mask_of(input_ids, attention_mask, prompt_tokens, image):
        places = torch.arange(attention_mask.shape[1] - 1)
        return torch.logical_and(attention_mask[:, 1:] == 1, places >= prompt_tokens)

    return {"diagnosis": "prompt_in_mask", "evidence": MASK_LINE, "patch": mask_of}


@masked.mistake(
    "The mask is not shifted: place t is taken for the token at t. Each answer's first token is lost, "
    "and the place behind its end, which predicts padding, is trained."
)
def not_shifted():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        columns = torch.arange(input_ids.shape[1])
        return (attention_mask.bool() & (columns >= prompt_tokens))[:, :-1]

    return masks_with(patch)


@not_shifted.again
def answers_own_columns():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        m = torch.zeros_like(attention_mask, dtype=torch.bool)
        m[:, prompt_tokens:] = attention_mask[:, prompt_tokens:] > 0
        return m[:, : m.shape[1] - 1]

    return masks_with(patch)


@masked.mistake(
    "The padding behind the answers is trained too: every place behind the prompt, whether or not there "
    "is a token."
)
def padding_kept():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = torch.zeros_like(attention_mask[:, 1:], dtype=torch.bool)
        mask[:, prompt_tokens - 1 :] = True
        return mask

    return masks_with(patch)


@padding_kept.again
def all_behind_the_prompt():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        batch, tokens = input_ids.shape
        row = [t + 1 >= prompt_tokens for t in range(tokens - 1)]
        return torch.tensor([row] * batch)

    return masks_with(patch)


@masked.mistake(
    "The last token of each answer is left out. Mostly that is the end token, and a policy that is never "
    "trained on it forgets to stop."
)
def end_left_out():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        columns = torch.arange(input_ids.shape[1])
        chosen = attention_mask.bool() & (columns >= prompt_tokens)
        last = chosen.sum(1, keepdim=True) + prompt_tokens - 1
        return (chosen & (columns != last))[:, 1:]

    return masks_with(patch)


@end_left_out.again
def up_to_the_end():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = torch.zeros(input_ids.shape[0], input_ids.shape[1] - 1, dtype=torch.bool)
        for b in range(len(mask)):
            n = int(attention_mask[b, prompt_tokens:].sum())
            mask[b, prompt_tokens - 1 : prompt_tokens - 1 + max(n - 1, 0)] = True
        return mask

    return masks_with(patch)


@masked.mistake(
    "Rows with an image are skipped. The KL looks right again because the policy is no longer trained on "
    "pictures: that hides the fault."
)
def pictures_skipped():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        columns = torch.arange(input_ids.shape[1])
        chosen = attention_mask.bool() & (columns >= prompt_tokens)
        blind = ~(input_ids[:, :prompt_tokens] == image).any(dim=1, keepdim=True)
        return (chosen & blind)[:, 1:]

    return masks_with(patch)


@pictures_skipped.again
def text_rows_only():
    def patch(input_ids, attention_mask, prompt_tokens, image):
        mask = torch.zeros_like(input_ids[:, 1:], dtype=torch.bool)
        for b, row in enumerate(input_ids.tolist()):
            if image in row[:prompt_tokens]:
                continue
            answer = attention_mask[b, prompt_tokens:].bool()
            mask[b, prompt_tokens - 1 :] = answer
        return mask

    return masks_with(patch)


# -- where_the_kl_goes -------------------------------------------------------------------------


@exercise(
    kind="explain",
    difficulty="challenge",
    minutes=20,
    section="PPO",
)
def where_the_kl_goes():
    """The KL to the reference can be taken off the reward, token by token, or added to the loss as
    a term of its own; it can be estimated by k1, k2 or k3; or left away. Which would you choose for
    your run, and what would you look at to know that the choice was wrong?

    Work out first what the gradient of each estimator is on average, when it is a term of the loss
    and the tokens were sampled from the policy itself. One of the three does nothing.
    """
    # --- answer
    # Write d = log p - log q for policy p and reference q, and let the tokens come from p.
    #
    # **In the reward.** The reward of token t is minus beta times d_t, a number without a gradient.
    # The policy gradient multiplies it (through the advantage) with the gradient of log p. On average
    # that is the gradient of -KL(p || q): k1 belongs here, and it is what PPO in InstructGPT does.
    # LLaVA-RLHF does it with beta = 0.1 and clamps d at 0 (`ppo_trainer.py`), which makes the
    # penalty too large on average: the negative part would have cancelled. With GAE the price of a
    # token reaches the tokens before it; with one advantage an answer (GRPO, RLOO) the sum of the
    # answer's d is taken off its reward, and the baseline takes off what all answers have in common.
    #
    # **In the loss.** Now the estimator itself is differentiated, at tokens that are already sampled.
    #
    # - k1 = d: the gradient is that of log p. Its average under p is the gradient of the sum of p,
    #   which is that of 1: zero. k1 as a loss is noise and holds nothing.
    # - k2 = d^2 / 2: the gradient is d times that of log p. Its average is exactly the gradient of
    #   KL(p || q), although k2's value is off. As a loss it does what k1 does in the reward.
    # - k3 = q/p - 1 + d: the gradient is (1 - q/p) times that of log p. Its average is the gradient
    #   of KL(q || p), the *other* direction: it pulls the policy to wherever the reference has mass,
    #   and where p/q is small the factor q/p is huge. Its value is unbiased and never negative, which
    #   makes it the one to *log*. DeepSeek's GRPO has k3 in the loss.
    #
    # All of this holds where the tokens come from the current policy. After the first minibatch they
    # come from an older one, and the ratio has to multiply the estimate as well.
    #
    # **Or leave it away.** TRL's GRPO has beta = 0 by default and needs no reference model. With a
    # checkable reward there is little to hack, and what holds the policy is the clip range and a
    # small number of steps. With a learnt reward, or a penalty alone, that is a bet: in this chapter
    # captions that are paid only for inventing nothing soon name half of what is there, or nothing,
    # and no column of the reward shows it. Nor does a KL on one task's answers hold the others.
    #
    # **A choice.** A learnt reward: k1 in the reward, 0.02 to 0.1, with the adapter switched off as
    # the reference. A checkable one: none, or k2 in the loss at 0.001 to 0.01; log k3 either way.
    # Adapters and a low rate are a leash of their own.
    #
    # **What would show it wrong.** Held-out tasks that are not rewarded fall while the reward rises
    # (too little). The reward stands still and the KL with it (too much: halve it and see whether
    # the reward moves). k1 and k3 disagree by more than their spread: a mask is wrong, the
    # temperature differs between rollout and trainer, or the old log-probabilities are stale. And a
    # KL that is not 0 at the first update means that the reference is not the start.
    # --- end
