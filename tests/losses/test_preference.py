"""DPO and its variants: slow loops, TRL 1.16's own method, and what each variant promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses.preference import AVERAGED, SMOOTHED, VARIANTS, dpo_loss

LN2 = math.log(2)


def draw(pairs, seed=0, dtype=torch.float64, spread=3.0):
    """Four log-probabilities [B], with gradients, and two numbers of tokens."""
    generator = torch.Generator().manual_seed(seed)
    four = spread * torch.randn(4, pairs, generator=generator, dtype=torch.float64) - 20
    lengths = torch.randint(1, 9, (2, pairs), generator=generator)
    return [x.to(dtype).requires_grad_() for x in four], list(lengths)


def settings_of(variant, lengths, eps=0.1):
    """What a variant needs beside beta."""
    found = {"variant": variant, "label_smoothing": eps if variant in SMOOTHED else 0.0}
    if variant in AVERAGED:
        found |= dict(zip(("chosen_lengths", "rejected_lengths"), lengths, strict=True))
    return found


def slow(variant, chosen, rejected, beta, eps):
    """One pair's loss, from its two log-ratios, by the formulas."""

    def nll(x):  # -log sigmoid(x)
        return math.log(1 + math.exp(-x))

    m = beta * (chosen - rejected)
    return {
        "sigmoid": (1 - eps) * nll(m) + eps * nll(-m),
        "robust": ((1 - eps) * nll(m) - eps * nll(-m)) / (1 - 2 * eps),
        "hinge": max(0.0, 1 - m),
        "ipo": (chosen - rejected - 1 / (2 * beta)) ** 2,
        "bco_pair": nll(beta * chosen) + nll(-beta * rejected),
        "sigmoid_norm": nll(m),
    }[variant]


@given(
    pairs=st.integers(1, 6),
    seed=st.integers(0, 999),
    variant=st.sampled_from(VARIANTS),
    beta=st.sampled_from([0.05, 0.1, 1, 2.5]),
    eps=st.sampled_from([0.0, 0.1, 0.45]),
)
def test_it_equals_a_slow_loop(pairs, seed, variant, beta, eps):
    four, lengths = draw(pairs, seed)
    options = settings_of(variant, lengths, eps)
    got = dpo_loss(*four, beta, **options)
    losses = []
    for pair in range(pairs):
        pc, pr, rc, rr = (x[pair].item() for x in four)
        by = [x[pair].item() if variant in AVERAGED else 1 for x in lengths]
        chosen, rejected = (pc - rc) / by[0], (pr - rr) / by[1]
        losses.append(slow(variant, chosen, rejected, beta, options["label_smoothing"]))
        assert got.chosen_rewards[pair].item() == pytest.approx(beta * chosen)
        assert got.rejected_rewards[pair].item() == pytest.approx(beta * rejected)
    assert got.loss.item() == pytest.approx(sum(losses) / pairs, rel=1e-9, abs=1e-9)


def test_ipo_without_lengths_is_the_papers_loss_on_what_was_passed():
    four, _ = draw(5)
    ratios = [(p - r).detach() for p, r in zip(four[:2], four[2:], strict=True)]
    wanted = [slow("ipo", c.item(), r.item(), 0.1, 0) for c, r in zip(*ratios, strict=True)]
    assert dpo_loss(*four, variant="ipo").loss.item() == pytest.approx(sum(wanted) / 5)


# --- TRL ---------------------------------------------------------------------


def tokens(pairs=6, length=5, seed=0, dtype=torch.float64):
    """[2B, T] of a policy's tokens, zero off the mask (as TRL's fused head gives), and references."""
    generator = torch.Generator().manual_seed(seed)
    policy = -3 * torch.rand(2 * pairs, length, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2 * pairs, length, generator=generator) < 0.6).long()
    mask[:, 0] = 1
    policy = (policy * mask).to(dtype).requires_grad_()
    noise = torch.randn(2 * pairs, generator=generator, dtype=torch.float64)
    reference = (policy.detach().sum(dim=1) + noise).to(dtype)
    return policy, mask, reference.chunk(2)


