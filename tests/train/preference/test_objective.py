"""The objective's numbers: against slow forwards, packed against not, and three references."""

import copy
import math

import pytest
import torch

from labs.errors import InputError
from labs.train.preference.objective import PreferenceObjective, evaluating
from labs.train.preference.pairs import PreferencePairs
from labs.train.preference.stored import compute_reference
from tests.train.preference.preference_runs import (
    batch_of,
    fresh,
    objective,
    pair,
    slow_logprob,
    some_pairs,
    swapped,
)


def loss_and_gradients(made, batch, items=None):
    made.zero_grad()
    loss = made(batch, items or made.count(batch))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}  # fmt: skip


def assert_same(one, other, atol=2e-5):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys() and one[1]
    largest = max(float(g.abs().max()) for g in one[1].values())
    assert largest > 1e-4, "no gradient, nothing is shown"
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], atol=atol * max(1, largest), rtol=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    "method, what",
    [
        *((m, "lora") for m in ("dpo", "ipo", "simpo", "mdpo", "mpo", "kto")),
        ("dpo", "full"),
        ("mdpo", "full"),
    ],
)
def test_packed_and_row_by_row_are_the_same(processor, method, what):
    batch = batch_of(processor, some_pairs(3), method)
    made = objective(method, what, shared_prefix=True)
    alone = objective(method, what, shared_prefix=False)
    assert made.policy.packs and not alone.policy.packs
    assert_same(loss_and_gradients(made, batch), loss_and_gradients(alone, batch))
    if what == "full":
        assert any("vision" in n for n in loss_and_gradients(made, batch)[1])


def test_answers_are_slow_forwards_of_one_row(processor):
    pairs = some_pairs()
    made = objective("mdpo")
    batch = batch_of(processor, pairs, "mdpo")
    data = PreferencePairs(pairs, processor, corrupted=True)
    with torch.no_grad():
        found = made.answers(batch)
        for i in range(5):
            wanted = [
                slow_logprob(made.model, data[i], "chosen"),
                slow_logprob(made.model, data[i], "rejected"),
                slow_logprob(made.model, data[i], "chosen", "corrupted"),
            ]
            for k, (value, tokens) in enumerate(wanted):
                row = 5 * k + i
                torch.testing.assert_close(found.logprobs[row], value, atol=1e-4, rtol=1e-5)
                assert int(found.lengths[row]) == tokens


@pytest.mark.parametrize("what", ["lora", "full"])
def test_it_starts_at_log_2_and_without_a_margin(processor, what):
    made = objective("dpo", what, shaken=False)
    loss, gradients = loss_and_gradients(made, batch_of(processor, some_pairs()))
    assert float(loss) == pytest.approx(math.log(2), abs=1e-6)
    assert float(made.parts["rewards/margins"]) == pytest.approx(0, abs=1e-5)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-4


@pytest.mark.parametrize("what", ["lora", "full"])
@pytest.mark.parametrize("method", ["dpo", "mdpo"])
def test_adapter_off_a_second_model_and_stored_are_one_reference(processor, method, what):
    pairs, before = some_pairs(4), fresh()
    known = compute_reference(before, processor, pairs, corrupted=method == "mdpo", batch_size=3)
    plain = batch_of(processor, pairs, method)
    live = loss_and_gradients(objective(method, what), plain)
    second = objective(method, what, reference="model", reference_model=before)
    assert not any(p is q for p in second.parameters() for q in before.parameters())
    stored = objective(method, what, reference="stored")
    assert_same(live, loss_and_gradients(second, plain))
    assert_same(live, loss_and_gradients(stored, batch_of(processor, pairs, method, known)))
    assert float(live[0]) != pytest.approx(math.log(2), abs=1e-3), "the policy has moved"
    assert all(p.grad is None for p in before.parameters())


def test_swapping_the_answers_flips_the_margin(processor):
    pairs = some_pairs()
    parts = []
    for given in (pairs, [swapped(p) for p in pairs]):
        made = objective()
        made(batch_of(processor, given), 5)
        parts.append({n: float(v) for n, v in made.parts.items()})
    one, other = parts
    assert one["rewards/margins"] == pytest.approx(-other["rewards/margins"], abs=1e-5)
    assert one["logps/chosen"] == pytest.approx(other["logps/rejected"], abs=1e-4)
    assert one["rewards/accuracies"] + other["rewards/accuracies"] == pytest.approx(1)
    assert abs(one["rewards/margins"]) > 1e-3


@pytest.mark.parametrize("method", ["dpo", "ipo", "simpo", "orpo", "mdpo", "mpo"])
def test_micro_batches_add_up(processor, method):
    pairs = some_pairs()
    made = objective(method)
    whole = loss_and_gradients(made, batch_of(processor, pairs, method), 5)
    parts = {n: float(v) for n, v in made.parts.items()}
    made.parts.clear()
    first = loss_and_gradients(made, batch_of(processor, pairs[:2], method), 5)
    second = loss_and_gradients(made, batch_of(processor, pairs[2:], method), 5)
    summed = first[0] + second[0], {n: first[1][n] + second[1][n] for n in first[1]}
    assert_same(whole, summed)
    assert parts == pytest.approx({n: float(v) for n, v in made.parts.items()}, abs=1e-4)


