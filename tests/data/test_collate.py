"""Batches, with a real model: padding, masked labels and images change nothing they should not."""

import pytest
import torch
from torch.utils.data import DataLoader

from labs.data import IGNORE, Collator, encode
from labs.errors import InputError
from tests.data.conftest import picture, talk


@pytest.fixture(scope="module")
def mixed(tiny):
    """Two images, none, one: of three lengths."""
    _, processor = tiny
    return [
        encode(talk("Is there a ring?", "yes", "And two?", "no, one ring", images=2), processor),
        encode(talk("hello", "a"), processor),
        encode(talk("Count.", "three red rings", images=1), processor),
    ]


def loss(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).loss


def test_shapes_and_values(tiny, mixed):
    _, processor = tiny
    batch = Collator(processor, pad_to_multiple_of=8)(mixed)
    longest = max(len(sample["input_ids"]) for sample in mixed)
    assert batch["input_ids"].shape[1] % 8 == 0 and batch["input_ids"].shape[1] - longest < 8
    assert batch["pixel_values"].shape[0] == 3
    assert torch.equal(batch["pixel_values"][2], mixed[2]["pixel_values"][0])
    for row, sample in enumerate(mixed):
        n = len(sample["input_ids"])
        assert torch.equal(batch["input_ids"][row, :n], sample["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (
            len(batch["labels"][0]) - n
        )
        assert (batch["labels"][row, n:] == IGNORE).all()
        assert (batch["input_ids"][row, n:] == processor.tokenizer.pad_token_id).all()
    left = Collator(processor, padding_side="left")(mixed)
    assert torch.equal(left["input_ids"][1, -len(mixed[1]["input_ids"]) :], mixed[1]["input_ids"])
    assert set(batch) == {"input_ids", "labels", "attention_mask", "pixel_values"}


@pytest.mark.parametrize("multiple", [None, 64])
@pytest.mark.parametrize("side", ["right", "left"])
def test_loss_does_not_depend_on_padding(tiny, mixed, side, multiple):
    model, processor = tiny
    batch = Collator(processor, padding_side=side, pad_to_multiple_of=multiple)(mixed)
    total = counted = 0.0
    for sample in mixed:  # alone, nothing is padded
        alone = Collator(processor)([sample])
        assert alone["attention_mask"].all()
        tokens = int((alone["labels"][:, 1:] != IGNORE).sum())
        total += float(loss(model, alone)) * tokens
        counted += tokens
    assert float(loss(model, batch)) == pytest.approx(total / counted, abs=1e-5)


def test_ids_under_masked_labels_are_no_targets(tiny, mixed):
    """The loss reads targets at labelled positions only: other ids may be scrambled as targets."""
    model, processor = tiny
    batch = Collator(processor)(mixed)
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    masked = batch["labels"] == IGNORE
    noise = torch.randint(0, logits.shape[-1], masked.shape, generator=torch.manual_seed(1))
    scrambled = torch.where(masked, noise, batch["input_ids"])

    def token_loss(targets):
        targets = targets.masked_fill(masked, IGNORE)
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE
        )

    assert torch.equal(token_loss(scrambled), token_loss(batch["input_ids"]))
    assert float(token_loss(scrambled)) == pytest.approx(float(loss(model, batch)), abs=1e-5)


def test_scrambled_padding_changes_nothing(tiny, mixed):
    model, processor = tiny
    batch = Collator(processor, padding_side="left")(mixed)
    before = loss(model, batch)
    padding = batch["attention_mask"] == 0
    assert padding.any()
    noise = torch.randint(10, 100, padding.shape, generator=torch.manual_seed(2))
    noise[noise == processor.image_token_id] = 10
    batch["input_ids"] = torch.where(padding, noise, batch["input_ids"])
    assert float(loss(model, batch)) == pytest.approx(float(before), abs=1e-6)


def test_image_features_equal_placeholders(tiny, mixed):
    model, processor = tiny
    batch = Collator(processor)(mixed)
    with torch.no_grad():
        features = model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    placeholders = int((batch["input_ids"] == processor.image_token_id).sum())
    assert sum(len(feature) for feature in features) == placeholders == 3 * 36


def test_images_reach_their_own_sample(tiny):
    """Swapping one sample's picture changes that sample's logits and no other's."""
    model, processor = tiny
    conversations = [talk("what?", "a", images=1, id=str(i)) for i in range(2)]
    samples = [encode(c, processor) for c in conversations]
    other = encode(type(conversations[1])("y", (picture(9),), conversations[1].turns), processor)
    with torch.no_grad():
        first = model(**Collator(processor)(samples)).logits
        second = model(**Collator(processor)([samples[0], other])).logits
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert not torch.allclose(first[1, -5:], second[1, -5:], atol=1e-4)


def test_text_only_batch(tiny, mixed):
    model, processor = tiny
    batch = Collator(processor)([mixed[1], mixed[1]])
    assert "pixel_values" not in batch
    assert torch.isfinite(loss(model, batch))


def test_no_labels(tiny, mixed):
    _, processor = tiny
    sample = {**mixed[1], "labels": torch.full_like(mixed[1]["labels"], IGNORE)}
    with pytest.raises(InputError, match=r"No token of the batch \(2 rows\) carries a label"):
        Collator(processor)([sample, sample])
    # A label on the first token is never predicted either.
    sample["labels"] = sample["labels"].clone()
    sample["labels"][0] = 5
    with pytest.raises(InputError, match="carries a label"):
        Collator(processor)([sample])
    assert Collator(processor, require_labels=False)([sample])["labels"][0, 0] == 5


def test_bad_settings(tiny):
    _, processor = tiny
    with pytest.raises(InputError, match='padding_side = "top" is unknown'):
        Collator(processor, padding_side="top")
    with pytest.raises(InputError, match="no samples"):
        Collator(processor)([])


def test_in_workers(tiny):
    from labs.data import ConversationDataset

    _, processor = tiny
    dataset = ConversationDataset([talk("q", str(i), images=i % 2) for i in range(6)], processor)
    plain = list(DataLoader(dataset, batch_size=2, collate_fn=Collator(processor)))
    loader = DataLoader(dataset, batch_size=2, collate_fn=Collator(processor), num_workers=2)
    workers = list(loader)
    assert len(plain) == len(workers) == 3
    for a, b in zip(plain, workers, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert dataset.skips.total == 12  # six in this process, six in the workers
