"""Policy and value losses against slow loops and TRL's own methods, values and gradients."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.advantages import kl_estimate
from labs.losses.policy import (
    aggregate_tokens,
    explained_variance,
    ppo_policy_loss,
    ppo_value_loss,
)

NAN = float("nan")
WAYS = [
    ("token", "token"),
    ("token", "sequence"),
    ("token", "constant"),
    ("sequence", "sequence"),
    ("sequence", "token"),
    ("sequence", "constant"),
]


def draw(batch, tokens, seed=0, dtype=torch.float64, share=0.7, spread=0.4, garbage=NAN):
    """New and old log-probabilities, advantages [B] and [B, T], a mask with holes; NaN under it."""
    generator = torch.Generator().manual_seed(seed)
    old, step, each = torch.randn(3, batch, tokens, generator=generator, dtype=torch.float64)
    mask = (torch.rand(batch, tokens, generator=generator) < share).long()
    old = -old.abs()
    new, old, each = (x.masked_fill(mask == 0, garbage) for x in (old + spread * step, old, each))
    advantages = torch.randn(batch, generator=generator, dtype=torch.float64)
    new, old, each, advantages = (x.to(dtype) for x in (new, old, each, advantages))
    return new.requires_grad_(), old, advantages, each, mask


def slow(new, old, advantages, mask, low, high, level, aggregate, constant):
    """(loss, clip fraction, approximate KL) by the definitions, a token at a time.

    On scalars that autograd follows, so it has a gradient of its own.
    """
    loss = torch.zeros((), dtype=torch.float64)
    batch = len(new)
    total = int(mask.sum())
    clipped, counted, kl = 0, 0, 0.0
    for b in range(batch):
        places = [t for t in range(new.shape[1]) if mask[b, t]]
        if not places:
            continue
        logs = [new[b, t] - old[b, t] for t in places]
        ratios = [x.exp() for x in logs]
        if level == "sequence":
            product = torch.ones((), dtype=torch.float64)
            for ratio in ratios:
                product = product * ratio
            ratios = [product ** (1 / len(places))] * len(places)
        row = []
        for t, ratio in zip(places, ratios, strict=True):
            advantage = advantages[b].item() if advantages.dim() == 1 else advantages[b, t].item()
            kept = min(max(ratio.item(), 1 - low), 1 + high)
            if ratio.item() * advantage <= kept * advantage:  # the pessimist's choice
                row.append(-ratio * advantage)
            else:
                row.append(torch.tensor(-kept * advantage, dtype=torch.float64))
            out = (ratio > 1 + high and advantage > 0) or (ratio < 1 - low and advantage < 0)
            if level == "token" or advantages.dim() == 2 or t == places[0]:
                clipped += bool(out)
                counted += 1
        kl += sum(math.exp(x) - 1 - x for x in (log.item() for log in logs)) / total
        weight = {
            "token": 1 / total,
            "sequence": 1 / (batch * len(places)),
            "constant": 1 / (batch * constant),
        }[aggregate]
        loss = loss + weight * sum(row)
    return loss, clipped / max(counted, 1), kl


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 5),
    seed=st.integers(0, 999),
    way=st.sampled_from(WAYS),
    clip=st.sampled_from([0.0, 0.05, 0.2]),
    clip_high=st.sampled_from([None, 0.28]),
    each=st.booleans(),
    share=st.sampled_from([0.0, 0.4, 1.1]),
)
def test_policy_loss_equals_a_slow_loop(batch, tokens, seed, way, clip, clip_high, each, share):
    new, old, advantages, by_token, mask = draw(batch, tokens, seed, share=share)
    advantages = by_token if each else advantages
    level, aggregate = way
    high = clip if clip_high is None else clip_high
    got = ppo_policy_loss(new, old, advantages, mask, clip, clip_high, level, aggregate, 5)
    wanted = slow(new, old, advantages, mask, clip, high, level, aggregate, 5)
    for a, b in zip(got, wanted, strict=True):
        assert float(a) == pytest.approx(float(b), abs=1e-9)
    (gradient,) = torch.autograd.grad(got.loss, new)
    assert not gradient[mask == 0].any()
    if wanted[0].requires_grad:
        (slow_gradient,) = torch.autograd.grad(wanted[0], new)
        torch.testing.assert_close(gradient, slow_gradient)
    else:
        assert not gradient.any()


# --- TRL ---------------------------------------------------------------------


def trl_loss(trainer, monkeypatch, new, mask, **inputs):
    """TRL's loss of log-probabilities that stand in for the model's."""
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: (new, torch.zeros_like(new), None),
    )
    ids = torch.zeros_like(mask)
    inputs |= {"prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids}
    inputs |= {"completion_mask": mask, "num_items_in_batch": mask.sum()}
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize(("kl_coef", "corrected"), [(0.0, False), (0.3, False), (0.3, True)])
@pytest.mark.parametrize("clip_high", [0.2, 0.28])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    ("loss_type", "aggregate"),
    [("grpo", "sequence"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")],
)
@pytest.mark.parametrize("each", [False, True])
def test_policy_loss_is_trls(
    trl_trainers, monkeypatch, kl_coef, corrected, clip_high, level, loss_type, aggregate, each
):
    trainer = trl_trainers["grpo"]
    options = {"loss_type": loss_type, "importance_sampling_level": level, "beta": kl_coef}
    options |= {"epsilon_low": 0.2, "epsilon_high": clip_high, "max_completion_length": 9}
    for name, value in options.items():
        monkeypatch.setattr(trainer, name, value)
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", corrected)

    new, old, advantages, by_token, mask = draw(6, 7, 3, torch.float32, garbage=0)
    mask[0], mask[1] = 0, 1  # a row without, and a row full of real tokens
    advantages = by_token if each else advantages
    reference = old + 0.3 * by_token
    inputs = {"old_per_token_logps": old, "ref_per_token_logps": reference}
    theirs = trl_loss(trainer, monkeypatch, new, mask, advantages=advantages, **inputs)

    found = ppo_policy_loss(
        new, old, advantages, mask, 0.2, clip_high, level=level, aggregate=aggregate, constant=9
    )
    kl = kl_estimate(new, reference, "k3")
    if corrected:  # k3 times the ratio, as the docstring of kl_estimate has it
        ratio = (new - old).exp()
        if level == "sequence":
            mean = ((new - old) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(1)
            ratio = mean.exp()
        kl = kl * ratio
    ours = found.loss + kl_coef * aggregate_tokens(kl, mask, aggregate, 9)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wanted, got = (torch.autograd.grad(loss, new)[0] for loss in (theirs, ours))
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)

    metrics = trainer._metrics["train"]
    if kl_coef:
        mean = aggregate_tokens(kl, mask).item()
        assert metrics["kl"][-1] == pytest.approx(mean, rel=1e-5)
    if level == "token":
        assert metrics["clip_ratio/region_mean"][-1] == pytest.approx(found.clip_fraction.item())
        assert found.clip_fraction > 0


def test_rloo_is_trls(trl_trainers, monkeypatch):
    """One "token" a sequence, its summed log-probability: RLOO's ratio is not a geometric mean."""
    trainer = trl_trainers["rloo"]
    new, old, advantages, _, mask = draw(6, 7, 3, torch.float32, spread=0.1, garbage=0)
    old_sums = (old * mask).sum(dim=1)
    inputs = {"old_logps": old_sums, "advantages": advantages}
    theirs = trl_loss(trainer, monkeypatch, new, mask, **inputs)
    sums = (new * mask).sum(dim=1)
    found = ppo_policy_loss(
        sums[:, None], old_sums[:, None], advantages, mask.any(1, keepdim=True), aggregate="token"
    )
    torch.testing.assert_close(found.loss, theirs, rtol=1e-5, atol=1e-5)
    wanted, got = (torch.autograd.grad(loss, new)[0] for loss in (theirs, found.loss))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert 0 < clipped < 1
    assert found.clip_fraction.item() == pytest.approx(clipped)