def close(ours, theirs, leaf):
    """Value and gradient, to 1e-6."""
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    wanted, got = (torch.autograd.grad(loss, leaf)[0] for loss in (theirs, ours))
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_trls(variant, beta, dtype):
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    policy, mask, references = tokens(dtype=dtype)
    eps = 0.1 if variant == "robust" else 0.0
    theirs, metrics = trl_preference.dpo(policy, mask, *references, beta, [variant], eps=eps)
    lengths = mask.sum(dim=1).chunk(2)
    found = dpo_loss(
        *policy.sum(dim=1).chunk(2), *references, beta, **settings_of(variant, lengths, eps)
    )
    close(found.loss, theirs, policy)
    by = lengths if variant in AVERAGED else (1, 1)  # TRL logs sums, whatever its loss sees
    for name, rewards, length in zip(("chosen", "rejected"), found[1:], by, strict=True):
        mean = (rewards * length).mean().item()
        assert metrics[f"rewards/{name}"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_cdpo_is_trls_where_trl_has_it(eps):
    """CPOTrainer smooths "sigmoid"; DPOTrainer drops the number without a word, we do not."""
    trl_preference = pytest.importorskip("tests.losses.trl_preference")
    policy, mask, references = tokens()
    four = (*policy.sum(dim=1).chunk(2), *references)
    ours = dpo_loss(*four, 0.3, label_smoothing=eps).loss
    ratios = (four[0] - four[2], four[1] - four[3])
    close(ours, trl_preference.cdpo(*ratios, 0.3, eps).mean(), policy)
    dropped, _ = trl_preference.dpo(policy, mask, *references, 0.3, ["sigmoid"], eps=eps)
    assert abs(dropped.item() - ours.item()) > 1e-3


# --- what the losses have to do ------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "wanted"),
    [
        ("sigmoid", LN2),
        ("robust", LN2),
        ("sigmoid_norm", LN2),
        ("bco_pair", 2 * LN2),
        ("hinge", 1),
        ("ipo", 25),
    ],
)
def test_where_the_policy_is_the_reference(variant, wanted):
    (policy, other, _, _), lengths = draw(5)
    found = dpo_loss(policy, other, policy, other, 0.1, **settings_of(variant, lengths))
    assert found.loss.item() == pytest.approx(wanted)
    assert not found.chosen_rewards.any() and not found.rejected_rewards.any()
    chosen, rejected = torch.autograd.grad(found.loss, (policy, other))
    assert (chosen < 0).all() and (rejected > 0).all()  # downhill: the chosen up, the rejected down


@given(seed=st.integers(0, 99), variant=st.sampled_from(VARIANTS))
def test_swapping_the_pair_flips_the_margin(seed, variant):
    (pc, pr, rc, rr), lengths = draw(4, seed)
    one = dpo_loss(pc, pr, rc, rr, **settings_of(variant, lengths))
    two = dpo_loss(pr, pc, rr, rc, **settings_of(variant, lengths[::-1]))
    margins = [x.chosen_rewards - x.rejected_rewards for x in (one, two)]
    torch.testing.assert_close(margins[0], -margins[1])
    assert margins[0].abs().max() > 1e-3


def test_the_rejected_and_chosen_weigh_alike_and_wrong_pairs_most():
    """DPO's gradient: -beta · sigmoid(-margin) on the chosen, its opposite on the rejected."""
    (pc, pr, rc, rr), _ = draw(7)
    found = dpo_loss(pc, pr, rc, rr, 0.4)
    chosen, rejected = torch.autograd.grad(found.loss, (pc, pr))
    margins = found.chosen_rewards - found.rejected_rewards
    torch.testing.assert_close(chosen, -0.4 * torch.sigmoid(-margins) / 7)
    torch.testing.assert_close(chosen, -rejected)


def test_only_the_difference_counts_unless_each_answer_is_judged_by_itself():
    """Both answers a thousand nats less likely: DPO does not see it (displacement); BCO does."""
    (pc, pr, rc, rr), lengths = draw(5)
    for variant in VARIANTS:
        options = settings_of(variant, [lengths[0]] * 2)
        held, sunk = (dpo_loss(pc - s, pr - s, rc, rr, **options).loss for s in (0, 1000))
        assert (abs(held.item() - sunk.item()) < 1e-9) == (variant != "bco_pair")


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_ipo_is_least_at_a_distance_of_one_over_two_beta(beta):
    distance = torch.linspace(-3, 12, 1501, dtype=torch.float64).requires_grad_()
    zero = torch.zeros_like(distance)
    loss = dpo_loss(distance, zero, zero, zero, beta, "ipo").loss
    (gradient,) = torch.autograd.grad(loss, distance)
    assert torch.equal(gradient.sign(), (distance.detach() - 1 / (2 * beta)).sign())
    best = torch.tensor([1 / (2 * beta)], dtype=torch.float64)
    assert dpo_loss(best, best - best, best - best, best - best, beta, "ipo").loss == 0


def test_a_pair_that_is_one_apart_rests_in_hinge_and_in_no_other():
    near, far = torch.tensor([9.0], requires_grad=True), torch.tensor([11.0], requires_grad=True)
    zero = torch.zeros(1)
    for variant in ("hinge", "sigmoid"):
        slopes = [
            torch.autograd.grad(dpo_loss(x, zero, zero, zero, 0.1, variant).loss, x)[0]
            for x in (near, far)
        ]
        assert slopes[0] < 0 and (slopes[1] == 0) == (variant == "hinge")


@given(seed=st.integers(0, 99), eps=st.sampled_from([0.05, 0.2, 0.45]))
def test_robust_over_flipped_labels_is_clean_dpo(seed, eps):
    (pc, pr, rc, rr), _ = draw(5, seed)
    right = dpo_loss(pc, pr, rc, rr, 0.3, "robust", eps).loss
    wrong = dpo_loss(pr, pc, rr, rc, 0.3, "robust", eps).loss
    torch.testing.assert_close((1 - eps) * right + eps * wrong, dpo_loss(pc, pr, rc, rr, 0.3).loss)


