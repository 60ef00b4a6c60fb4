"""Chapter 5's reference answers are second implementations: equal to the library's own."""

import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from labs.grading.course import chapter
from labs.losses import advantages as ours
from labs.losses import policy, reward
from labs.models import load_vlm, user_message
from labs.models.rollout import sample_completions
from labs.models.scalar_head import ScalarHead, last_token_index
from labs.shapes import render, sample_scene
from labs.shapes.world import seeded

CHAPTER = chapter("ch05")
ANSWERS, CHECKS = CHAPTER.solutions, CHAPTER.checks
SEED = st.integers(0, 9999)


def normal(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@st.composite
def right_padded(draw):
    """A mask of answers of any length, none included, with at least one token in all."""
    tokens = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(0, tokens), min_size=1, max_size=5).filter(any))
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.integers(1, 9),
    seed=SEED,
    margin=st.booleans(),
    centring=st.sampled_from([0.0, 0.01, 0.3]),
    scale=st.sampled_from([1.0, 100.0]),
)
def test_reward_loss(pairs, seed, margin, centring, scale):
    chosen, rejected = normal(seed, pairs, scale=scale), normal(seed + 1, pairs)
    margin = normal(seed + 2, pairs).abs() if margin else None
    wanted = reward.reward_loss(chosen, rejected, margin, centring)
    close(ANSWERS.reward_loss(chosen, rejected, margin, centring), wanted)
    close(CHECKS.pair_by_pair(chosen, rejected, margin, centring), wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 5), tokens=st.integers(2, 9), seed=SEED)
def test_last_token_reward(data, rows, tokens, seed):
    """Any mask at all, with a token somewhere after the first column."""
    row = st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens).filter(lambda m: any(m[1:]))
    mask = torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    hidden, head = normal(seed, rows, tokens, 7), ScalarHead(7)
    with torch.no_grad():
        head.weight.copy_(normal(seed + 1, 7))
        wanted = head(hidden[torch.arange(rows), last_token_index(mask)])
        close(ANSWERS.last_token_reward(hidden, mask, head.weight), wanted)
        close(CHECKS.read_to_the_end(hidden, mask, head.weight), wanted)


@settings(max_examples=60, deadline=None)
@given(
    mask=right_padded(),
    seed=SEED,
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    lam=st.sampled_from([0.0, 0.7, 0.95, 1.0]),
)
def test_gae(mask, seed, gamma, lam):
    rewards, values = normal(seed, *mask.shape), normal(seed + 1, *mask.shape)
    wanted = ours.gae(rewards, values, mask, gamma, lam)
    for found in (ANSWERS.gae, CHECKS.summed_deltas):
        for part, want in zip(found(rewards, values, mask, gamma, lam), wanted, strict=True):
            close(part, want)


@settings(max_examples=60, deadline=None)
@given(mask=right_padded(), seed=SEED, clip=st.sampled_from([0.05, 0.2, 0.5]))
def test_ppo_policy_loss(mask, seed, clip):
    """Values and gradients."""
    old = -normal(seed, *mask.shape).abs()
    advantages = normal(seed + 1, *mask.shape)
    slopes = []
    for loss_of in (
        lambda *given: policy.ppo_policy_loss(*given).loss,
        ANSWERS.ppo_policy_loss,
        CHECKS.case_by_case,
    ):
        new = (old + normal(seed + 2, *mask.shape, scale=0.4)).requires_grad_()
        loss = loss_of(new, old, advantages, mask, clip)
        slopes.append((loss.detach(), *torch.autograd.grad(loss, new)))
    for found in slopes[1:]:
        for part, want in zip(found, slopes[0], strict=True):
            close(part, want)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@settings(max_examples=30, deadline=None)
@given(mask=right_padded(), seed=SEED)
def test_mean_kl(kind, mask, seed):
    p = -normal(seed, *mask.shape).abs()
    q = p + normal(seed + 1, *mask.shape, scale=0.5)
    wanted = ours.kl_estimate(p, q, kind)[mask].mean()
    close(ANSWERS.mean_kl(p, q, mask, kind), wanted)
    close(CHECKS.by_probabilities(p, q, mask, kind), wanted)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 5),
    size=st.integers(2, 8),
    seed=SEED,
    checkable=st.booleans(),
)
def test_group_advantages(groups, size, seed, checkable):
    """Rewards of any size, and those of a checkable reward, where many groups have no signal."""
    rewards = normal(seed, groups * size)
    rewards = (rewards > 0.5).float() if checkable else 3 * rewards + 1
    wanted = {
        "grpo": ours.group_advantages(rewards, size),
        "rloo": ours.leave_one_out_advantages(rewards, size),
    }
    for kind, want in wanted.items():
        close(ANSWERS.group_advantages(rewards, size, kind), want)
        close(CHECKS.against_the_others(rewards, size, kind), want)


