"""Advantages and returns against loops over tokens: where KL, reward and whitening end up."""

import math

import pytest
import torch

from labs.train.policy.config import PolicyConfig
from labs.train.policy.targets import make_targets
from tests.train.policy.policy_runs import made_rollout, prompts, rows_of

LENGTHS = [1, 5, 3, 2, 4, 1]
COEF = 0.3


@pytest.fixture(scope="module")
def made(processor):
    """Rows, and what was measured on them; nonsense under the padding."""
    rows = rows_of(processor, made_rollout(processor, prompts(4, images=0), LENGTHS, 3))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    shape = rows.mask.shape
    return {
        "rewards": draw(len(rows)), "rows": rows, "logprobs": -draw(*shape).abs(),
        "reference": -draw(*shape).abs(), "values": draw(*shape),
    }  # fmt: skip


def targets(made, without=(), **config):
    given = {k: None if k in without else v for k, v in made.items()}
    return make_targets(PolicyConfig(**config), **given, coef=COEF)


def kl_of(made, kind):
    """[rows] lists of each real token's estimate."""
    found = []
    for r, row in enumerate(made["rows"].mask):
        d = [float(made["logprobs"][r, t] - made["reference"][r, t]) for t in range(int(row.sum()))]
        term = {"k1": lambda x: x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(-x) - 1 + x}
        found.append([term[kind](x) for x in d])
    return found


def real(made, tensor):
    """[rows] lists without the padding."""
    return [tensor[r][m].tolist() for r, m in enumerate(made["rows"].mask)]


def whitened(rows, shift):
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1) + 1e-8)
    return [[(x - mean) / std + (0 if shift else mean) for x in row] for row in rows]


def gae_of(rewards, values, gamma, lam):
    advantages = []
    for row, v in zip(rewards, values, strict=True):
        found = []
        for t in range(len(row)):  # the sum itself, not the recursion
            delta = [
                row[k] + gamma * (v[k + 1] if k + 1 < len(row) else 0) - v[k]
                for k in range(len(row))
            ]
            found.append(sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(row))))
        advantages.append(found)
    return advantages


def close(found, wanted):
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("whiten_advantages", [False, True])
@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("kl_in, kind", [("reward", "k1"), ("reward", "k3"), ("loss", "k2")])
def test_ppo(made, kl_in, kind, whiten_rewards, whiten_advantages):
    found = targets(
        made, algorithm="ppo", gamma=0.9, lam=0.8, kl_in=kl_in, kl_kind=kind,
        whiten_rewards=whiten_rewards, whiten_advantages=whiten_advantages,
    )  # fmt: skip
    kl = kl_of(made, kind)
    tokens = [[-COEF * x if kl_in == "reward" else 0.0 for x in row] for row in kl]
    for row, reward in zip(tokens, made["rewards"].tolist(), strict=True):
        row[-1] += reward  # on the last token, beside its own KL
    total = [sum(row) for row in tokens]
    if whiten_rewards:
        tokens = whitened(tokens, shift=False)
    values = real(made, made["values"])
    advantages = gae_of(tokens, values, 0.9, 0.8)
    returns = [
        [a + v for a, v in zip(*row, strict=True)] for row in zip(advantages, values, strict=True)
    ]
    if whiten_advantages:
        advantages = whitened(advantages, shift=True)
    close(real(made, found.advantages), advantages)
    close(real(made, found.returns), returns)
    close(real(made, found.kl), kl)
    assert found.total.tolist() == pytest.approx(total, rel=1e-4)
    padding = ~made["rows"].mask
    assert (found.advantages[padding] == 0).all() and (found.kl[padding] == 0).all()


@pytest.mark.parametrize(
    "algorithm, scale", [("grpo", "group"), ("grpo", "none"), ("rloo", "none")]
)
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_answers_against_their_group(made, algorithm, scale, kl_in):
    found = targets(made, algorithm=algorithm, num_generations=3, scale_rewards=scale, kl_in=kl_in)
    total = made["rewards"].tolist()
    if kl_in == "reward":
        total = [r - COEF * sum(kl) for r, kl in zip(total, kl_of(made, "k1"), strict=True)]
    wanted = []
    for i, mine in enumerate(total):
        group = total[i // 3 * 3 : i // 3 * 3 + 3]
        mean = sum(group) / 3
        if algorithm == "rloo":
            others = sum(group) - mine
            wanted.append(mine - others / 2)
        else:
            std = math.sqrt(sum((x - mean) ** 2 for x in group) / 2)
            wanted.append((mean and mine - mean) / (std + 1e-4 if scale == "group" else 1))
    assert found.advantages.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert found.total.tolist() == pytest.approx(total, rel=1e-5)
    assert found.returns is None


def test_without_a_reference_nothing_is_subtracted(made):
    for algorithm in ("ppo", "grpo", "rloo"):
        found = targets(made, ["reference"], algorithm=algorithm, num_generations=3)
        assert found.kl is None and torch.equal(found.total, made["rewards"])
    free = targets(made, ["reference"], algorithm="ppo", whiten_advantages=False)
    held = targets(made, algorithm="ppo", whiten_advantages=False)
    assert not torch.allclose(free.advantages, held.advantages)


def test_one_update_with_the_kl_in_the_loss_needs_no_second_forward(made):
    """GRPO's usual step: the policy's own log-probabilities are not there, and not missed."""
    found = targets(made, ["logprobs", "values"], algorithm="grpo", num_generations=3, kl_in="loss")
    assert found.kl is None and torch.equal(found.total, made["rewards"])
