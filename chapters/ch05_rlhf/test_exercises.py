"""The checks of chapter 5's exercises. Grade with `labs grade ch05`."""

import copy
import math
import random
import re
from functools import cache, partial

import numpy as np
import torch

from labs.grading import Check, case, inputs

PARTING = "8.22    1.63"  # the line of step 20
MASK_LINE = "True at 290 places, 180 of them"

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
    check.holds("k3 is never negative.", all(bool(k >= 0) for k in one_by_one), got=f"{one_by_one}")


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


# -- hacked ------------------------------------------------------------------------------------

# Every caption names some of 3 things that are there, up to 3 that are not, and has filler.
THERE, NOT_THERE, FILLER = (
    x.flatten().float() for x in torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")
)
WORDS = 2 + 4 * (THERE + NOT_THERE) + 3 * FILLER
WORTH = THERE - 1.5 * NOT_THERE  # the oracle's judgement


def reward_model(price, pictures=5, pairs=31, seed=61):
    """What `run_rlhf` is given, for a reward model that pays `price` for a word; and the scores that
    it would give without that fault. It sees worth with an error of its own, and filler not at all.
    """
    error = inputs.normal(pictures, 4, 4, seed=seed, scale=0.2)
    honest = 0.6 * WORTH + error[:, THERE.long(), NOT_THERE.long()]
    habit = torch.log(torch.tensor([0.10, 0.35, 0.35, 0.20]))[THERE.long()]
    habit = habit + torch.log(torch.tensor([0.70, 0.22, 0.06, 0.02]))[NOT_THERE.long()]
    habit = habit + torch.log(torch.tensor([0.70, 0.20, 0.07, 0.03]))[FILLER.long()]
    start = habit + inputs.normal(pictures, 64, seed=seed + 1, scale=0.2)
    plain = inputs.integers(pairs, below=30, start=5, seed=seed + 2).float()
    longer = plain + 3 * inputs.integers(pairs, below=4, start=1, seed=seed + 3)
    lengths = torch.stack([plain, longer], 1)
    found = inputs.normal(pairs, 1, seed=seed + 4) + price * lengths
    given = (honest + price * WORDS, WORDS, start.log_softmax(-1), found, lengths)
    return given, honest


FAULTY, HONEST = reward_model(0.3)
HEALTHY, _ = reward_model(0.0)
TERSE, TERSE_HONEST = reward_model(-0.12, pictures=3, pairs=17, seed=71)


def without_steps(honest, start, steps, learning_rate=0.1, kl_coef=0.0):
    """The policies in closed form: what each step adds is a geometric series."""
    policies = []
    for k in range(steps + 1):
        times = k * learning_rate
        if kl_coef:
            times = (1 - (1 + learning_rate * kl_coef) ** -k) / kl_coef
        weights = start.double().exp() * torch.exp(times * honest.double())
        policies.append(weights / weights.sum(-1, keepdim=True))
    return torch.stack(policies).float()


def diary(given, policy):
    """(reward, oracle, words, false things, kl) of each step, as the log has them."""
    scores, lengths, start = given[:3]
    kl = policy * (policy.clamp(min=1e-30).log() - start)
    columns = [scores, WORTH, lengths, NOT_THERE]
    found = [(policy * column).sum(-1).mean(-1) for column in columns]
    return torch.stack([*found, kl.sum(-1).mean(-1)], dim=1)


def written(row):
    return [f"{x:.2f}" for x in row.tolist()]


def reward_leaves_the_oracle(run, log):
    """The fault as the log tells it, in every number, and the healthy run."""
    found = run(*FAULTY)
    rows = diary(FAULTY, found["policy"])
    told = [line.split() for line in log.splitlines() if line[:4].strip().isdigit()]
    same = all(row[1:] == written(rows[int(row[0])]) for row in told)
    reward, oracle = ([float(row[i]) for row in told] for i in (1, 2))
    parts = [
        int(told[i][0])
        for i in range(1, len(told))
        if reward[i] > reward[i - 1] and oracle[i] < oracle[i - 1]
    ]
    scores, lengths = FAULTY[3], FAULTY[4]
    price = (scores.diff(dim=1) / lengths.diff(dim=1)).flatten()
    healthy = diary(HEALTHY, run(*HEALTHY)["policy"])
    return (
        len(told) == 9
        and same
        and parts[0] == 20
        and torch.allclose(price, torch.tensor(0.3), atol=1e-4)
        and torch.allclose(found["reward"], rows[:, 0], rtol=1e-4)
        and bool((healthy[1:, 1] > healthy[:-1, 1] - 1e-6).all())
        and "reward {} -> {}, oracle {} -> {}".format(
            *written(healthy[[0, -1], 0]), *written(healthy[[0, -1], 1])
        )
        in log
    )


