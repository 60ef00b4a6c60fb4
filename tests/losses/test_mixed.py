"""The MPO mixture: TRL 1.16's own sum, its parts, and BCO's shift."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.mixed import mpo_loss
from labs.losses.preference import dpo_loss


def draw(pairs, seed=0, dtype=torch.float64):
    """Four log-probabilities [B] and an SFT loss, all with gradients."""
    generator = torch.Generator().manual_seed(seed)
    four = 3 * torch.randn(4, pairs, generator=generator, dtype=torch.float64) - 20
    sft = torch.rand((), generator=generator, dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (*four, sft)]


@given(
    pairs=st.integers(1, 5),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.1, 1]),
    weights=st.sampled_from([(0.8, 0.2, 1.0), (1, 0, 0), (0, 2, 0), (0, 0, 1), (0.5, 0.5, 0.5)]),
    shift=st.sampled_from([0, 0.7, -1.5]),
)
def test_it_equals_a_slow_loop(pairs, seed, beta, weights, shift):
    def nll(x):
        return math.log(1 + math.exp(-x))

    *four, sft = draw(pairs, seed)
    preference = quality = 0.0
    for pc, pr, rc, rr in zip(*(x.tolist() for x in four), strict=True):
        chosen, rejected = beta * (pc - rc), beta * (pr - rr)
        preference += nll(chosen - rejected) / pairs
        quality += (nll(chosen - shift) + nll(-(rejected - shift))) / pairs
    terms = (preference, quality, sft.item())
    for given_ in (shift, torch.tensor(float(shift), dtype=torch.float64)):
        found = mpo_loss(*four, sft, beta, *weights, shift=given_)
        wanted = sum(w * x for w, x in zip(weights, terms, strict=True))
        assert found.loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        assert [x.item() for x in found[3:]] == pytest.approx(terms, rel=1e-9, abs=1e-9)
        chosen = (beta * (four[0] - four[2])).tolist()
        assert found.chosen_rewards.tolist() == pytest.approx(chosen)  # the shift is not in them


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weights", [[0.8, 0.2, 1.0], [1.0, 0.5, 0.1]])
def test_it_is_trls(weights, dtype):
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(12, 5, generator=generator) < 0.6).long()
    mask[:, 0] = 1
    policy = -3 * torch.rand(12, 5, generator=generator, dtype=torch.float64)
    policy = (policy * mask).to(dtype).requires_grad_()
    noise = torch.randn(12, generator=generator, dtype=torch.float64).to(dtype)
    references = (policy.detach().sum(1) + noise).chunk(2)
    kinds = ["sigmoid", "bco_pair", "sft"]
    theirs, metrics = trl_preference.dpo(policy, mask, *references, 0.1, kinds, weights)
    sft = -policy[:6][mask[:6] == 1].mean()
    found = mpo_loss(*policy.sum(1).chunk(2), *references, sft, 0.1, *weights)
    torch.testing.assert_close(found.loss, theirs, rtol=1e-6, atol=1e-6)
    wanted, got = (torch.autograd.grad(x, policy)[0] for x in (theirs, found.loss))
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    mean = found.chosen_rewards.mean().item()
    assert metrics["rewards/chosen"] == pytest.approx(mean, abs=1e-5)


def test_the_parts_are_those_of_the_losses_they_are_named_after():
    *four, sft = draw(5)
    found = mpo_loss(*four, sft, 0.3)
    assert found.preference == dpo_loss(*four, 0.3).loss
    assert found.quality == dpo_loss(*four, 0.3, "bco_pair").loss
    assert found.generation == sft


def test_the_shift_is_where_an_answer_is_neither_good_nor_bad():
    *_, reference, sft = draw(4)
    policy = reference + 20  # a reward of 2 under beta 0.1
    at = mpo_loss(policy, policy, reference, reference, sft, 0.1, 0, 1, 0, shift=2)
    assert at.loss.item() == pytest.approx(2 * math.log(2))
    (gradient,) = torch.autograd.grad(
        mpo_loss(policy, policy, reference, reference, sft, 0.1, 0, 1, 0, shift=5).loss, reference
    )
    # Against a high zero the chosen one is too low and the rejected one settled: pulled up, both.
    assert (gradient < 0).all()


def test_a_term_without_weight_cannot_spoil_the_sum():
    *four, _ = draw(3)
    infinite = torch.tensor(float("inf"), dtype=torch.float64)
    found = mpo_loss(*four, infinite, generation_weight=0)
    assert found.loss.isfinite() and found.generation.isinf()
    assert mpo_loss(*four, infinite).loss.isinf()


def test_only_policy_and_sft_get_gradients():
    five = draw(3)
    shift = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = mpo_loss(*five, shift=shift)
    found.loss.backward()
    assert [x.grad is not None for x in five] == [True, True, False, False, True]
    assert shift.grad is None and not any(x.requires_grad for x in found[1:])


def test_gradients_by_finite_differences():
    pc, pr, rc, rr, sft = draw(4)
    rc, rr = rc.detach(), rr.detach()
    assert gradcheck(lambda a, b, c: mpo_loss(a, b, rc, rr, c, 0.6, shift=0.4).loss, (pc, pr, sft))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    five = draw(300, dtype=dtype)
    shift = torch.tensor(0.37, dtype=dtype)
    found = mpo_loss(*five, shift=shift)
    assert {x.dtype for x in found} == {torch.float32}
    wanted = mpo_loss(*(x.double() for x in five), shift=shift.double())
    torch.testing.assert_close(found.loss.double(), wanted.loss, rtol=1e-6, atol=0)


def test_no_pair_at_all_leaves_the_sft_loss():
    empty = [torch.zeros(0) for _ in range(4)]
    assert mpo_loss(*empty, torch.tensor(2.0), generation_weight=0.5).loss == 1


@pytest.mark.parametrize("weights", [(0, 0, 0), (-1, 1, 1), (1, float("nan"), 0)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="not all zero"):
        mpo_loss(*draw(2), 0.1, *weights)


@pytest.mark.parametrize("beta", [0, -0.1, float("nan")])
def test_beta_is_above_zero(beta):
    with pytest.raises(ValueError, match="beta is a number above zero"):
        mpo_loss(*draw(2), beta)
