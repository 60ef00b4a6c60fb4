"""mDPO against a slow loop over its published formula, and what looking at the picture earns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.mdpo import anchored_loss, conditional_loss, mdpo_loss
from labs.losses.preference import dpo_loss

LN2 = math.log(2)


def draw(pairs, seed=0, dtype=torch.float64):
    """(chosen, rejected, corrupted) of the policy and the same of the reference."""
    generator = torch.Generator().manual_seed(seed)
    six = 3 * torch.randn(6, pairs, generator=generator, dtype=torch.float64) - 20
    return [x.to(dtype).requires_grad_() for x in six]


def slow(six, beta, delta):
    """(DPO, CoPO, AncPO) of arXiv:2406.11839, on probabilities, pair by pair."""

    def minus_log_sigmoid(x):
        return -math.log(1 / (1 + math.exp(-x)))

    terms = [0.0, 0.0, 0.0]
    pairs = len(six[0])
    for each in zip(*(x.tolist() for x in six), strict=True):
        p_w, p_l, p_m, r_w, r_l, r_m = (math.exp(x) for x in each)
        good = beta * math.log(p_w / r_w)
        terms[0] += minus_log_sigmoid(good - beta * math.log(p_l / r_l)) / pairs
        terms[1] += minus_log_sigmoid(good - beta * math.log(p_m / r_m)) / pairs
        terms[2] += minus_log_sigmoid(good - delta) / pairs
    return terms


@given(
    pairs=st.integers(1, 6),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.1, 1, 0.5]),
    delta=st.sampled_from([0.0, 0.5, -1]),
)
def test_it_is_the_published_formula(pairs, seed, beta, delta):
    six = draw(pairs, seed)
    p_w, _, p_m, r_w, r_l, r_m = six
    wanted = slow(six, beta, delta)
    found = mdpo_loss(*six, beta, delta)
    assert found.loss.item() == pytest.approx(sum(wanted), abs=1e-9)
    images = conditional_loss(p_w, p_m, r_w, r_m, beta)
    assert images.loss.item() == pytest.approx(wanted[1], abs=1e-9)
    assert anchored_loss(p_w, r_w, beta, delta).item() == pytest.approx(wanted[2], abs=1e-9)
    for rewards, (p, r) in (
        (found.chosen_rewards, (p_w, r_w)),
        (found.rejected_rewards, (six[1], r_l)),
        (found.corrupted_rewards, (p_m, r_m)),
    ):
        torch.testing.assert_close(rewards, (beta * (p - r)).detach())


def test_without_its_two_terms_it_is_dpo():
    p_w, p_l, p_m, r_w, r_l, r_m = six = draw(5)
    rest = conditional_loss(p_w, p_m, r_w, r_m).loss + anchored_loss(p_w, r_w)
    torch.testing.assert_close(
        mdpo_loss(*six).loss - rest, dpo_loss(p_w, p_l, r_w, r_l).loss, rtol=1e-9, atol=1e-9
    )


def test_where_the_policy_is_the_reference():
    chosen, rejected, corrupted, *_ = draw(5)
    found = mdpo_loss(chosen, rejected, corrupted, chosen, rejected, corrupted)
    assert found.loss.item() == pytest.approx(3 * LN2)
    assert not found.corrupted_rewards.any()
    slopes = torch.autograd.grad(found.loss, (chosen, rejected, corrupted))
    assert (slopes[0] < 0).all() and (slopes[1] > 0).all() and (slopes[2] > 0).all()
    # Three terms pull the chosen up; one each pushes down the other answer and the other image.
    torch.testing.assert_close(slopes[0], -3 * slopes[1])
    torch.testing.assert_close(slopes[1], slopes[2])


def test_a_model_that_does_not_look_has_nothing_to_gain_from_the_second_image():
    """Its log-probability under both images is one number, so the term's gradient cancels."""
    blind, _, _, reference, _, corrupted = draw(5)
    loss = conditional_loss(blind, blind, reference, corrupted).loss
    assert not torch.autograd.grad(loss, blind)[0].any()
    one = conditional_loss(blind, blind, reference, reference)
    assert one.loss.item() == pytest.approx(LN2)


def test_the_anchor_sees_the_chosen_answer_sink_where_dpo_does_not():
    p_w, p_l, p_m, r_w, r_l, r_m = draw(5)
    held, sunk = (dpo_loss(p_w - s, p_l - s, r_w, r_l).loss.item() for s in (0, 30))
    assert held == pytest.approx(sunk)
    held, sunk = (mdpo_loss(p_w - s, p_l - s, p_m - s, r_w, r_l, r_m).loss for s in (0, 30))
    assert sunk - held > 2  # beta · 30 = 3 nats of reward
    slopes = [torch.autograd.grad(anchored_loss(p_w - s, r_w), p_w)[0].abs().sum() for s in (0, 30)]
    assert slopes[1] > 1.2 * slopes[0]  # the further it has sunk, the harder the pull


def test_an_anchor_above_zero_asks_for_more_than_the_reference():
    chosen, *_ = draw(4)
    assert anchored_loss(chosen, chosen).item() == pytest.approx(LN2)
    assert anchored_loss(chosen + 10, chosen, 0.1, 1).item() == pytest.approx(LN2)
    assert anchored_loss(chosen, chosen, 0.1, 1) > LN2


def test_swapping_the_images_flips_the_margin():
    p_w, _, p_m, r_w, _, r_m = draw(5)
    one, two = conditional_loss(p_w, p_m, r_w, r_m), conditional_loss(p_m, p_w, r_m, r_w)
    torch.testing.assert_close(one.chosen_rewards, two.rejected_rewards)
    torch.testing.assert_close(one.rejected_rewards, two.chosen_rewards)


def test_only_the_policy_gets_a_gradient():
    six = draw(3)
    found = mdpo_loss(*six)
    found.loss.backward()
    assert [x.grad is not None for x in six] == [True] * 3 + [False] * 3
    assert not any(x.requires_grad for x in found[1:])


def test_gradients_by_finite_differences():
    six = draw(4)
    references = [x.detach() for x in six[3:]]
    assert gradcheck(lambda *x: mdpo_loss(*x, *references, 0.6, 0.3).loss, six[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    six = draw(300, dtype=dtype)
    found = mdpo_loss(*six)
    assert {x.dtype for x in found} == {torch.float32}
    wanted = mdpo_loss(*(x.double() for x in six))
    torch.testing.assert_close(found.loss.double(), wanted.loss, rtol=1e-6, atol=0)


def test_no_pair_at_all_is_zero_with_zero_gradients():
    six = [torch.zeros(0, requires_grad=True) for _ in range(6)]
    loss = mdpo_loss(*six).loss
    loss.backward()
    assert loss.item() == 0 and six[2].grad.shape == (0,)


def test_not_a_number_is_not_hidden():
    for place in range(6):
        six = [x.detach().clone() for x in draw(3)]
        six[place][1] = float("nan")
        assert mdpo_loss(*six).loss.isnan()


@pytest.mark.parametrize("beta", [0, -0.1, float("nan")])
def test_beta_is_above_zero(beta):
    six = draw(2)
    for loss, given_ in ((mdpo_loss, six), (conditional_loss, six[:4]), (anchored_loss, six[:2])):
        with pytest.raises(ValueError, match="beta is a number above zero"):
            loss(*given_, beta)


def test_other_numbers_of_answers_are_refused():
    three, one = torch.zeros(3), torch.zeros(1)
    with pytest.raises(Exception, match="policy_corrupted"):
        mdpo_loss(three, three, one, three, three, three)