def how_it_moves(run, given):
    """Whether the policy is paid, moves and learns; the strength of a mask changes none of these."""
    found = run(*given)
    if not isinstance(found, dict) or not {"policy", "reward"} <= found.keys():
        return {"paid": False, "moves": False, "learns": False, "form": False}
    moved = (found["policy"][-1] - found["policy"][0]).abs().max()
    paid = torch.as_tensor(found["reward"]).abs().max()
    return {
        "paid": bool(paid > 0),
        "moves": bool(moved > 1e-4),
        "learns": bool(moved > 0.05),
        "form": True,
    }


def test_hacked(check: Check):
    broken = check.exercise.broken
    shows_fault = partial(reward_leaves_the_oracle, log=check.exercise.log)
    patch = check.diagnosis("length_bias", PARTING, broken, shows_fault)
    told = check.probe(how_it_moves, FAULTY, target=patch)
    check.holds(
        'The patch returns {"policy", "reward"} as run_rlhf does.', told["form"], stage="returns"
    )
    seen = "it is paid nothing" if not told["paid"] else "nearly nothing changes"
    check.holds(
        "The policy learns: mending a run is not stopping it.",
        told["learns"],
        stage="value",
        wanted="a policy that leaves its start",
        got=seen if told["moves"] or not told["paid"] else "nothing changes",
    )
    wanted = {
        "the failing run": without_steps(HONEST, FAULTY[2], 80),
        "a healthy reward model": broken(*HEALTHY)["policy"],
        "a healthy one with a KL term of 0.5": broken(*HEALTHY, kl_coef=0.5)["policy"],
        "one that takes 0.12 off for a word": without_steps(TERSE_HONEST, TERSE[2], 50, 0.15),
    }
    found = [
        patch(*FAULTY),
        patch(*HEALTHY),
        patch(*HEALTHY, kl_coef=0.5),
        patch(*TERSE, steps=50, learning_rate=0.15),
    ]
    for name, got in zip(wanted, found, strict=True):
        policy = got.get("policy") if isinstance(got, dict) else None
        fits = isinstance(policy, torch.Tensor) and policy.shape == wanted[name].shape
        check.holds(
            f'The patch returns {{"policy", "reward"}} as run_rlhf does ({name}).',
            fits,
            stage="shape",
            wanted=f"a policy of shape {list(wanted[name].shape)}",
            got=got,
        )
    policies = {name: got["policy"] for name, got in zip(wanted, found, strict=True)}
    rows = diary(FAULTY, policies["the failing run"])
    first, last = rows[0], rows[-1]
    check.holds(
        "The captions get better: the oracle's judgement rises over the run.",
        last[1] > first[1] + 0.5,
        stage="value",
        wanted=f"more than {first[1] + 0.5:.2f} at the end",
        got=f"{last[1]:.2f}",
    )
    check.holds(
        "At the end fewer things that are not there are named than at the start.",
        last[3] < first[3],
        stage="value",
        wanted=f"fewer than {first[3]:.2f} a caption",
        got=f"{last[3]:.2f}",
    )
    for name in [*list(wanted)[1:], "the failing run"]:
        sentence = "The policy is that of the same reward model without its fault"
        if "healthy" in name:
            sentence = "A healthy run is unchanged"
        check.equal(f"{sentence} ({name}).", policies[name], wanted[name], stage="value", rtol=2e-3)


# -- masked ------------------------------------------------------------------------------------


@cache
def rollout():
    """A real batch: what tiny-sft answers to five prompts with no, one and two images.

    Returns the policy and its input, the columns of the prompt, and the sampled ids of each row.
    """
    import transformers

    from labs.models import generate, load_vlm, user_message
    from labs.models.generation import encode_prompts, render_prompt
    from labs.shapes import render, sample_scene

    transformers.utils.logging.disable_progress_bar()
    model, processor = load_vlm("tiny-sft")
    transformers.utils.logging.enable_progress_bar()
    rng = random.Random(5)
    pictures = [render(sample_scene(rng, "test")) for _ in range(5)]
    asked = {
        "Describe the picture.": pictures[:1],
        "Is there a triangle in the picture?": pictures[1:2],
        "How many objects are in the picture?": pictures[2:3],
        "What do the two pictures show?": pictures[3:],
        "What is your name?": [],
    }
    talks = [[user_message(text, len(images))] for text, images in asked.items()]
    said = generate(model, processor, talks, list(asked.values()), max_new_tokens=13)
    prompts = [render_prompt(processor, talk) for talk in talks]
    batch = encode_prompts(processor, prompts, list(asked.values()))
    tokenizer = processor.tokenizer
    sampled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    sampled = [[*ids, tokenizer.eos_token_id][:13] for ids in sampled]
    answers = [torch.tensor(ids) for ids in sampled]
    padded = torch.nn.utils.rnn.pad_sequence(answers, True, tokenizer.pad_token_id)
    there = torch.nn.utils.rnn.pad_sequence([torch.ones_like(a) for a in answers], True, 0)
    columns = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], padded], 1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], there], 1)
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    return model.eval(), batch, columns, image, answers


def logprobs_of(model, batch):
    """[batch, tokens - 1] of each token, given what stands before it."""
    logits = model(**batch).logits[:, :-1].log_softmax(-1)
    return logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]


