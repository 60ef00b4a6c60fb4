"""The objective's losses against TRL's own code, and ours, on log-probabilities of plain forwards."""

import pytest
import torch

from labs.losses.kto import kto_kl, kto_loss
from labs.losses.mdpo import mdpo_loss
from labs.losses.mixed import mpo_loss
from labs.losses.preference import dpo_loss
from labs.losses.reference_free import orpo_loss, simpo_loss
from labs.train.preference.pairs import PreferencePairs
from tests.train.preference.preference_runs import (
    batch_of,
    fresh,
    objective,
    slow_logprob,
    some_pairs,
)

VARIANTS = {
    "dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "robust": "robust", "bco_pair": "bco_pair",
    "sigmoid_norm": "sigmoid_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def slow(processor):
    """Per pair, of the shaken policy and of the model before: rows chosen, rejected, corrupted."""
    pairs = some_pairs()
    data = PreferencePairs(pairs, processor, corrupted=True)
    policy, before = objective().model, fresh()
    rows = [("chosen", "pixels"), ("rejected", "pixels"), ("chosen", "corrupted")]
    with torch.no_grad():
        found = {
            name: torch.stack([
                torch.stack([slow_logprob(m, data[i], *row)[0] for i in range(5)]) for row in rows
            ])
            for name, m in (("policy", policy), ("reference", before))
        }  # fmt: skip
        found["lengths"] = torch.tensor([[len(data[i][s]) for i in range(5)] for s in ("chosen", "rejected")])  # fmt: skip
        found["others"] = {
            name: torch.stack([
                slow_logprob(m, data[i] | {side: data[(i - 1) % 5][side]}, side)[0]
                for side in ("chosen", "rejected") for i in range(5)
            ])
            for name, m in (("policy", policy), ("reference", before))
        }  # fmt: skip
    return pairs, found


@pytest.mark.parametrize("method", VARIANTS)
def test_the_loss_is_trls_on_a_plain_models_logprobs(processor, slow, method):
    trl = pytest.importorskip("tests.losses.trl_preference")
    pairs, found = slow
    policy, reference, lengths = found["policy"], found["reference"], found["lengths"]
    # One "token" an answer carries its sum; TRL divides by the number of tokens of its mask.
    rows = lengths.flatten()
    mask = (torch.arange(int(rows.max())) < rows[:, None]).long()
    logprobs = mask * (policy[:2].flatten() / rows)[:, None]
    eps = 0.1 if method == "robust" else 0.0
    made = objective(method, label_smoothing=eps)
    wanted, logged = trl.dpo(
        logprobs,
        mask,
        reference[0],
        reference[1],
        made.config.used_beta,
        [VARIANTS[method]],
        eps=eps,
    )
    with torch.no_grad():
        loss = made(batch_of(processor, pairs), 5)
    torch.testing.assert_close(loss, wanted, atol=2e-5, rtol=1e-5)
    if method in ("dpo", "hinge", "robust", "bco_pair"):
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):  # fmt: skip
            assert float(made.parts[name]) == pytest.approx(logged[name], abs=5e-4), name


def test_the_other_losses_get_the_right_logprobs(processor, slow):
    pairs, found = slow
    policy, reference, lengths = found["policy"], found["reference"], found["lengths"]
    averages = policy[:2] / lengths
    others = kto_kl(found["others"]["policy"], found["others"]["reference"])
    good = torch.arange(10) < 5
    wanted = {
        "cdpo": dpo_loss(*policy[:2], *reference[:2], label_smoothing=0.1).loss,
        "simpo": simpo_loss(*averages).loss,
        "orpo": orpo_loss(*averages).loss,
        "mdpo": mdpo_loss(*policy, *reference, anchor=0.3).loss,
        "mpo": mpo_loss(*policy[:2], *reference[:2], -averages[0].mean()).loss,
        "kto": kto_loss(policy[:2].flatten(), reference[:2].flatten(), good, others).loss,
    }
    changes = {"mdpo": {"gamma": 0.3}, "cdpo": {"label_smoothing": 0.1}}
    for method, value in wanted.items():
        made = objective(method, **changes.get(method, {}))
        with torch.no_grad():
            loss = made(batch_of(processor, pairs, method), 5)
        torch.testing.assert_close(loss, value, atol=2e-5, rtol=1e-5, msg=method)
