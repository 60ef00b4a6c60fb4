"""The checks of chapter 5's exercises. Grade with `labs grade ch05`."""

import math

import numpy as np
import torch

from labs.grading import Check, case, inputs

# -- reward_loss -------------------------------------------------------------------------------


def pair_by_pair(chosen, rejected, margin=None, centring=0.0):
    """-log(1 / (1 + exp(-x))) of each pair, written out in double precision."""
    losses = []
    for i, (c, r) in enumerate(zip(chosen.double(), rejected.double(), strict=True)):
        lead = c - r - (0 if margin is None else margin[i].double())
        losses.append(torch.log1p(torch.exp(-lead)) + centring * (c + r) ** 2)
    return torch.stack(losses).mean().to(chosen.dtype)


def test_reward_loss(check: Check):
    chosen, rejected = inputs.normal(11, seed=1), inputs.normal(11, seed=2) + 0.3
    margin = inputs.normal(11, seed=3).abs()
    far = torch.tensor([310.0, -290.0, 2.0, -0.5, 150.0])
    check.cases(
        [
            case("margin and centring", chosen, rejected, margin, centring=0.05),
            case("neither", chosen, rejected),
            case("a margin", chosen, rejected, margin=margin),
            case("centring", chosen[:7] + 2, rejected[:7] + 2, centring=0.01),
            case("double precision", chosen.double(), rejected.double(), centring=0.1),
            case("scores hundreds apart", far, far.flip(0)),
        ],
        pair_by_pair,
        gradient=["chosen", "rejected"],
    )
    got = check.call(chosen, chosen.clone(), label="equal scores")
    check.equal("Equal scores give ln 2.", got, torch.tensor(math.log(2)))
    check.equal(
        "Without centring, a constant added to all scores changes nothing.",
        check.call(chosen + 3, rejected + 3, margin, label="all scores 3 higher"),
        pair_by_pair(chosen, rejected, margin),
    )


# -- last_token_reward -------------------------------------------------------------------------


def ragged_mask(rows, tokens):
    """[rows, tokens] of the columns [start, end) that hold a token, less those in `missing`."""
    mask = torch.zeros(len(rows), tokens, dtype=torch.long)
    for row, (start, end, *missing) in zip(mask, rows, strict=True):
        row[start:end] = 1
        row[list(missing)] = 0
    return mask


def read_to_the_end(hidden, attention_mask, head):
    """Walk along each row and keep the score of the last real token seen."""
    rewards = []
    for states, mask in zip(hidden, attention_mask.tolist(), strict=True):
        for state, real in zip(states, mask, strict=True):
            if real:
                reward = sum(h * w for h, w in zip(state, head, strict=True))
        rewards.append(reward)
    return torch.stack(rewards)


def test_last_token_reward(check: Check):
    head = inputs.normal(7, seed=11)
    both = ragged_mask([(3, 9), (0, 13), (5, 7), (2, 12), (1, 13)], 13)
    right = ragged_mask([(0, 11), (0, 13), (0, 2), (0, 5)], 13)
    left = ragged_mask([(2, 13), (0, 13), (12, 13)], 13)
    holes = ragged_mask([(0, 10, 3, 4), (2, 13, 6), (1, 8, 2, 6)], 13)
    states = {n: inputs.normal(n, 13, 7, seed=12 + n) for n in (3, 4, 5)}
    check.cases(
        [
            case("padding on both sides", states[5], both, head),
            case("padding on the right", states[4], right, head),
            case("padding on the left", states[3], left, head),
            case("masked places inside", states[3], holes, head),
        ],
        read_to_the_end,
        gradient=["hidden", "head"],
    )
    padded = states[5].masked_fill(both[..., None] == 0, 1e4)
    check.equal(
        "What stands in the padding does not change a reward.",
        check.call(padded, both, head, label="ten thousand in every padded place"),
        read_to_the_end(states[5], both, head),
    )


# -- gae ---------------------------------------------------------------------------------------


def summed_deltas(rewards, values, mask, gamma, lam):
    """The closed form, A_t = sum over k of (gamma lambda)^k delta_{t+k}, one answer at a time."""
    advantages, returns = np.zeros(rewards.shape), np.zeros(rewards.shape)
    for b, length in enumerate(mask.sum(1).tolist()):
        r = rewards[b, :length].double().numpy()
        v = np.append(values[b, :length].double().numpy(), 0.0)
        delta = r + gamma * v[1:] - v[:-1]
        for t in range(length):
            advantages[b, t] = delta[t:] @ (gamma * lam) ** np.arange(length - t)
        returns[b, :length] = advantages[b, :length] + v[:-1]
    return tuple(torch.from_numpy(x).to(rewards.dtype) for x in (advantages, returns))


