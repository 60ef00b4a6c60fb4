"""Packing: packed equals separate, in logits, loss and gradients, and wastes little."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.data import (
    IGNORE,
    Collator,
    ConversationDataset,
    PackedCollator,
    PackedDataset,
    encode,
    first_fit_decreasing,
    pack,
    packing_efficiency,
    padding_efficiency,
)
from labs.errors import InputError
from tests.data.conftest import get_processor, talk


@pytest.fixture(scope="module")
def samples(tiny):
    _, processor = tiny
    conversations = [
        talk("Is there a ring?", "yes", "And two?", "no, one", images=1),
        talk("hello", "a longer answer without any picture"),
        talk("Two pictures.", "compared", images=2),
        talk("q", "a"),
        talk("Count.", "three", images=1),
    ]
    return [encode(conversation, processor) for conversation in conversations]


def naive_first_fit_decreasing(lengths, capacity):
    """The definition, in O(n x bins)."""
    bins, free = [], []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        b = next((b for b, room in enumerate(free) if room >= lengths[index]), len(bins))
        if b == len(bins):
            bins.append([])
            free.append(capacity)
        bins[b].append(index)
        free[b] -= lengths[index]
    return bins


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_first_fit_decreasing_equals_its_definition(lengths, capacity):
    bins = first_fit_decreasing(lengths, capacity)
    assert bins == naive_first_fit_decreasing(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= capacity for b in bins)


def test_item_longer_than_a_row():
    with pytest.raises(InputError, match="Sample 1 has 11 tokens and does not fit a row of 10"):
        first_fit_decreasing([3, 11], 10)


def with_attention(model, kind):
    model.set_attn_implementation(kind)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
def test_packed_equals_separate(tiny, samples, attention):
    """ "flash" on sdpa: Transformers reads the samples off position_ids and makes the mask itself."""
    model, processor = tiny
    rows = pack(samples, 160)
    assert 1 < len(rows) < len(samples)
    collator = PackedCollator(processor, attention)
    batch = collator(rows)
    model = with_attention(model, "eager" if attention == "eager" else "sdpa")
    try:
        with torch.no_grad():
            packed = model(**batch)
            total, counted, checked = 0.0, 0, 0
            for sample in samples:
                alone = Collator(processor)([sample])
                separate = model(**alone)
                tokens = int((alone["labels"][:, 1:] != IGNORE).sum())
                total, counted = total + float(separate.loss) * tokens, counted + tokens
                row, start = _find(batch["input_ids"], sample["input_ids"])
                length = len(sample["input_ids"])
                there = packed.logits[row, start : start + length]
                torch.testing.assert_close(there, separate.logits[0], atol=1e-5, rtol=1e-5)
                checked += 1
        assert checked == len(samples)
        assert float(packed.loss) == pytest.approx(total / counted, abs=1e-5)
    finally:
        with_attention(model, "sdpa")


def test_without_the_mask_samples_leak(tiny, samples):
    """The test above can fail: with plain causal attention the second sample sees the first."""
    model, processor = tiny
    row = pack(samples[:2], 400)
    batch = PackedCollator(processor)(row)
    with torch.no_grad():
        right = model(**batch).logits
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        wrong = model(**batch).logits
    first = row[0]["lengths"][0]
    torch.testing.assert_close(right[:, :first], wrong[:, :first], atol=1e-5, rtol=1e-5)
    assert (right[:, first:] - wrong[:, first:]).abs().max() > 1e-2


def test_flash_arguments(tiny, samples):
    _, processor = tiny
    rows = pack(samples, 160)
    batch = PackedCollator(processor, "flash")(rows)
    lengths = [n for row in rows for n in row["lengths"]]
    assert batch["input_ids"].shape == (1, sum(lengths))
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["cu_seq_lens_q"].tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths)
    starts = batch["cu_seq_lens_q"][:-1].long()
    assert (batch["position_ids"][0, starts] == 0).all()
    assert int((batch["position_ids"] == 0).sum()) == len(lengths)
    assert (batch["labels"][0, starts] == IGNORE).all()
    assert "attention_mask" not in batch


def test_gradients_equal(tiny, samples):
    model, processor = tiny

    def gradient(batch):
        model.zero_grad()
        model(**batch).loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return found

    packed = gradient(PackedCollator(processor)(pack(samples, 160)))
    padded = gradient(Collator(processor)(samples))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)


def test_padding_rows_are_finite(tiny, samples):
    """Rows of unequal length: a row of the mask that sees nothing would be NaN."""
    model, processor = tiny
    rows = [*pack(samples[2:3], 400), *pack(samples[3:4], 400)]
    for attention in ("sdpa", "eager"):
        batch = PackedCollator(processor, attention, pad_to_multiple_of=64)(rows)
        assert batch["input_ids"].shape[1] % 64 == 0
        with_attention(model, attention)
        with torch.no_grad():
            assert torch.isfinite(model(**batch).logits).all()
    with_attention(model, "sdpa")


def test_efficiency_and_dataset():
    processor = get_processor("chatml")
    texts = [("q " * (1 + i % 7), "a ring " * (1 + i * i % 23)) for i in range(60)]
    dataset = ConversationDataset(
        [talk(*pair, id=str(i)) for i, pair in enumerate(texts)], processor
    )
    packed = PackedDataset(dataset, 256)
    assert packed.lengths == [len(dataset[i]["input_ids"]) for i in range(60)]
    ids = sorted(tuple(dataset[i]["input_ids"].tolist()) for i in range(60))
    out = []
    for i in range(len(packed)):
        row = packed[i]
        out += [tuple(part.tolist()) for part in row["input_ids"].split(row["lengths"])]
    assert sorted(out) == ids
    assert packed.efficiency > 0.9 > padding_efficiency(packed.lengths, 16)
    assert packing_efficiency([3, 3, 2], 2, 4) == 1.0
    assert padding_efficiency([4, 2], 2) == 0.75


def test_three_dimensional_positions_are_refused():
    processor = get_processor("qwen2_vl")
    sample = encode(talk("q", "a", images=1), processor)
    with pytest.raises(InputError, match="image_grid_thw cannot be packed"):
        pack([sample], 1000)


def _find(rows: torch.Tensor, wanted: torch.Tensor) -> tuple[int, int]:
    n = len(wanted)
    for r, row in enumerate(rows):
        for start in range(len(row) - n + 1):
            if torch.equal(row[start : start + n], wanted):
                return r, start
    raise AssertionError("the sample is not in the batch")