def test_logprobs_without_image_and_prompt_are_other_ones(processor):
    """The mistake of chapter 6: log p(answer) is fluency, and the picture does not enter."""
    pairs = [pair(i) for i in range(4)]
    data = PreferencePairs(pairs, processor)
    made = objective()
    batch = batch_of(processor, pairs)
    with torch.no_grad():
        right = made.answers(batch).logprobs
        wrong = torch.stack([
            slow_logprob(made.model, data[i], side, answer_only=True)[0]
            for side in ("chosen", "rejected") for i in range(4)
        ])  # fmt: skip
        other = dict(batch)
        other["images/pixel_values"] = batch["images/pixel_values"].roll(1, 0)
        moved = made.answers(other).logprobs
    assert not torch.allclose(right, wrong, atol=0.1)
    assert (right - moved).abs().max() > 1e-3, "another picture, another number"
    # Two pairs with the same answers to different pictures: told apart only by looking.
    texts = [(p.chosen, p.rejected) for p in pairs]
    i, j = next((i, j) for i in range(4) for j in range(i) if texts[i] == texts[j])
    assert torch.equal(wrong[i], wrong[j]) and not torch.equal(right[i], right[j])


def test_the_reference_sees_no_dropout_and_leaves_every_mode_as_it_was(processor):
    made = objective()
    made.train()
    frozen = made.model.get_submodule("model.vision_tower")
    frozen.eval()
    batch = batch_of(processor, some_pairs(2))
    before = {n: m.training for n, m in made.named_modules()}
    with evaluating(made.model):
        assert not any(m.training for m in made.model.modules())
    made.reference_answers(batch)
    assert {n: m.training for n, m in made.named_modules()} == before
    assert not frozen.training and made.model.training


def test_in_evaluation_numbers_are_summed_a_pair(processor):
    made = objective().eval()
    batch = batch_of(processor, some_pairs(3))
    with torch.no_grad():
        total = made(batch, 1)
    assert made.eval_pairs == 3 and not made.parts
    made.train()
    with torch.no_grad():
        mean = made(batch, 3)
    torch.testing.assert_close(total / 3, mean)
    for name, value in made.parts.items():
        torch.testing.assert_close(made.eval_parts[name] / 3, value, msg=name)


def test_a_tower_that_trains_gets_its_gradient_through_both(processor):
    made = objective("dpo", "full", shaken=True)
    batch = batch_of(processor, some_pairs(3))
    reached = {n for n, g in loss_and_gradients(made, batch)[1].items() if g.abs().max() > 0}
    assert any("vision" in n for n in reached) and any("projector" in n for n in reached)


def test_a_picture_is_encoded_once_for_policy_and_reference(processor, monkeypatch):
    made = objective()
    seen = []
    plain = made.model.get_image_features
    monkeypatch.setattr(made.model, "get_image_features", lambda **k: seen.append(len(k["pixel_values"])) or plain(**k))  # fmt: skip
    made(batch_of(processor, some_pairs(3)), 3)
    assert seen == [3]
    seen.clear()
    alone = objective(shared_prefix=False)
    plain_alone = alone.model.get_image_features
    monkeypatch.setattr(alone.model, "get_image_features", lambda **k: seen.append(len(k["pixel_values"])) or plain_alone(**k))  # fmt: skip
    alone(batch_of(processor, some_pairs(3)), 3)
    assert seen == [6, 6]


def test_references_that_do_not_fit_are_refused(processor):
    batch = batch_of(processor, some_pairs(2))
    model = fresh()
    config = objective().config
    with pytest.raises(InputError, match="no Reference"):
        PreferenceObjective(model, config)(batch, 2)
    with pytest.raises(InputError, match="without log-probabilities"):
        objective(reference="stored")(batch, 2)
    with pytest.raises(InputError, match="none was given"):
        objective(reference="model")
    other = copy.deepcopy(model)
    other.resize_token_embeddings(model.get_output_embeddings().weight.shape[0] + 8)
    with pytest.raises(InputError, match="another vocabulary"):
        objective(reference="model", reference_model=other)


def test_the_reference_runs_in_eval_mode(processor):
    made = objective().train()
    modes = []
    language = made.model.model.language_model
    language.register_forward_hook(lambda module, *_: modes.append(module.training))
    made(batch_of(processor, some_pairs(2)), 2)
    assert modes == [False, True], "the reference, then the policy"


def test_a_connector_that_trained_and_stopped_is_not_the_references(processor):
    """Frozen again by a schedule it makes features without a gradient, but other ones."""
    batch = batch_of(processor, some_pairs(3))
    made = objective(shaken=False)
    names = {n for n, _ in made.model.named_parameters() if "lora" in n or "projector" in n}
    made.keep_reference(names)
    with torch.no_grad():
        before = made.answers(batch).logprobs
        for name, p in made.model.named_parameters():
            if "projector" in name:
                p += 0.05
        after = made.answers(batch, made._features(batch)).logprobs
        found = made.reference_answers(batch, made._features(batch))
    assert made._features(batch) is not None
    torch.testing.assert_close(found, before, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)