def test_gae(check: Check):
    mask = inputs.padding_mask(5, 11)
    mask[2] = False
    rewards, values = inputs.normal(5, 11, seed=21), inputs.normal(5, 11, seed=22) + 0.5
    short = inputs.padding_mask(3, 7)
    other = inputs.normal(3, 7, seed=23), inputs.normal(3, 7, seed=24)
    check.cases(
        [
            case("gamma 0.9, lambda 0.7, a row without tokens", rewards, values, mask, 0.9, 0.7),
            case("LLaVA-RLHF's gamma and lambda of 1", rewards, values, mask, 1.0, 1.0),
            case("TRL's lambda of 0.95", *other, short, 1.0, 0.95),
            case("lambda 0", *other, short, 0.8, 0.0),
        ],
        summed_deltas,
    )
    advantages, returns = check.call(rewards, values, mask, 0.9, 1.0, label="lambda 1")
    to_come = torch.zeros(5, 11)
    for t in range(11):
        ahead = (rewards * mask)[:, t:] @ (0.9 ** torch.arange(11.0 - t))
        to_come[:, t] = ahead * mask[:, t]
    check.equal(
        "With lambda = 1 the return is the discounted sum of the rewards to come.", returns, to_come
    )
    check.equal("The advantage is the return less the value.", advantages, to_come - values * mask)
    junk = inputs.normal(5, 6, seed=25, scale=100.0)
    wider = [torch.cat([x, junk], 1) for x in (rewards, values)]
    longer = torch.cat([mask, torch.zeros(5, 6, dtype=torch.bool)], 1)
    got = check.call(*wider, longer, 0.9, 0.7, label="six more columns of padding")
    wanted = summed_deltas(rewards, values, mask, 0.9, 0.7)
    check.equal(
        "More padding, whatever stands in it, changes nothing.",
        [part[:, :11] for part in got],
        list(wanted),
    )


# -- ppo_policy_loss ---------------------------------------------------------------------------


def case_by_case(logprobs, old_logprobs, advantages, mask, clip=0.2):
    """One token at a time, by what the clipping is for: no reward for going further than clip."""
    losses = []
    for b, t in mask.nonzero().tolist():
        ratio = (logprobs[b, t] - old_logprobs[b, t].detach()).exp()
        gain = float(advantages[b, t])
        if gain > 0 and ratio > 1 + clip:
            ratio = torch.full_like(ratio, 1 + clip)
        if gain < 0 and ratio < 1 - clip:
            ratio = torch.full_like(ratio, 1 - clip)
        losses.append(-ratio * gain)
    return sum(losses) / len(losses) + 0 * logprobs[0, 0]


def constants_stay(answer, logprobs, old_logprobs, advantages, mask):
    """Whether no gradient reaches the old log-probabilities, and none the advantages."""
    leaves = [x.clone().requires_grad_() for x in (logprobs, old_logprobs, advantages)]
    slopes = torch.autograd.grad(answer(*leaves, mask), leaves, allow_unused=True)
    return [slope is None or not bool(slope.any()) for slope in slopes[1:]]


def test_ppo_policy_loss(check: Check):
    mask = inputs.padding_mask(5, 11)
    mask[2] = False
    old = -inputs.normal(5, 11, seed=31).abs() - 0.1
    new = old + inputs.normal(5, 11, seed=32, scale=0.4)
    advantages = inputs.normal(5, 11, seed=33) + 0.2
    small = inputs.padding_mask(2, 7)
    other = -inputs.normal(2, 7, seed=34).abs()
    moved = other + inputs.normal(2, 7, seed=35, scale=0.1)
    check.cases(
        [
            case("ratios on either side, one row without tokens", new, old, advantages, mask),
            case("a wide range, 0.5", new, old, advantages, mask, clip=0.5),
            case("a narrow range, 0.05", moved, other, advantages[:2, :7], small, clip=0.05),
            case("nothing is to be gained", new, old, -advantages.abs(), mask),
        ],
        case_by_case,
        gradient=["logprobs"],
    )
    check.equal(
        "Where the policy has not moved the loss is minus the mean advantage.",
        check.call(old.clone(), old, advantages, mask, label="the policy has not moved"),
        -advantages[mask].mean(),
    )
    stays = check.probe(constants_stay, new, old, advantages, mask)
    names = ["old_logprobs", "advantages"]
    leaks = [name for name, constant in zip(names, stays, strict=True) if not constant]
    check.holds(
        "No gradient flows into old_logprobs and advantages.",
        not leaks,
        wanted="none",
        got=f"a gradient into {' and '.join(leaks)}",
    )
    wild = new.masked_fill(~mask, 0.0), old.masked_fill(~mask, -200.0)
    check.equal(
        "What stands in the padding does not matter, even where its ratio overflows.",
        check.call(*wild, advantages, mask, label="log-ratios of 200 in the padding"),
        case_by_case(new, old, advantages, mask),
    )


# -- mean_kl -----------------------------------------------------------------------------------


