"""The update: the same sum however it is cut up, and the losses on the right numbers."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.train.policy.score import Scored
from labs.train.policy.sequences import Sequences
from labs.train.policy.update import Experience, Sums, micro_batches, minibatches
from tests.train.policy.policy_runs import made_rollout, prompts, settings, shake, trainer

LENGTHS = [1, 5, 3, 2, 7, 4, 1, 6, 2, 8]


def experience_of(run, lengths=LENGTHS, seed=0):
    """Made-up answers and rewards; the policy has moved on since, and the reference is behind."""
    asked, size = prompts(5), run.policy.num_generations
    rollout = made_rollout(run.processor, asked, lengths, size)
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(5 * size, generator=generator).tolist()
    shake(run.model, 0.02)
    experience, _ = run._experience(asked, rollout, Scored(rewards, rewards, {}))
    noise = torch.randn(experience.rows.mask.shape, generator=generator)
    experience.rollout = experience.rollout + 0.1 * noise
    if experience.old is not None:
        experience.rollout = experience.old + 0.1 * noise
        shake(run.model, 0.02, seed=1)
        if run.forward.value_head is not None:
            shake(run.forward.value_head, 0.02)
    return experience


def gradients(run, experience, size, chosen=None):
    run.config.per_device_train_batch_size = size
    run.optimizer.zero_grad()
    sums = Sums()
    chosen = torch.arange(len(experience.rows)) if chosen is None else chosen
    kl = run._minibatch(experience, chosen, sums)
    sums.totals.pop("value_clip_fraction", None)  # of values that lie on the edge, by rounding
    found = {n: p.grad.clone() for n, p in run.forward.named_parameters() if p.grad is not None}
    return found, sums.means(), float(kl)


@pytest.mark.parametrize("aggregate", ["token", "sequence", "constant"])
@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "ppo", "kl_in": "reward", "num_epochs": 2},
        {"algorithm": "grpo", "kl_in": "loss"},
        {"algorithm": "grpo", "num_epochs": 2, "ratio_level": "sequence", "importance_cap": 1.05},
        {"algorithm": "rloo", "kl_in": "reward", "shared_prefix": False},
    ],
    ids=["ppo", "grpo", "gspo", "rloo"],
)
def test_micro_batches_add_up_to_the_whole(changes, aggregate):
    run = trainer(settings(aggregate=aggregate, clip=0.05, **changes))
    experience = experience_of(run)
    whole, means, kl = gradients(run, experience, 64)
    assert len(whole) > 10 and means["approx_kl"] == pytest.approx(kl, rel=1e-4, abs=1e-7)
    if changes["algorithm"] == "ppo":
        assert whole["value_head.weight"].abs().max() > 0
    for size in (1, 5):
        parts, watched, part_kl = gradients(run, experience, size)
        assert parts.keys() == whole.keys()
        largest = max(float(g.abs().max()) for g in whole.values())
        for name, gradient in parts.items():
            torch.testing.assert_close(gradient, whole[name], atol=2e-5 * largest, rtol=1e-3)
        assert watched == pytest.approx(means, rel=1e-3, abs=1e-6)
        assert part_kl == pytest.approx(kl, rel=1e-3, abs=1e-7)


def test_the_gradient_of_grpo_is_the_formulas():
    """Ratios, clip, means of means and k3, written out for one answer after another."""
    policy = settings(num_epochs=2, aggregate="sequence", clip=0.05, clip_high=0.1)
    run = trainer(policy)
    experience = experience_of(run)
    found, means, _ = gradients(run, experience, 4)
    rows, total = experience.rows, 0.0
    run.optimizer.zero_grad()
    clipped = 0
    for r in range(len(rows)):
        one = rows.select(torch.tensor([r]))
        pictures = experience.pictures.of(one, run.forward.packs)
        logprobs = run.forward(one, **pictures).logprobs[0]
        row = 0.0
        for t in range(int(rows.mask[r].sum())):
            a = float(experience.targets.advantages[r])
            ratio = (logprobs[t] - experience.old[r, t]).exp()
            moved = ratio.item()
            clipped += moved < 0.95 if a < 0 else moved > 1.1
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.95, 1.1) * a)
            d = logprobs[t] - experience.reference[r, t]
            row = row - surrogate + 0.1 * ((-d).exp() - 1 + d)
        total = total + row / rows.mask[r].sum() / len(rows)
    total.backward()
    assert means["loss"] == pytest.approx(total.item(), rel=1e-4)
    assert means["clip_fraction"] == pytest.approx(clipped / int(rows.mask.sum())) and clipped > 3
    wanted = {n: p.grad for n, p in run.forward.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * largest, rtol=1e-3)


def test_one_update_takes_its_own_logprobs_for_the_old():
    """As it would with them given: nothing has moved before the first update."""
    run = trainer(settings(kl_coef=0.0))
    experience = experience_of(run)
    assert experience.old is None and experience.reference is None
    alone, means, kl = gradients(run, experience, 64)
    assert kl == 0 and means["clip_fraction"] == 0
    experience.old, _ = run._pass(experience.rows, experience.pictures)
    given_, _, _ = gradients(run, experience, 64)
    for name in alone:
        torch.testing.assert_close(alone[name], given_[name], atol=1e-5, rtol=1e-3)


def test_importance_is_capped():
    """min(p_trainer / p_rollout, cap) times the advantage, token by token; infinity leaves all in."""
    changes = {"kl_coef": 0.0, "aggregate": "token", "num_epochs": 2}
    run = trainer(settings(importance_cap=1.02, **changes))
    experience = experience_of(run)
    found, _, _ = gradients(run, experience, 64)
    ratio = (experience.old - experience.rollout).exp()
    over = (ratio > 1.02) & experience.rows.mask
    assert 0 < int(over.sum()) < int(experience.rows.mask.sum()), "some above, some below"
    weights = torch.where(ratio > 1.02, 1.02, ratio)
    plain = trainer(settings(**changes))
    experience.targets.advantages = experience.targets.advantages[:, None] * weights
    plain.model.load_state_dict(run.model.state_dict())
    wanted, _, _ = gradients(plain, experience, 64)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-6, rtol=1e-4)
    run.policy.importance_cap = None
    without, _, _ = gradients(run, experience, 64)
    run.policy.importance_cap = 1e9
    loose, _, _ = gradients(run, experience, 64)
    assert any(not torch.allclose(loose[n], without[n], atol=1e-6) for n in loose)


def plain_rows(sizes, lengths):
    """Rows of which only prompt and length matter."""
    prompt = torch.tensor([p for p, n in enumerate(sizes) for _ in range(n)])
    n = len(prompt)
    lengths = torch.tensor([lengths[p % len(lengths)] for p in prompt.tolist()])
    mask = torch.ones(n, 1, dtype=torch.bool)
    zeros = torch.zeros(n, 1, dtype=torch.long)
    return Sequences(zeros, lengths, lengths - 1, zeros, mask, prompt)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.lists(st.integers(2, 50), min_size=1, max_size=8),
    st.integers(1, 20),
)
def test_micro_batches_take_every_row_once(sizes, lengths, size):
    rows = plain_rows(sizes, lengths)
    chosen = torch.arange(len(rows)).flip(0)[: max(1, len(rows) - 1)]
    pieces = micro_batches(rows, chosen, size)
    assert sorted(torch.cat(pieces).tolist()) == sorted(chosen.tolist())
    assert all(1 <= len(piece) <= size for piece in pieces)
    if size >= max(sizes):  # a prompt that fits is not torn
        homes = [{int(rows.prompt[i]) for i in piece} for piece in pieces]
        assert sum(map(len, homes)) == len({int(rows.prompt[i]) for i in chosen})


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(1, 3),
    st.integers(0, 5),
    st.integers(0, 2),
)
def test_an_epoch_takes_every_row_once(sizes, size, epochs, seed, more):
    rows = plain_rows(sizes, [5])
    config = settings(minibatch_size=size, num_epochs=epochs)
    count = -(-len(rows) // min(size or len(rows), len(rows))) + more
    experience = Experience(rows, None, None, None, pieces=count)
    found = list(minibatches(experience, config, seed))
    again = list(minibatches(experience, config, seed))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
    assert len(found) == epochs * count
    for epoch in range(epochs):
        mine = [chosen for e, chosen in found if e == epoch]
        order = torch.cat(mine)
        assert sorted(order.tolist()) == list(range(len(rows)))
        assert all(len(c) == 0 for c in mine[count - more :]) or not more
        homes = rows.prompt[order].tolist()
        assert sum(a != b for a, b in itertools.pairwise(homes)) == len(sizes) - 1


def test_epochs_have_orders_of_their_own():
    rows = plain_rows([2] * 12, [5])
    config = settings(minibatch_size=6, num_epochs=3)
    orders = {
        (seed, epoch): tuple(
            i for e, c in minibatches(Experience(rows, None, None, None, pieces=4), config, seed)
            if e == epoch for i in c.tolist()
        )
        for seed in (0, 1) for epoch in range(3)
    }  # fmt: skip
    assert len(set(orders.values())) == 6