@settings(max_examples=25, deadline=None)
@given(price=st.floats(-0.3, 0.5), seed=SEED, kl=st.sampled_from([0.0, 0.2, 1.0]))
def test_hacked(price, seed, kl):
    """Whatever a word is paid, the patched run learns what the honest reward model would teach."""
    given_, honest = CHECKS.reward_model(price, pictures=2, pairs=7, seed=seed)
    patch, broken = ANSWERS.hacked()["patch"], ANSWERS.hacked.broken
    wanted = CHECKS.without_steps(honest, given_[2], 30, kl_coef=kl)
    close(patch(*given_, steps=30, kl_coef=kl)["policy"], wanted, 2e-3)
    close(broken(honest, *given_[1:], steps=30, kl_coef=kl)["policy"], wanted, 2e-3)
    # With a KL term the closed form ends at start * exp(reward / kl), the optimum of RLHF.
    if kl:
        optimum = (given_[2] + honest / kl).softmax(-1)
        close(CHECKS.without_steps(honest, given_[2], 2000, 0.5, kl)[-1], optimum, 1e-4)


def test_masked_is_the_mask_of_a_rollout():
    """The patched mask is the one that the library's rollout gives its sampled tokens."""
    model, processor = load_vlm("tiny-sft")
    pictures = [render(sample_scene(seeded("masked", i), "test")) for i in range(3)]
    talks = [
        [user_message("Describe the picture.", 1)],
        [user_message("Is there a star in the pictures?", 2)],
        [user_message("What is your name?", 0)],
    ]
    images = [pictures[:1], pictures[1:], []]
    found = sample_completions(
        model, processor, talks, images, num_generations=3, max_new_tokens=7, seed=1
    )
    ids = torch.cat([found.prompt_ids.repeat_interleave(3, 0), found.ids], 1)
    attention = torch.cat([found.prompt_mask.repeat_interleave(3, 0), found.mask], 1).long()
    columns = found.prompt_ids.shape[1]
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    mask = ANSWERS.masked()["patch"](ids, attention, columns, image)
    assert torch.equal(mask, CHECKS.who_chose_it(ids, attention, columns, image))
    assert torch.equal(mask[:, columns - 1 :], found.mask.bool()) and not found.finished.all()
    assert not mask[:, : columns - 1].any()
    # The trainer's log-probabilities at those places are those of the rollout: the places are right.
    batch = {"input_ids": ids, "attention_mask": attention}
    repeated = [found.images["pixel_values"][i] for i in [0] * 3 + [1, 2] * 3]
    with torch.no_grad():
        logprobs = CHECKS.logprobs_of(model, batch | {"pixel_values": torch.stack(repeated)})
    close(logprobs[mask], found.logprobs[found.mask.bool()], 1e-3)
    broken = ANSWERS.masked.broken(ids, attention, columns, image)
    assert logprobs[broken & ~mask].mean() < logprobs[mask].mean() - 3


@pytest.mark.parametrize(
    ("name", "shows_fault", "evidence"),
    [
        ("hacked", CHECKS.reward_leaves_the_oracle, CHECKS.PARTING),
        ("masked", CHECKS.trains_the_prompt, CHECKS.MASK_LINE),
    ],
)
def test_logs_are_of_the_broken_run(name, shows_fault, evidence):
    """Every number that a learner reads is one that the broken run gives; the patched run does not."""
    exercise = CHAPTER.exercise(name)
    assert shows_fault(exercise.broken, exercise.log)
    assert not shows_fault(exercise()["patch"], exercise.log)
    assert exercise.log.count(evidence) == 1
    measured = [line for line in exercise.log.splitlines() if line[:4].strip().isdigit()]
    measured += [evidence] if name == "masked" else []
    for part in measured:
        wrong = re.sub(r"(\d)(?=\D*$)", lambda m: str((int(m[1]) + 1) % 10), part)
        assert wrong != part and not shows_fault(exercise.broken, exercise.log.replace(part, wrong))