def by_probabilities(logprobs, reference_logprobs, mask, kind="k1"):
    """Each token's estimate from the two probabilities, in double precision."""
    found = []
    for b, t in mask.nonzero().tolist():
        p, q = logprobs[b, t].double().exp(), reference_logprobs[b, t].double().exp()
        if kind == "k1":
            found.append(torch.log(p / q))
        elif kind == "k2":
            found.append(torch.log(q / p) ** 2 / 2)
        else:
            found.append(q / p - 1 - torch.log(q / p))
    return torch.stack(found).mean().to(logprobs.dtype)


def test_mean_kl(check: Check):
    mask = inputs.padding_mask(5, 11)
    mask[2] = False
    p = -inputs.normal(5, 11, seed=41).abs() - 0.05
    q = p + inputs.normal(5, 11, seed=42, scale=0.6) - 0.2
    small = inputs.padding_mask(3, 7)
    check.cases(
        [
            case("k1, a row without tokens", p, q, mask, "k1"),
            case("k2", p, q, mask, "k2"),
            case("k3", p, q, mask, "k3"),
            case("k3, the policy below the reference", q[:3, :7], p[:3, :7], small, "k3"),
            case("k1 unless told otherwise", p[:3, :7], q[:3, :7], small),
        ],
        by_probabilities,
        gradient=["logprobs"],
    )
    # Seven tokens, each as often in the batch as the policy says it: 1, 2, 3, 5, 7, 11 and 14 of 43.
    often = torch.tensor([1, 2, 3, 5, 7, 11, 14])
    policy, reference = often / 43, torch.tensor([0.3, 0.25, 0.15, 0.1, 0.1, 0.06, 0.04])
    said = torch.repeat_interleave(torch.arange(7), often)[None]
    divergence = (policy * (policy / reference).log()).sum()
    everything = torch.ones_like(said, dtype=torch.bool)
    for kind in ("k1", "k3"):
        check.equal(
            f"Where each token is there as often as the policy says it, {kind} is the divergence.",
            check.call(
                policy.log()[said],
                reference.log()[said],
                everything,
                kind,
                label=f"43 tokens of 7 kinds, {kind}",
            ),
            divergence,
        )
    one_by_one = [
        check.call(p[:1, t : t + 1], q[:1, t : t + 1], mask[:1, t : t + 1], "k3") for t in range(3)
    ]
    check.holds(
        "k3 is never negative.", all(bool(k >= 0) for k in one_by_one), got=f"{one_by_one}"
    )


# -- group_advantages --------------------------------------------------------------------------


def against_the_others(rewards, group_size, kind="grpo"):
    """One answer at a time, in double precision, from all pairs within its group.

    The variance with G - 1 is half the mean squared difference of two different answers.
    """
    values, found = rewards.double().tolist(), []
    for i, reward in enumerate(values):
        first = i - i % group_size
        others = [j for j in range(first, first + group_size) if j != i]
        gaps = [reward - values[j] for j in others]
        if kind == "rloo":
            found.append(sum(gaps) / len(gaps))
            continue
        group = [*others, i]
        squares = [(values[a] - values[b]) ** 2 for a in group for b in group if a != b]
        deviation = math.sqrt(sum(squares) / len(squares) / 2)
        found.append(sum(gaps) / group_size / (deviation + 1e-4))
    return torch.tensor(found, dtype=rewards.dtype)


def test_group_advantages(check: Check):
    sizes = torch.tensor([0.2, 1.0, 5.0]).repeat_interleave(5)
    mixed = inputs.normal(15, seed=51) * sizes + 3 * inputs.normal(3, seed=52).repeat_interleave(5)
    pairs = inputs.normal(14, seed=53) + 1
    right = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0])
    silent = torch.tensor([1.0, 1, 1, 1, 1, 0, 1, 0, 0, 1])
    check.cases(
        [
            case("three groups of five", mixed, 5),
            case("three groups of five, rloo", mixed, 5, "rloo"),
            case("seven pairs", pairs, 2),
            case("seven pairs, rloo", pairs, 2, kind="rloo"),
            case("right or wrong, two groups of seven", right, 7),
            case("all of one group right", silent, 5),
            case("all of one group right, rloo", silent, 5, "rloo"),
        ],
        against_the_others,
    )
    for kind in ("grpo", "rloo"):
        got = check.call(mixed, 5, kind, label=f"{kind}, summed by group")
        check.equal(
            f"The advantages of a group add up to 0 ({kind}).",
            got.view(3, 5).sum(1),
            torch.zeros(3),
            scale=1.0,
        )
    shifted = mixed + torch.tensor([100.0, 0.0, 0.0]).repeat_interleave(5)
    check.equal(
        "The rewards of one group do not touch another's advantages.",
        check.call(shifted, 5, label="the first group 100 higher")[5:],
        against_the_others(mixed, 5)[5:],
    )
