"""KTO: a slow loop, TRL 1.16's own method, and its two-sided slope."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.kto import kto_kl, kto_loss


def draw(answers, seed=0, dtype=torch.float64):
    """Policy and reference [B], and marks of both kinds."""
    generator = torch.Generator().manual_seed(seed)
    both = 3 * torch.randn(2, answers, generator=generator, dtype=torch.float64) - 20
    desirable = torch.rand(answers, generator=generator) < 0.5
    desirable[0], desirable[1] = True, False
    policy, reference = both.to(dtype)
    return policy.requires_grad_(), reference, desirable


@given(
    answers=st.integers(2, 7),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.1, 1, 0.5]),
    kl=st.sampled_from([-0.4, 0, 0.7]),
    weights=st.sampled_from([(1, 1), (1.3, 0.7)]),
)
def test_it_equals_a_slow_loop(answers, seed, beta, kl, weights):
    policy, reference, desirable = draw(answers, seed)
    losses, rewards = [], {True: [], False: []}
    for p, r, good in zip(policy.tolist(), reference.tolist(), desirable.tolist(), strict=True):
        gain = (p - r) - max(0, kl)
        value = 1 / (1 + math.exp(-beta * (gain if good else -gain)))
        losses.append(weights[not good] * (1 - value))
        rewards[good].append(beta * (p - r))
    for given_ in (kl, torch.tensor(kl, dtype=torch.float64)):
        found = kto_loss(policy, reference, desirable, given_, beta, *weights)
        assert found.loss.item() == pytest.approx(sum(losses) / answers, rel=1e-9)
        assert found.chosen_rewards.tolist() == pytest.approx(rewards[True])
        assert found.rejected_rewards.tolist() == pytest.approx(rewards[False])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("drift", [0.8, -0.8])  # an estimate above zero, and one that is cut
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.7)])
def test_it_is_trls(beta, drift, weights, dtype):
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    generator = torch.Generator().manual_seed(1)
    policy, other = -3 * torch.rand(2, 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(6, 5, dtype=torch.long)
    noise = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    reference, other_reference = policy.sum(1) + noise[0], other.sum(1) + 0.2 * noise[1] - drift
    policy, other, reference, other_reference = (
        x.to(dtype) for x in (policy, other, reference, other_reference)
    )
    policy.requires_grad_()
    desirable = torch.tensor([1, 0, 0, 1, 1, 0]).bool()
    theirs, metrics = trl_preference.kto(
        policy, reference, other, other_reference, mask, desirable, beta, weights
    )
    kl = kto_kl(other.sum(1), other_reference)
    assert (kl > 0.3) == (drift > 0)
    found = kto_loss(policy.sum(1), reference, desirable, kl, beta, *weights)
    torch.testing.assert_close(found.loss, theirs, rtol=1e-6, atol=1e-6)
    wanted, got = (torch.autograd.grad(x, policy)[0] for x in (theirs, found.loss))
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert metrics["kl"] == pytest.approx(max(0, kl.item()), abs=1e-6)
    for name, rewards in (("chosen", found.chosen_rewards), ("rejected", found.rejected_rewards)):
        assert metrics[f"rewards/{name}"] == pytest.approx(rewards.mean().item(), abs=1e-5)


def test_at_the_reference_half_is_won_and_downhill_goes_the_right_ways():
    policy, _, desirable = draw(7)
    found = kto_loss(policy, policy, desirable, 0.0)
    assert found.loss.item() == 0.5
    (gradient,) = torch.autograd.grad(found.loss, policy)
    torch.testing.assert_close(gradient, torch.where(desirable, -0.1, 0.1).double() / 4 / 7)


def test_a_gain_that_all_answers_share_earns_nothing():
    policy, reference, desirable = draw(6)
    plain = kto_loss(policy, reference, desirable, 0.5).loss
    risen = kto_loss(policy + 3, reference, desirable, 3.5).loss
    torch.testing.assert_close(plain, risen)


def test_the_slope_dies_on_both_sides_and_a_small_beta_widens_it():
    """DPO pulls hardest at what is most wrong; KTO leaves it alone."""
    ratios = torch.tensor([-100.0, 0.0, 100.0], dtype=torch.float64)
    for good in (True, False):
        policy = torch.cat([ratios, ratios[1:2]]).requires_grad_()
        desirable = torch.tensor([good] * 3 + [not good])
        slopes = [
            torch.autograd.grad(
                kto_loss(policy, torch.zeros_like(policy), desirable, 0, beta).loss, policy
            )[0][:3].abs()
            for beta in (1.0, 0.01)
        ]
        assert slopes[0][1] > 0.05 and slopes[0][[0, 2]].max() < 1e-12
        assert slopes[1][[0, 2]].min() > 0.5 * slopes[1][1] > 0


def test_a_weight_scales_its_class_and_no_other():
    policy, reference, desirable = draw(8)
    one, two = (
        torch.autograd.grad(kto_loss(policy, reference, desirable, 0.2, 0.1, w, 1).loss, policy)[0]
        for w in (1, 3)
    )
    torch.testing.assert_close(two[desirable], 3 * one[desirable])
    torch.testing.assert_close(two[~desirable], one[~desirable])


def test_only_the_policy_gets_a_gradient():
    policy, reference, desirable = draw(5)
    reference.requires_grad_()
    kl = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = kto_loss(policy, reference, desirable, kl)
    found.loss.backward()
    assert policy.grad.all() and reference.grad is None and kl.grad is None
    assert not found.chosen_rewards.requires_grad and not found.rejected_rewards.requires_grad
    assert not kto_kl(policy, reference).requires_grad


def test_gradients_by_finite_differences():
    policy, reference, desirable = draw(5)
    assert gradcheck(lambda x: kto_loss(x, reference, desirable, 0.4, 0.6, 1.2).loss, (policy,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    policy, reference, desirable = draw(300, dtype=dtype)
    kl = kto_kl(policy, reference)
    found = kto_loss(policy, reference, desirable, kl)
    assert kl.dtype == torch.float32 and {x.dtype for x in found} == {torch.float32}
    wanted = kto_loss(policy.double(), reference.double(), desirable, kl.double())
    torch.testing.assert_close(found.loss.double(), wanted.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("good", [True, False])
def test_one_class_only_is_refused_in_numbers(good):
    policy, reference, _ = draw(4)
    said = "4 good and 0 bad" if good else "0 good and 4 bad"
    with pytest.raises(ValueError, match=said):
        kto_loss(policy, reference, torch.full((4,), good), 0.1)


def test_what_does_not_fit_is_refused():
    policy, reference, desirable = draw(4)
    for beta in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="beta is a number above zero"):
            kto_loss(policy, reference, desirable, 0.1, beta)
    for name in ("desirable_weight", "undesirable_weight"):
        with pytest.raises(ValueError, match=f"^{name} is a number above zero"):
            kto_loss(policy, reference, desirable, 0.1, **{name: 0})
    with pytest.raises(Exception, match="reference"):
        kto_loss(policy, reference[:1], desirable, 0.1)


def test_not_a_number_is_not_hidden():
    policy, reference, desirable = draw(4)
    bad = policy.detach().clone()
    bad[2] = float("nan")
    assert kto_loss(bad, reference, desirable, 0.1).loss.isnan()
    assert kto_loss(policy, reference, desirable, float("nan")).loss.isnan()


def test_no_mismatched_answer_is_a_kl_of_zero():
    assert kto_kl(torch.zeros(0), torch.zeros(0)) == 0