# --- what the policy loss has to do -------------------------------------------


@pytest.mark.parametrize(("level", "aggregate"), WAYS)
def test_at_the_old_policy_the_gradient_is_reinforces(level, aggregate):
    _, old, advantages, _, mask = draw(4, 6, share=1.1)
    at_old = old.clone().requires_grad_()
    found = ppo_policy_loss(
        at_old, old, advantages, mask, level=level, aggregate=aggregate, constant=6
    )
    (gradient,) = torch.autograd.grad(found.loss, at_old)
    torch.testing.assert_close(gradient, -advantages[:, None].expand(4, 6) / 24)
    assert found.clip_fraction == found.approx_kl == 0


def test_clipping_cuts_the_gradient_only_of_steps_that_lead_further_out():
    ratios = torch.tensor([[0.5, 0.5, 1.0, 1.0, 1.25, 1.25, 1.5, 1.5]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1, 1, -1, 1, -1, 1, -1]], dtype=torch.float64)
    new = ratios.log().requires_grad_()
    mask = torch.ones(1, 8)
    found = ppo_policy_loss(new, torch.zeros_like(new), advantages, mask, 0.2, clip_high=0.28)
    (gradient,) = torch.autograd.grad(found.loss, new)
    assert (gradient == 0).tolist() == [[False, True, False, False, False, False, True, False]]
    assert found.clip_fraction.item() == 2 / 8


