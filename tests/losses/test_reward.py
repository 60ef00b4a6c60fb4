"""The reward loss: a slow loop, TRL's own, and what its two terms hold."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.reward import reward_loss


def scores(pairs, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, pairs, generator=generator, dtype=torch.float64).to(dtype)


@given(
    pairs=st.integers(1, 7),
    seed=st.integers(0, 999),
    margin=st.sampled_from([None, 0.7, "each"]),
    centring=st.sampled_from([0, 0.01, 2.0]),
)
def test_it_equals_a_slow_loop(pairs, seed, margin, centring):
    chosen, rejected, each = scores(pairs, seed)
    wanted = 0.0
    for c, r, m in zip(chosen.tolist(), rejected.tolist(), each.tolist(), strict=True):
        gap = c - r - (m if margin == "each" else margin or 0)
        wanted += math.log1p(math.exp(-gap)) / pairs + centring * (c + r) ** 2 / pairs
    got = reward_loss(chosen, rejected, each if margin == "each" else margin, centring)
    assert got.item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_it_is_trls(centring, with_margin):
    """`RewardTrainer.compute_loss` itself, on a model that answers with given scores."""
    RewardTrainer = pytest.importorskip("trl").RewardTrainer
    chosen, rejected, margin = scores(6, dtype=torch.float32)
    leaf = torch.cat([chosen, rejected]).requires_grad_()

    def model(**_):
        return SimpleNamespace(logits=leaf[:, None])

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(12, 3)} | ({"margin": margin} if with_margin else {})
    theirs = RewardTrainer.compute_loss(trainer, model, inputs)
    ours = reward_loss(*leaf.chunk(2), margin if with_margin else None, centring or 0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wanted, got = (torch.autograd.grad(loss, leaf)[0] for loss in (theirs, ours))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_by_finite_differences():
    chosen, rejected, margin = (x.clone().requires_grad_() for x in scores(4))
    assert gradcheck(lambda *x: reward_loss(*x, centring=0.3), (chosen, rejected, margin))


def test_only_the_difference_counts_until_centring_ties_the_level():
    chosen, rejected, _ = scores(5)
    plain, shifted = (reward_loss(chosen + s, rejected + s) for s in (0, 1000))
    torch.testing.assert_close(plain, shifted)
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = reward_loss(chosen + 3 + level, rejected + 3 + level, centring=0.01)
    assert torch.autograd.grad(loss, level)[0] > 0.1  # downhill is down, towards zero


def test_it_falls_with_the_gap_and_rises_with_the_margin():
    zero = torch.zeros(3)
    assert reward_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert reward_loss(zero + 1, zero) < math.log(2) < reward_loss(zero, zero + 1)
    assert reward_loss(zero + 1, zero, margin=1).item() == pytest.approx(math.log(2))


def test_far_apart_scores_neither_overflow_nor_stall():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = reward_loss(chosen, torch.tensor([1e4, -1e4]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert chosen.grad.tolist() == [-0.5, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    chosen, rejected, margin = scores(300, dtype=dtype)
    got = reward_loss(chosen, rejected, margin, 0.01)
    assert got.dtype == torch.float32
    wanted = reward_loss(*(x.double() for x in (chosen, rejected, margin)), 0.01)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=0)


def test_no_pair_at_all_is_zero_with_zero_gradients():
    chosen = torch.zeros(0, requires_grad=True)
    loss = reward_loss(chosen, torch.zeros(0), centring=0.1)
    loss.backward()
    assert loss.item() == 0 and chosen.grad.shape == (0,)


def test_not_a_number_is_not_hidden():
    assert reward_loss(torch.tensor([1.0, float("nan")]), torch.zeros(2)).isnan()


def test_what_does_not_fit():
    with pytest.raises(Exception, match="rejected"):
        reward_loss(torch.zeros(3), torch.zeros(1))  # would broadcast without a word
