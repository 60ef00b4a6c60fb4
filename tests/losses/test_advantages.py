"""Advantages against slow loops from their definitions, TRL's own methods, and exact expectations."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.losses.advantages import (
    gae,
    group_advantages,
    kl_estimate,
    leave_one_out_advantages,
    whiten,
)

NAN = float("nan")


def draw(batch, tokens, seed=0, dtype=torch.float64, share=0.6):
    """Rewards, values and a mask with holes and padding on both sides; NaN under the mask."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, batch, tokens, generator=generator, dtype=torch.float64)
    mask = (torch.rand(batch, tokens, generator=generator) < share).long()
    rewards, values = (x.masked_fill(mask == 0, NAN).to(dtype) for x in (rewards, values))
    return rewards, values, mask


# --- gae ---------------------------------------------------------------------


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 9),
    seed=st.integers(0, 999),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.1]),
)
def test_gae_is_the_sum_of_its_definition(batch, tokens, seed, gamma, lam, share):
    """A_t = sum_l (gamma · lam)^l · delta_{t+l}, over the real tokens of a row, as a double loop."""
    rewards, values, mask = draw(batch, tokens, seed, share=share)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b in range(batch):
        places = [t for t in range(tokens) if mask[b, t]]
        r = [rewards[b, t].item() for t in places]
        v = [values[b, t].item() for t in places] + [0.0]
        delta = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(places))]
        for i, t in enumerate(places):
            wanted = sum((gamma * lam) ** (k - i) * delta[k] for k in range(i, len(places)))
            assert advantages[b, t].item() == pytest.approx(wanted, abs=1e-9)
            assert returns[b, t].item() == pytest.approx(wanted + v[i], abs=1e-9)
    assert not advantages[mask == 0].any() and not returns[mask == 0].any()


def test_gae_at_lam_one_is_the_return_less_the_value():
    rewards, values, mask = draw(3, 8, share=1.1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, to_go - values)


def test_gae_is_the_same_under_either_padding_and_through_holes():
    rewards, values, _ = draw(1, 4, share=1.1)
    wanted, _ = gae(rewards, values, torch.ones(1, 4), 0.9, 0.8)
    for places in ([0, 1, 2, 3], [3, 4, 5, 6], [0, 2, 3, 6]):
        wide = torch.full((2, 1, 7), 1e3, dtype=torch.float64)
        mask = torch.zeros(1, 7, dtype=torch.bool)
        mask[0, places] = True
        wide[0, 0, places], wide[1, 0, places] = rewards[0], values[0]
        got, _ = gae(wide[0], wide[1], mask, 0.9, 0.8)
        torch.testing.assert_close(got[0, places], wanted[0])


# --- whiten ------------------------------------------------------------------


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 9),
    seed=st.integers(0, 999),
    shift_mean=st.booleans(),
    share=st.sampled_from([0.3, 0.7, 1.1]),
)
def test_whiten_equals_a_slow_loop(batch, tokens, seed, shift_mean, share):
    """TRL 1.16 no longer has `masked_whiten` (it went with its PPO): its formula, in Python."""
    values, _, mask = draw(batch, tokens, seed, share=share)
    got = whiten(values, mask, shift_mean)
    real = values[mask == 1].tolist()
    if len(real) > 1:
        mean, variance = statistics.fmean(real), statistics.variance(real)
        wanted = [(x - mean) / math.sqrt(variance + 1e-8) + (not shift_mean) * mean for x in real]
    else:
        wanted = [0.0 if shift_mean else x for x in real]
    assert got[mask == 1].tolist() == pytest.approx(wanted, abs=1e-9)
    assert not got[mask == 0].any()


def test_whitened_values_have_mean_zero_and_variance_one_whatever_the_scale():
    values, _, mask = draw(5, 20)
    for scale, offset in ((1, 0), (1e-2, 5), (1e3, -7e3)):
        got = whiten(values * scale + offset, mask)[mask == 1]
        assert abs(got.mean()) < 1e-9
        assert got.var().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [0.1, -3.7, 1e6])
def test_equal_values_whiten_to_exactly_zero(value):
    """In float32, 0.1 less the mean of seven times 0.1 is 7e-9; over sqrt(1e-8), that is 7e-5."""
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    assert not whiten(torch.full((2, 5), value), mask).any()
    kept = whiten(torch.full((2, 5), value), mask, shift_mean=False)
    torch.testing.assert_close(kept, torch.full((2, 5), value) * mask)


# --- groups ------------------------------------------------------------------


def rewards_of(groups, size, seed, missing=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 4, (groups * size,), generator=generator).to(dtype) / 4
    rewards[torch.rand(len(rewards), generator=generator) < missing] = NAN
    return rewards