@cache
def first_updates():
    """Log-probabilities before and after one step on the answers, with advantages of both signs;
    and how far policy and reference are apart before it.
    """
    model, batch, columns, _, answers = rollout()
    with torch.no_grad():
        before = logprobs_of(model, batch)
    policy = copy.deepcopy(model)
    trained = [p for name, p in policy.named_parameters() if "language_model" in name]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    now = logprobs_of(policy, batch)
    apart = (now.detach() - before).abs().max()
    advantages = [1.0, -1.0, 1.0, -1.0, 1.0]
    total = sum(
        a * now[b, columns - 1 : columns - 1 + len(ids)].sum()
        for b, (a, ids) in enumerate(zip(advantages, answers, strict=True))
    )
    (-total / sum(map(len, answers))).backward()
    optimizer.step()
    with torch.no_grad():
        return before, logprobs_of(policy, batch), apart


def healthy_batch(rows=4, answer=11):
    """Answers to a prompt of one token, without an image: padding on the right only."""
    mask = torch.ones(rows, answer + 1, dtype=torch.long)
    mask[:, 1:] = inputs.padding_mask(rows, answer).long()
    ids = inputs.integers(rows, answer + 1, below=500, start=5, seed=81)
    return ids.masked_fill(mask == 0, 0), mask, 1, 3


def made_up(seed, ends):
    """Prompts of up to 17 tokens with images in them, and answers of the given lengths."""
    starts = [0, 5, 2, 11, 7][: len(ends)]
    mask = ragged_mask([(a, 17 + n) for a, n in zip(starts, ends, strict=True)], 17 + max(ends))
    ids = inputs.integers(*mask.shape, below=500, start=5, seed=seed)
    for row, start in enumerate(starts):
        if row % 2 == 0:
            ids[row, start + 2 : start + 6] = 3
    ids[0, 18] = 3  # a placeholder that the policy sampled
    return ids.masked_fill(mask == 0, 0), mask, 17, 3


def who_chose_it(input_ids, attention_mask, prompt_tokens, image):
    """Walk through each row: is the next token there, and did it come after the prompt?"""
    rows = []
    for real in attention_mask.tolist():
        places = []
        for t in range(len(real) - 1):
            places.append(t + 1 >= prompt_tokens and real[t + 1] == 1)
        rows.append(places)
    return torch.tensor(rows)


def trains_the_prompt(mask_of, log):
    """The fault as the log tells it, in every number, and the healthy batch."""
    _, batch, columns, image, answers = rollout()
    ids, attention = batch["input_ids"], batch["attention_mask"]
    mask = mask_of(ids, attention, columns, image)
    before, after, apart = first_updates()
    sampled = who_chose_it(ids, attention, columns, image)
    healthy = mask_of(*healthy_batch())
    prompts = attention[:, :columns].sum(1).tolist()
    numbers = [
        before[sampled].mean(),
        before[mask].mean(),
        *((after - before)[m].square().mean() / 2 for m in (mask, sampled)),
    ]
    told = [float(x) for x in re.findall(r"(?:log p|k2) (-?[0-9.]+)", log)]
    return (
        f"{sorted(prompts)}" in log
        and f"{sum(map(len, answers))} tokens sampled" in log
        and f"True at {int(mask.sum())} places, {int((mask & (ids[:, 1:] == image)).sum())}" in log
        and f"before the first update {apart:.4f}" in log
        and len(told) == len(numbers)
        and all(abs(a - b) <= 0.02 * abs(b) for a, b in zip(told, numbers, strict=True))
        and torch.equal(healthy, who_chose_it(*healthy_batch()))
        and f"{int(healthy.sum())} tokens sampled, True at {int(healthy.sum())}" in log
    )


def test_masked(check: Check):
    broken = check.exercise.broken
    shows_fault = partial(trains_the_prompt, log=check.exercise.log)
    patch = check.diagnosis("prompt_in_mask", MASK_LINE, broken, shows_fault)
    _, batch, columns, image, answers = rollout()
    real = batch["input_ids"], batch["attention_mask"], columns, image
    cases = [
        case("a healthy batch: a prompt of one token", *healthy_batch()),
        case("tiny-sft's answers, with no, one and two images", *real),
        case("answers of 7, 1, 5, 0 and 3 tokens", *made_up(82, [7, 1, 5, 0, 3])),
        case("two answers, one of them cut", *made_up(83, [4, 13])),
    ]
    found = check.cases(cases, who_chose_it, target=patch)
    before, after, _ = first_updates()
    mask = found[1]
    chosen = [after[b, columns - 1 :][: len(ids)] for b, ids in enumerate(answers)]
    then = [before[b, columns - 1 :][: len(ids)] for b, ids in enumerate(answers)]
    gaps = torch.cat(chosen) - torch.cat(then)
    check.equal(
        "The KL is that of the sampled tokens, answer by answer.",
        (after - before)[mask].square().mean() / 2,
        gaps.square().mean() / 2,
    )
