"""The reference is the policy as it was, to the bit, and costs only what trains beside adapters."""

import pytest
import torch
from train_helpers import weights

from labs.models import build_tiny_llava
from labs.train.config import LoraSettings
from labs.train.policy.reference import Reference, parameter_bytes
from tests.train.policy.policy_runs import made_rollout, prompts, rows_of, settings, shake, trainer

PEFT = LoraSettings(implementation="peft", r=4)
METHODS = {
    "lora": {"method": "lora"},
    "peft": {"method": "lora", "lora": PEFT},
    "dora": {"method": "dora", "lora": PEFT},
    "bottleneck": {"method": "bottleneck"},
    "lora and connector": {"method": "lora", "trainable": {"connector": "all"}},
    "full": {"method": "full", "learning_rate": 1e-3},
}


def logits_of(model, rows, images):
    with torch.no_grad():
        return model(
            input_ids=rows.input_ids, attention_mask=rows.attention_mask, pixel_values=images
        ).logits


@pytest.fixture(scope="module")
def asked():
    """(rows, images): answers to questions about one picture each."""
    _, processor = build_tiny_llava(seed=0)
    rollout = made_rollout(processor, prompts(3, images=1), [4, 1, 6], 2)
    images = rollout.images["pixel_values"].repeat_interleave(2, 0)
    return rows_of(processor, rollout), images


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_model_before_training_to_the_bit(asked, method):
    model, processor = build_tiny_llava(seed=0)
    before = logits_of(model.eval(), *asked)
    run = trainer(start=(model, processor), **METHODS[method])
    run.train()
    trained = weights(model)
    with run.reference():
        assert torch.equal(logits_of(model, *asked), before)
    after = logits_of(model, *asked)
    assert not torch.allclose(after, before, atol=1e-4), "nothing was learnt, nothing is shown"
    assert all(torch.equal(p, trained[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_it_holds_what_trains_beside_adapters_and_nothing_else(method):
    run = trainer(**METHODS[method])
    own = dict(run.model.named_parameters())
    beside = [n for n in run.names if method == "full" or "multi_modal_projector" in n]
    wanted = sum(own[n].numel() * own[n].element_size() for n in beside)
    assert run.reference.bytes_held == wanted
    assert (wanted == 0) == (method not in ("full", "lora and connector"))
    if method == "full":
        assert set(run.reference.live) == {n for n, p in own.items() if p.requires_grad}


@pytest.mark.parametrize("method", ["lora", "peft", "full"])
def test_policy_and_reference_share_their_storages(method):
    run = trainer(**METHODS[method])
    model = run.model
    alone = parameter_bytes(model)
    assert alone == sum(p.numel() * p.element_size() for p in model.parameters())
    storages = {p.data_ptr() for p in model.parameters()}
    with run.reference():
        assert parameter_bytes(model) == alone
        moved = {p.data_ptr() for p in model.parameters()} - storages
        assert len(moved) == (len(run.reference.live) if method == "full" else 0)
    assert {p.data_ptr() for p in model.parameters()} == storages


def test_bytes_are_counted_by_storage():
    one, other = torch.nn.Linear(8, 4, bias=False), torch.nn.Linear(8, 4, bias=False)
    assert parameter_bytes(one, other) == 2 * 4 * 32
    other.weight = one.weight
    assert parameter_bytes(one, other) == 4 * 32


@pytest.mark.parametrize("method", ["lora", "peft", "full", "lora and connector", "bottleneck"])
def test_an_exception_inside_leaves_the_policy_as_it_was(asked, method):
    run = trainer(**METHODS[method])
    shake(run.model)
    before, kept = logits_of(run.model, *asked), weights(run.model)
    first = {n: t.clone() for n, t in run.reference.first.items()}
    with pytest.raises(RuntimeError, match="inside"), run.reference():
        assert not torch.equal(logits_of(run.model, *asked), before)
        raise RuntimeError("inside")
    assert torch.equal(logits_of(run.model, *asked), before)
    assert all(torch.equal(p, kept[n]) for n, p in run.model.named_parameters())
    assert all(torch.equal(t, first[n]) for n, t in run.reference.first.items())


def test_without_a_kl_there_is_no_reference():
    run = trainer(settings(kl_coef=0.0))
    assert run.reference is None
    entry = run.train().history[-1]
    assert "kl" not in entry and "kl_coef" not in entry and "kl_loss" not in entry


def test_training_goes_on_through_it():
    """Gradients reach the live values, not the ones that were put in for the reference."""
    model, _ = build_tiny_llava(seed=0)
    names = {n for n, p in model.named_parameters() if "language_model" in n}
    reference = Reference(model, names)
    ids = torch.tensor([[5, 6, 7, 8]])
    optimizer = torch.optim.SGD(list(model.parameters()), lr=0.1)
    first = model(input_ids=ids, labels=ids).loss.item()
    for _ in range(3):
        with reference(), torch.no_grad():
            assert model(input_ids=ids, labels=ids).loss.item() == first
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert model(input_ids=ids, labels=ids).loss.item() < first - 0.1