def test_cdpo_stops_at_the_margin_that_robust_passes():
    eps, zero = 0.1, torch.zeros(1, dtype=torch.float64)
    best = math.log((1 - eps) / eps)
    for margin in (best - 1, best, best + 1, 50):
        x = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
        cautious, robust = (
            torch.autograd.grad(dpo_loss(x, zero, zero, zero, 1, kind, eps).loss, x)[0].item()
            for kind in ("sigmoid", "robust")
        )
        assert robust <= -eps / (1 - 2 * eps) + 1e-12
        assert cautious == pytest.approx(0) if margin == best else cautious * (margin - best) > 0
    assert dpo_loss(zero + 100, zero, zero, zero, 1, "robust", eps).loss < -10  # no lower bound


def test_a_short_answer_that_lost_as_much_a_token_counts_as_much_when_normalised():
    policy, zero = torch.tensor([-2.0, -20.0]), torch.zeros(2)
    lengths = torch.tensor([2, 20])
    ones = torch.tensor([1, 1])
    options = {"chosen_lengths": lengths, "rejected_lengths": ones}
    found = dpo_loss(policy, zero, zero, zero, 0.5, "sigmoid_norm", **options)
    assert found.chosen_rewards.tolist() == [-0.5, -0.5]
    plain = dpo_loss(policy, zero, zero, zero, 0.5, "sigmoid", **options)  # does not look at them
    assert plain.chosen_rewards.tolist() == [-1, -10]


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_by_finite_differences(variant):
    four, lengths = draw(4, 1)
    options = settings_of(variant, lengths)
    references = [x.detach() for x in four[2:]]
    assert gradcheck(lambda *x: dpo_loss(*x, *references, 0.7, **options).loss, four[:2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_policy_gets_a_gradient_and_rewards_carry_none(variant):
    four, lengths = draw(3)
    found = dpo_loss(*four, **settings_of(variant, lengths))
    found.loss.backward()
    assert [x.grad is not None for x in four] == [True, True, False, False]
    assert not found.chosen_rewards.requires_grad and not found.rejected_rewards.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_is_computed_in_float32(variant, dtype):
    four, lengths = draw(300, dtype=dtype)
    options = settings_of(variant, lengths)
    found = dpo_loss(*four, **options)
    assert {x.dtype for x in found} == {torch.float32}
    wanted = dpo_loss(*(x.double() for x in four), **options)
    torch.testing.assert_close(found.loss.double(), wanted.loss, rtol=1e-5, atol=0)
    found.loss.backward()
    assert four[0].grad.dtype == dtype and four[0].grad.isfinite().all()


def test_hopeless_and_settled_pairs_neither_overflow_nor_stall():
    policy = torch.tensor([-1e5, 1e5], requires_grad=True)
    loss = dpo_loss(policy, torch.zeros(2), torch.zeros(2), torch.zeros(2), 1.0).loss
    loss.backward()
    assert loss.item() == pytest.approx(5e4) and policy.grad.tolist() == [-0.5, 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pair_at_all_is_zero_with_zero_gradients(variant):
    four = [torch.zeros(0, requires_grad=True) for _ in range(4)]
    none = torch.zeros(0, dtype=torch.long)
    loss = dpo_loss(*four, **settings_of(variant, (none, none))).loss
    loss.backward()
    assert loss.item() == 0 and four[0].grad.shape == (0,)


def test_an_answer_without_tokens_does_not_divide_by_zero():
    zero, lengths = torch.zeros(1), torch.tensor([0])
    options = {"chosen_lengths": lengths, "rejected_lengths": lengths}
    found = dpo_loss(zero, zero, zero, zero, 0.1, "sigmoid_norm", **options)
    assert found.loss.item() == pytest.approx(LN2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_not_a_number_is_not_hidden(variant):
    four, lengths = draw(3)
    bad = four[0].detach().clone()
    bad[1] = float("nan")
    assert dpo_loss(bad, *four[1:], **settings_of(variant, lengths)).loss.isnan()


@pytest.mark.parametrize("beta", [0, 0.0, -0.1, float("nan"), float("inf")])
def test_beta_is_above_zero(beta):
    four, _ = draw(2)
    with pytest.raises(ValueError, match="beta is a number above zero"):
        dpo_loss(*four, beta)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "sigmiod"}, "sigmoid, ipo"),
        ({"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"label_smoothing": -0.1}, r"\[0, 0.5\)"),
        ({"label_smoothing": 0.1, "variant": "ipo"}, "'ipo' has no label_smoothing"),
        ({"variant": "sigmoid_norm"}, "needs chosen_lengths"),
        ({"variant": "ipo", "chosen_lengths": torch.ones(2)}, "together"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    four, _ = draw(2)
    with pytest.raises(ValueError, match=said):
        dpo_loss(*four, **options)


def test_other_numbers_of_chosen_and_rejected_are_refused():
    three, one = torch.zeros(3), torch.zeros(1)
    with pytest.raises(Exception, match="policy_rejected"):
        dpo_loss(three, one, three, one)  # would broadcast without a word