@given(
    groups=st.integers(0, 4),
    size=st.integers(1, 6),
    seed=st.integers(0, 999),
    missing=st.sampled_from([0.0, 0.4, 1.1]),
)
def test_group_advantages_equal_slow_loops(groups, size, seed, missing):
    rewards = rewards_of(groups, size, seed, missing)
    scaled = group_advantages(rewards, size)
    plain = group_advantages(rewards, size, scale="none")
    others = leave_one_out_advantages(rewards, size)
    for i, reward in enumerate(rewards.tolist()):
        start = i - i % size
        group = {j: rewards[j].item() for j in range(start, start + size) if not rewards[j].isnan()}
        if i not in group:
            assert scaled[i] == plain[i] == others[i] == 0
            continue
        centred = reward - statistics.fmean(group.values())
        deviation = statistics.stdev(group.values()) if len(group) > 1 else 0
        assert plain[i].item() == pytest.approx(centred, abs=1e-9)
        assert scaled[i].item() == pytest.approx(centred / (deviation + 1e-4), abs=1e-9)
        rest = [x for j, x in group.items() if j != i]
        wanted = reward - statistics.fmean(rest) if rest else 0
        assert others[i].item() == pytest.approx(wanted, abs=1e-9)


def trl_advantages(trainer, rewards):
    """TRL generates answers, scores them (as it is told to) and makes advantages of the scores."""
    trainer.given_rewards = [None if math.isnan(x) else x for x in rewards.tolist()]
    inputs = [{"prompt": "a b"} for _ in trainer.given_rewards]
    return trainer._generate_and_score_completions(inputs)["advantages"]


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize(("seed", "missing"), [(0, 0.0), (1, 0.0), (2, 0.3)])
def test_group_advantages_are_trls(trl_trainers, monkeypatch, scale, seed, missing):
    trainer = trl_trainers["grpo"]
    monkeypatch.setattr(trainer, "scale_rewards", scale)
    rewards = rewards_of(2, 4, seed, missing, torch.float32)
    got = group_advantages(rewards, 4, scale)
    assert got.abs().max() > 0.1
    torch.testing.assert_close(got, trl_advantages(trainer, rewards), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("seed", "missing"), [(0, 0.0), (1, 0.0), (2, 0.3)])
def test_leave_one_out_advantages_are_trls(trl_trainers, seed, missing):
    rewards = rewards_of(2, 4, seed, missing, torch.float32)
    got = leave_one_out_advantages(rewards, 4)
    assert got.abs().max() > 0.2
    wanted = trl_advantages(trl_trainers["rloo"], rewards)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7, 1e6])
@pytest.mark.parametrize("size", [3, 7, 11])
def test_a_group_of_equal_rewards_gives_exactly_zero(value, size):
    rewards = torch.full((2 * size,), value)
    rewards[size] += 1  # the other group has a signal, and keeps it
    rewards[1] = NAN
    for got in (
        group_advantages(rewards, size),
        group_advantages(rewards, size, "none"),
        leave_one_out_advantages(rewards, size),
    ):
        assert not got[:size].any()
        assert got[size] > 0.5


def test_the_plain_difference_would_not_be_zero():
    """What the test above guards against: a rounding, divided by 1e-4, passes for a signal."""
    rewards = torch.full((7,), 0.1)
    assert (rewards - rewards.mean()).any()


def test_leave_one_out_is_the_groups_mean_made_unbiased():
    rewards = rewards_of(3, 5, 0)
    torch.testing.assert_close(
        leave_one_out_advantages(rewards, 5), group_advantages(rewards, 5, "none") * 5 / 4
    )


def test_infinite_rewards_are_not_hidden():
    rewards = torch.tensor([1.0, float("inf"), 0.0, 1.0])
    for got in (group_advantages(rewards, 2), leave_one_out_advantages(rewards, 2)):
        assert got[:2].isnan().any() and got[2:].isfinite().all()


def test_what_is_no_group():
    for function in (group_advantages, leave_one_out_advantages):
        with pytest.raises(ValueError, match="5 rewards are no whole number of groups of 4"):
            function(torch.zeros(5), 4)
        with pytest.raises(ValueError, match="groups of 0"):
            function(torch.zeros(4), 0)
    with pytest.raises(ValueError, match="scale"):
        group_advantages(torch.zeros(4), 4, scale="batch")


# --- kl_estimate -------------------------------------------------------------


def two_policies(seed=0, vocab=6):
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, vocab, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), reference.log_softmax(0)


def expected(kind, logprobs, reference):
    """E over every token, each as often as the policy draws it: exact. Draws carry no gradient."""
    return (logprobs.detach().exp() * kl_estimate(logprobs, reference, kind)).sum()


def kl(p_logs, q_logs):
    return (p_logs.exp() * (p_logs - q_logs)).sum()


@given(seed=st.integers(0, 999))
def test_k1_and_k3_are_unbiased_values(seed):
    logits, reference = two_policies(seed)
    logprobs = logits.log_softmax(0)
    truth = kl(logprobs, reference)
    torch.testing.assert_close(expected("k1", logprobs, reference), truth)
    torch.testing.assert_close(expected("k3", logprobs, reference), truth)


