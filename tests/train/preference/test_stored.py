"""Stored reference log-probabilities: what they are, and when they are refused."""

import dataclasses

import pytest
import torch

from labs.errors import InputError
from labs.models.lora import add_lora
from labs.train.preference.pairs import PreferencePairs
from labs.train.preference.stored import (
    compute_reference,
    fingerprint,
    load_reference,
    reference_logprobs,
    save_reference,
)
from tests.train.preference.preference_runs import fresh, pair, shake, slow_logprob, some_pairs


def test_they_are_the_models_own_whatever_the_batch(processor):
    pairs, model = some_pairs(), fresh()
    data = PreferencePairs(pairs, processor, corrupted=True)
    found = compute_reference(model, processor, data, batch_size=2)
    whole = compute_reference(model, processor, pairs, corrupted=True, batch_size=32)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-5)
    assert found.shape == (5, 3) and found.dtype == torch.float32
    with torch.no_grad():
        for i in range(5):
            for k, row in enumerate((("chosen", "pixels"), ("rejected", "pixels"), ("chosen", "corrupted"))):  # fmt: skip
                wanted = slow_logprob(model, data[i], *row)[0]
                torch.testing.assert_close(found[i, k], wanted, atol=1e-4, rtol=1e-5)


def test_a_skipped_pair_is_nan_and_keeps_its_row(processor):
    pairs = [pair(0), pair(1, chosen="no", rejected="no"), pair(2)]
    found = compute_reference(fresh(), processor, pairs)
    assert found.isnan().all(1).tolist() == [False, True, False]
    data = PreferencePairs(pairs, processor, stored=found)
    assert torch.equal(data[1]["reference"], found[2]), "of the pair that takes its place"
    assert torch.equal(data[0]["reference"], found[0])


def test_written_and_read_back_to_the_bit(processor, tmp_path):
    data, model = PreferencePairs(some_pairs(), processor), fresh()
    path = tmp_path / "reference.safetensors"
    first = reference_logprobs(path, model, processor, data)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    written = path.read_bytes()
    assert torch.equal(reference_logprobs(path, model, processor, data), first)
    assert path.read_bytes() == written
    # Read, not computed again: what is in the file is what comes back.
    save_reference(path, first + 1, fingerprint(model, processor, data.pairs))
    assert torch.equal(reference_logprobs(path, model, processor, data), first + 1)
    assert torch.equal(reference_logprobs(None, model, processor, data), first)


def test_another_model_tokenizer_pair_or_setting_is_refused(processor, tmp_path):
    import copy

    pairs, model, path = some_pairs(), fresh(), tmp_path / "reference.safetensors"
    marks = fingerprint(model, processor, pairs, 90)
    save_reference(path, torch.zeros(5, 2), marks)
    assert torch.equal(load_reference(path, marks), torch.zeros(5, 2))

    moved = fresh()
    shake(moved, 1e-3)
    other = copy.deepcopy(processor)
    other.tokenizer.add_tokens(["<new>"])
    template = copy.deepcopy(processor)
    template.chat_template = template.chat_template + " "
    text = [*pairs[:4], dataclasses.replace(pairs[4], rejected="another.")]
    picture = [*pairs[:4], dataclasses.replace(pairs[4], images=pairs[3].images)]
    for what, changed in {
        "model": fingerprint(moved, processor, pairs, 90),
        "tokenizer": fingerprint(model, other, pairs, 90),
        "tokenizer ": fingerprint(model, template, pairs, 90),
        "pairs": fingerprint(model, processor, text, 90),
        "pairs ": fingerprint(model, processor, picture, 90),
        "pairs  ": fingerprint(model, processor, pairs[::-1], 90),
        "settings": fingerprint(model, processor, pairs, 91),
    }.items():
        with pytest.raises(InputError, match=f"computed with other {what.strip()}\\."):
            load_reference(path, changed)


def test_corrupted_images_are_part_of_the_fingerprint():
    from labs.models import build_tiny_llava

    model, processor = build_tiny_llava(seed=0)
    pairs = some_pairs(2)
    marks = [fingerprint(model, processor, pairs, None, corrupted, seed) for corrupted, seed in ((False, 0), (False, 1), (True, 0), (True, 1))]  # fmt: skip
    assert marks[0] == marks[1], "nothing is drawn"
    assert len({tuple(m.items()) for m in marks}) == 3


def test_a_fresh_adapter_is_another_set_of_parameters(processor):
    plain, adapted = fresh(), fresh()
    add_lora(adapted, 4)
    one, other = (fingerprint(m, processor, some_pairs(1)) for m in (plain, adapted))
    assert one["model"] != other["model"] and one["pairs"] == other["pairs"]


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "reference.safetensors"
    with pytest.raises(InputError, match="no stored log-probabilities at"):
        load_reference(path, {})
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="holds no stored"):
        load_reference(path, {})