@pytest.mark.parametrize(("level", "aggregate"), WAYS)
def test_padding_side_and_what_stands_under_the_mask_do_not_matter(level, aggregate):
    new, old, advantages, each, _ = draw(3, 4, share=1.1)
    for given_ in (advantages, each):
        found = []
        for side in (slice(0, 4), slice(3, 7)):
            wide = torch.full((3, 3, 7), NAN, dtype=torch.float64)
            mask = torch.zeros(3, 7, dtype=torch.bool)
            mask[:, side] = True
            wide[0, :, side], wide[1, :, side], wide[2, :, side] = new.detach(), old, each
            leaf = wide[0].clone().requires_grad_()
            by = wide[2] if given_.dim() == 2 else given_
            loss = ppo_policy_loss(
                leaf, wide[1], by, mask, level=level, aggregate=aggregate, constant=4
            )
            found.append((*loss, torch.autograd.grad(loss.loss, leaf)[0][:, side]))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("level", "aggregate"), WAYS)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_without_a_real_token_adds_nothing(level, aggregate, rows):
    """NaN there, in its advantage too: a sampled answer may be empty, its group not scored."""
    new, old, advantages, _, mask = draw(3, 4, share=1.1)
    mask[:rows] = 0
    leaf = new.detach().clone()
    leaf[:rows] = NAN
    leaf.requires_grad_()
    advantages[:rows] = NAN
    found = ppo_policy_loss(
        leaf, old, advantages, mask, level=level, aggregate=aggregate, constant=4
    )
    (gradient,) = torch.autograd.grad(found.loss, leaf)
    assert all(x.isfinite() for x in found) and not gradient[:rows].any()
    if rows == 3:
        assert found == (0, 0, 0)
    else:
        assert gradient[rows:].all() or found.clip_fraction > 0
        alone = ppo_policy_loss(
            new[rows:], old[rows:], advantages[rows:], mask[rows:], 0.2, None, level, aggregate, 4
        )
        weight = 1 if aggregate == "token" else (3 - rows) / 3  # an empty row is a row
        torch.testing.assert_close(found.loss, alone.loss * weight)


@pytest.mark.parametrize(("level", "aggregate"), WAYS)
def test_micro_batches_by_their_share_add_up_to_the_large_batch(level, aggregate):
    new, old, advantages, _, mask = draw(5, 6)
    rest = {"level": level, "aggregate": aggregate, "constant": 6}
    whole = ppo_policy_loss(new, old, advantages, mask, **rest).loss
    parts = 0
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        share = len(mask[rows]) / 5
        if aggregate == "token":
            share = mask[rows].sum() / mask.sum()
        part = ppo_policy_loss(new[rows], old[rows], advantages[rows], mask[rows], **rest)
        parts = parts + share * part.loss
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(*(torch.autograd.grad(x, new)[0] for x in (parts, whole)))