def test_k2_is_biased_and_near_for_near_policies():
    logits, reference = (x.detach() for x in two_policies())

    def off_by(step):
        """Relative error of E[k2] for a policy this share of the way from the reference."""
        logprobs = (reference + step * (logits - reference)).log_softmax(0)
        return abs(expected("k2", logprobs, reference) / kl(logprobs, reference) - 1)

    assert off_by(2) > 0.1
    assert off_by(1e-3) < 1e-3


@given(seed=st.integers(0, 999))
def test_as_losses_k1_pushes_nowhere_k2_is_the_true_gradient_k3_the_other_divergences(seed):
    logits, reference = two_policies(seed)
    logprobs = logits.log_softmax(0)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def estimated(kind):
        return gradient(expected(kind, logprobs, reference))

    torch.testing.assert_close(estimated("k1"), torch.zeros_like(logits))
    torch.testing.assert_close(estimated("k2"), gradient(kl(logprobs, reference)))
    torch.testing.assert_close(estimated("k3"), gradient(kl(reference, logprobs)))
    assert not torch.allclose(estimated("k3"), estimated("k2"))


@given(exponent=st.floats(-9, 1.5), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 99))
def test_k3_is_never_negative_and_keeps_its_digits(exponent, sign, seed):
    reference = -torch.rand(50, generator=torch.Generator().manual_seed(seed)) * 10
    logprobs = reference + sign * 10**exponent
    got = kl_estimate(logprobs, reference, "k3")
    assert (got >= 0).all()
    wanted = kl_estimate(logprobs.double(), reference.double(), "k3")
    torch.testing.assert_close(got.double(), wanted, rtol=2e-3, atol=1e-11)


def test_the_naive_k3_turns_negative_and_loses_its_digits():
    """exp(-d) - 1 + d as it is written, at the small d of a token that both are sure of."""
    reference = torch.full((2000,), -0.01)
    logprobs = reference + torch.linspace(-1e-3, 1e-3, 2000)
    difference = logprobs - reference
    naive = (torch.exp(-difference) - 1 + difference).double()
    exact = kl_estimate(logprobs.double(), reference.double(), "k3")
    assert (naive < 0).any()
    assert ((naive - exact).abs() > exact).sum() > 100  # no digit right
    got = kl_estimate(logprobs, reference, "k3").double()
    assert ((got - exact).abs() <= 0.01 * exact)[exact > 1e-9].all()


@given(seed=st.integers(0, 999))
def test_k3_times_the_ratio_off_policy_has_the_true_value_and_gradient(seed):
    logits, reference = two_policies(seed)
    logprobs = logits.log_softmax(0)
    old = (logits + torch.linspace(-1, 1, 6)).detach().log_softmax(0)
    ratio = (logprobs - old).exp()
    value = (old.exp() * ratio * kl_estimate(logprobs, reference, "k3")).sum()
    truth = kl(logprobs, reference)
    torch.testing.assert_close(value, truth)
    got, wanted = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (value, truth))
    torch.testing.assert_close(got, wanted)


def test_only_the_policy_gets_a_gradient():
    logprobs, reference = torch.randn(2, 3, 4).requires_grad_().unbind(0)
    leaf_p, leaf_r = (x.detach().requires_grad_() for x in (logprobs, reference))
    for kind in ("k1", "k2", "k3"):
        kl_estimate(leaf_p, leaf_r, kind).sum().backward()
    assert leaf_p.grad is not None and leaf_r.grad is None
    with pytest.raises(ValueError, match="kind"):
        kl_estimate(leaf_p, leaf_r, "k4")


# --- all ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    rewards, values, mask = draw(3, 9, dtype=dtype)
    pairs = [
        *zip(
            gae(rewards, values, mask, 0.99, 0.95),
            gae(rewards.float(), values.float(), mask, 0.99, 0.95),
            strict=True,
        ),
        (whiten(values, mask), whiten(values.float(), mask)),
        (kl_estimate(rewards, values, "k3"), kl_estimate(rewards.float(), values.float(), "k3")),
    ]
    scores = torch.randn(8, generator=torch.Generator().manual_seed(0)).to(dtype)
    for function in (group_advantages, leave_one_out_advantages):
        pairs.append((function(scores, 4), function(scores.float(), 4)))
    for got, wanted in pairs:
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def test_advantages_are_constants():
    rewards, values, mask = draw(2, 4, share=1.1)
    values.requires_grad_()
    scores = torch.randn(4, requires_grad=True)
    for got in (
        *gae(rewards, values, mask, 1.0, 0.95),
        whiten(values, mask),
        group_advantages(scores, 2),
        leave_one_out_advantages(scores, 2),
    ):
        assert not got.requires_grad


def test_no_real_token_at_all():
    empty = torch.full((2, 3), NAN)
    mask = torch.zeros(2, 3)
    for got in (
        *gae(empty, empty, mask, 1.0, 1.0),
        whiten(empty, mask),
        whiten(empty, mask, shift_mean=False),
    ):
        assert torch.equal(got, torch.zeros(2, 3))
