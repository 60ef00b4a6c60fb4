"""SimPO and ORPO: slow loops, TRL 1.16's experimental trainers, and what each asks for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.reference_free import orpo_loss, simpo_loss


def draw(pairs, seed=0, dtype=torch.float64):
    """Average log-probabilities, below zero, near it and far from it."""
    generator = torch.Generator().manual_seed(seed)
    both = -torch.exp(torch.randn(2, pairs, generator=generator, dtype=torch.float64))
    return [x.to(dtype).requires_grad_() for x in both]


def nll(x):
    return math.log(1 + math.exp(-x))


@given(
    pairs=st.integers(1, 6),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.5, 2, 10.0]),
    gamma=st.sampled_from([0, 0.5, 1.6]),
)
def test_simpo_equals_a_slow_loop(pairs, seed, beta, gamma):
    chosen, rejected = draw(pairs, seed)
    each = [
        nll(beta * (c - r) - gamma) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)
    ]
    found = simpo_loss(chosen, rejected, beta, gamma)
    assert found.loss.item() == pytest.approx(sum(each) / pairs, rel=1e-9, abs=1e-9)
    assert found.chosen_rewards.tolist() == pytest.approx([beta * c for c in chosen.tolist()])
    assert found.rejected_rewards.tolist() == pytest.approx([beta * r for r in rejected.tolist()])


@given(pairs=st.integers(1, 6), seed=st.integers(0, 999), beta=st.sampled_from([0.1, 1, 0.25]))
def test_orpo_equals_a_slow_loop(pairs, seed, beta):
    chosen, rejected = draw(pairs, seed)
    each = []
    for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True):
        odds = [p / (1 - p) for p in (math.exp(c), math.exp(r))]
        each.append(-c - beta * math.log(1 / (1 + odds[1] / odds[0])))
    found = orpo_loss(chosen, rejected, beta)
    assert found.loss.item() == pytest.approx(sum(each) / pairs, rel=1e-7, abs=1e-9)
    assert found.chosen_rewards.tolist() == pytest.approx([beta * c for c in chosen.tolist()])
    assert found.rejected_rewards.tolist() == pytest.approx([beta * r for r in rejected.tolist()])


# --- TRL ---------------------------------------------------------------------


def close(ours, theirs, leaves):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, check_dtype=False)
    for got, wanted in zip(*(torch.autograd.grad(x, leaves) for x in (ours, theirs)), strict=True):
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.0), (0.1, 0.5)])
def test_simpo_is_trls(beta, gamma, dtype):
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    leaves = draw(8, dtype=dtype)
    theirs, metrics = trl_preference.simpo(*leaves, beta, gamma)
    found = simpo_loss(*leaves, beta, gamma)
    close(found.loss, theirs, leaves)
    assert metrics["rewards/chosen"] == pytest.approx(found.chosen_rewards.mean().item(), rel=1e-6)
    margin = (found.chosen_rewards - found.rejected_rewards).mean().item()
    assert metrics["rewards/margins"] == pytest.approx(margin, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_is_trls(beta):
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    leaves = [*draw(8, dtype=torch.float32), torch.tensor(1.3, requires_grad=True)]
    chosen, rejected, sft = leaves
    theirs, metrics = trl_preference.orpo(chosen, rejected, beta, sft)
    found = orpo_loss(chosen, rejected, beta, sft)
    close(found.loss, theirs, leaves)
    mean = found.rejected_rewards.mean().item()
    assert metrics["rewards/rejected"] == pytest.approx(mean, rel=1e-6)


# --- what the losses have to do ------------------------------------------------


def test_simpo_is_log_two_at_a_lead_of_gamma():
    rejected = -torch.rand(5, dtype=torch.float64)
    found = simpo_loss(rejected + 0.5, rejected, 2, 1)
    assert found.loss.item() == pytest.approx(math.log(2))
    assert simpo_loss(rejected, rejected, 2, 0).loss.item() == pytest.approx(math.log(2))
    assert simpo_loss(rejected, rejected, 2, 1).loss > math.log(2)  # the right order is too little


def test_swapping_the_pair_flips_the_margin():
    chosen, rejected = draw(5)
    for loss in (simpo_loss, orpo_loss):
        one, two = loss(chosen, rejected), loss(rejected, chosen)
        torch.testing.assert_close(one.chosen_rewards, two.rejected_rewards)
        torch.testing.assert_close(one.rejected_rewards, two.chosen_rewards)


def test_downhill_is_the_chosen_up_and_the_rejected_down():
    leaves = draw(6)
    for loss in (simpo_loss(*leaves), orpo_loss(*leaves)):
        chosen, rejected = torch.autograd.grad(loss.loss, leaves)
        assert (chosen < 0).all() and (rejected > 0).all()
        assert not loss.chosen_rewards.requires_grad and not loss.rejected_rewards.requires_grad


def test_orpo_of_equal_answers_is_sft_and_beta_log_two():
    chosen, _ = draw(5)
    wanted = -chosen.mean() + 0.3 * math.log(2)
    torch.testing.assert_close(orpo_loss(chosen, chosen, 0.3).loss, wanted)
    given_ = torch.tensor(2.0, dtype=torch.float64)
    assert orpo_loss(chosen, chosen, 0.3, given_).loss.item() == pytest.approx(
        2 + 0.3 * math.log(2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_answer_that_is_certain_or_impossible_breaks_nothing_in_orpo(dtype):
    """log p = 0 is what a tiny model reaches: log(1 - 1) is infinite, its slope not a number."""
    ends = torch.tensor([0.0, -1e-9, -0.7, -1e4], dtype=dtype)
    chosen, rejected = (
        x.flatten().requires_grad_() for x in torch.meshgrid(ends, ends, indexing="ij")
    )
    found = orpo_loss(chosen, rejected)
    found.loss.backward()
    assert found.loss.isfinite() and chosen.grad.isfinite().all() and rejected.grad.isfinite().all()
    assert (chosen.grad < 0).all() and (rejected.grad >= 0).all()
    certain = orpo_loss(ends[:1], ends[2:3]).loss  # the better one is sure: nothing left to ask
    assert 0 <= certain.item() < 1e-6


def test_orpo_tells_almost_certain_answers_apart_in_float32():
    """exp of -1e-6 is 1 less a rounding or two: 1 - exp x would lose all it holds."""
    chosen, rejected = torch.tensor([-1e-6, -3e-5, -20]), torch.tensor([-3e-5, -1e-6, -40])
    got = orpo_loss(chosen, rejected, 1.0)
    wanted = orpo_loss(chosen.double(), rejected.double(), 1.0)
    assert got.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)


def test_gradients_by_finite_differences():
    leaves = [x.detach().clamp(max=-0.05).requires_grad_() for x in draw(4)]
    assert gradcheck(lambda *x: simpo_loss(*x, 1.5, 0.5).loss, leaves)
    assert gradcheck(lambda *x: orpo_loss(*x, 0.7).loss, leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    leaves = draw(300, dtype=dtype)
    for loss in (simpo_loss, orpo_loss):
        found = loss(*leaves)
        assert {x.dtype for x in found} == {torch.float32}
        wanted = loss(*(x.double() for x in leaves)).loss
        torch.testing.assert_close(found.loss.double(), wanted, rtol=1e-5, atol=0)


def test_no_pair_at_all_is_zero_with_zero_gradients():
    for loss in (simpo_loss, orpo_loss):
        empty = [torch.zeros(0, requires_grad=True) for _ in range(2)]
        found = loss(*empty).loss
        found.backward()
        assert found.item() == 0 and empty[0].grad.shape == (0,)


def test_not_a_number_is_not_hidden():
    bad, good = torch.tensor([-1.0, float("nan")]), torch.tensor([-1.0, -2.0])
    for loss in (simpo_loss, orpo_loss):
        assert loss(bad, good).loss.isnan() and loss(good, bad).loss.isnan()


def test_what_does_not_fit_is_refused():
    two = torch.full((2,), -1.0)
    for beta in (0, -0.1, float("nan")):
        for loss in (simpo_loss, orpo_loss):
            with pytest.raises(ValueError, match="beta is a number above zero"):
                loss(two, two, beta)
    with pytest.raises(ValueError, match="gamma is a lead"):
        simpo_loss(two, two, 2.0, -0.1)
    for loss in (simpo_loss, orpo_loss):
        with pytest.raises(Exception, match="rejected_average"):
            loss(two, two[:1])