def test_a_long_answers_token_weighs_less_per_sequence_and_the_same_per_token():
    """The three aggregates on one answer of 1 and one of 4 tokens, gradients a token."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1]])
    values = torch.zeros(2, 4, requires_grad=True)
    for aggregate, short, long in (("token", 1 / 5, 1 / 5), ("sequence", 1 / 2, 1 / 8)):
        (gradient,) = torch.autograd.grad(aggregate_tokens(values, mask, aggregate), values)
        assert gradient[0].tolist() == pytest.approx([short, 0, 0, 0])
        assert gradient[1].tolist() == pytest.approx([long] * 4)
    (gradient,) = torch.autograd.grad(aggregate_tokens(values, mask, "constant", 10), values)
    assert gradient[mask == 1].tolist() == pytest.approx([1 / 20] * 5)


def test_only_the_policy_gets_a_gradient():
    new, old, advantages, each, mask = draw(2, 3, share=1.1)
    for x in (old, advantages, each):
        x.requires_grad_()
    ppo_policy_loss(new, old, advantages, mask).loss.backward()
    ppo_policy_loss(new, old, each, mask).loss.backward()
    assert new.grad is not None
    assert old.grad is advantages.grad is each.grad is None
    found = ppo_policy_loss(new, old, advantages, mask)
    assert not found.clip_fraction.requires_grad and not found.approx_kl.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    new, old, advantages, _, mask = draw(5, 300, dtype=dtype)
    found = ppo_policy_loss(new, old, advantages, mask)
    wanted = ppo_policy_loss(new.float(), old.float(), advantages.float(), mask)
    values = ppo_value_loss(new, old, old + 1, mask)
    wanted_values = ppo_value_loss(new.float(), old.float(), (old + 1).float(), mask)
    for a, b in zip((*found, *values), (*wanted, *wanted_values), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    found.loss.backward()
    assert new.grad.dtype == dtype and new.grad.isfinite().all()


def test_not_a_number_on_a_real_token_is_not_hidden():
    new, old, advantages, _, mask = draw(2, 3, share=1.1)
    bad = new.detach().clone()
    bad[1, 2] = NAN
    for level, aggregate in WAYS:
        found = ppo_policy_loss(bad, old, advantages, mask, 0.2, None, level, aggregate, 3)
        assert found.loss.isnan() and found.approx_kl.isnan()
    assert ppo_value_loss(bad, old, old, mask).loss.isnan()
    assert explained_variance(bad, old, mask).isnan()
    assert explained_variance(old, bad, mask).isnan()


def test_what_does_not_fit():
    new, old, advantages, _, mask = draw(2, 3, share=1.1)
    with pytest.raises(ValueError, match="level"):
        ppo_policy_loss(new, old, advantages, mask, level="word")
    with pytest.raises(ValueError, match="aggregate"):
        ppo_policy_loss(new, old, advantages, mask, aggregate="mean")
    for constant in (None, 0):
        with pytest.raises(ValueError, match="constant above zero"):
            ppo_policy_loss(new, old, advantages, mask, aggregate="constant", constant=constant)
    with pytest.raises(Exception, match="advantages"):
        ppo_policy_loss(new, old, advantages[:1], mask)
    with pytest.raises(Exception, match="mask"):
        ppo_value_loss(new, old, old, mask[:, :1])


# --- values ------------------------------------------------------------------


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 6),
    seed=st.integers(0, 999),
    clip=st.sampled_from([None, 0.0, 0.2, 1]),
    share=st.sampled_from([0.0, 0.5, 1.1]),
)
def test_value_loss_equals_a_slow_loop(batch, tokens, seed, clip, share):
    """TRL 1.16 has no PPO any more to run: a token at a time, with a gradient by hand."""
    values, old, _, returns, mask = draw(batch, tokens, seed, share=share)
    found = ppo_value_loss(values, old, returns, mask, clip)
    (gradient,) = torch.autograd.grad(found.loss, values)
    total = max(int(mask.sum()), 1)
    loss, clipped = 0.0, 0
    for b in range(batch):
        for t in range(tokens):
            slope = 0.0
            if mask[b, t]:
                v, o, r = (x[b, t].item() for x in (values, old, returns))
                plain, slope = (v - r) ** 2 / 2, v - r
                if clip is not None:
                    held = o + max(-clip, min(clip, v - o))
                    if (held - r) ** 2 / 2 > plain + 1e-12:
                        plain, slope, clipped = (held - r) ** 2 / 2, 0.0, clipped + 1
                loss += plain / total
            assert gradient[b, t].item() == pytest.approx(slope / total, abs=1e-9)
    assert found.loss.item() == pytest.approx(loss, abs=1e-9)
    assert found.clip_fraction.item() == pytest.approx(clipped / total)


def test_gradients_by_finite_differences():
    new, old, advantages, returns, mask = draw(3, 4, garbage=0)
    assert gradcheck(lambda x: ppo_value_loss(x, old, returns, mask).loss, new)
    for level, aggregate in WAYS:
        assert gradcheck(
            lambda x, way=(level, aggregate): (
                ppo_policy_loss(x, old, advantages, mask, 0.2, 0.3, *way, 4).loss
            ),
            new,
        )


@given(seed=st.integers(0, 999), share=st.sampled_from([0.4, 1.1]))
def test_explained_variance_equals_a_slow_loop(seed, share):
    values, returns, _, _, mask = draw(3, 5, seed, share=share)
    got = explained_variance(values, returns, mask).item()
    r = returns[mask == 1].tolist()
    error = [a - b for a, b in zip(r, values[mask == 1].tolist(), strict=True)]
    if len(r) > 1:
        wanted = 1 - statistics.pvariance(error) / statistics.pvariance(r)
        assert got == pytest.approx(wanted, abs=1e-9)
    else:
        assert got == 0


def test_explained_variance_at_its_marks():
    _, returns, _, _, mask = draw(4, 6)
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(returns + 5, returns, mask).item() == pytest.approx(1)
    assert explained_variance(torch.full_like(returns, 3), returns, mask).item() == pytest.approx(0)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3)
    # Nothing to explain: returns that do not vary (0.1 is no binary fraction), no token at all.
    assert explained_variance(returns, torch.full_like(returns, 0.1), mask) == 0
    assert explained_variance(returns, returns, torch.zeros_like(mask)) == 0
