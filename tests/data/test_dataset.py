"""Skips are counted, mixtures are exact, and a broken data set stops with its sentence."""

import collections
import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from labs.data import Collator, ConversationDataset, MixtureDataset, Skip, Skips
from labs.errors import InputError
from labs.formats import Conversation, Turn
from tests.data.conftest import MAKERS, get_processor, picture, talk


def broken(id="broken"):
    turns = (Turn("user", "<image>"), Turn("assistant", "a"))
    return Conversation(id, ("/nowhere/gone.png",), turns)


def test_from_a_file_with_lazy_images(tmp_path, processor):
    picture(3).save(tmp_path / "a.png")
    records = [
        {"id": "0", "image": "a.png", "conversations": ["<image>\nq", "a"]},
        {"id": "1", "conversations": ["q", "a"]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    dataset = ConversationDataset(tmp_path / "data.json", processor)
    assert len(dataset) == 2
    assert isinstance(dataset.conversations[0].images[0], str)  # not opened yet
    assert dataset[0]["pixel_values"].shape == (1, 3, 48, 48)
    assert "pixel_values" not in dataset[1]
    expected = processor(images=picture(3), text="<image>", return_tensors="pt")["pixel_values"]
    assert torch.equal(dataset[0]["pixel_values"], expected)
    with pytest.raises(IndexError):
        dataset[2]


def test_skips_by_reason_and_the_next_one_in_place(processor):
    conversations = [
        talk("q", "first", id="a"),
        broken(),
        talk("q", "long " * 100, id="b"),
        Conversation("silent", (), (Turn("user", "no answer"),)),
        talk("an <image> typed", "x", id="typed"),
        talk("q", "last", id="c"),
    ]
    dataset = ConversationDataset(conversations, processor, max_length=60)
    good = {0: dataset[0], 5: dataset[5]}
    assert dataset.skips.counts == {} and dataset.skips.total == 2
    for index in (1, 2, 3, 4):
        assert torch.equal(dataset[index]["input_ids"], good[5]["input_ids"])
    counts = dataset.skips.counts
    assert counts == {"overlong": 2, "no_label": 3, "broken_image": 1, "template": 4}
    assert dataset.skips.first("broken_image") == 1
    assert dataset.skips.total == 2 + 5 + 4 + 3 + 2
    summary = dataset.skips.summary()
    assert "Skipped 10 of 16 samples (62.5 %)" in summary
    assert "2 longer than max_length (first: sample 2)" in summary
    with pytest.raises(Skip, match=r"Sample broken: The image /nowhere/gone.png does not exist"):
        dataset.encode(1)
    assert dataset.explain(0) == ""


def test_too_many_skips_stop_the_run(processor):
    conversations = [talk("q", str(i), id=str(i)) for i in range(98)] + [broken("x"), broken("y")]
    dataset = ConversationDataset(conversations, processor)
    for i in range(98):
        dataset[i]
    dataset.check()
    dataset[98]  # skips two, then begins again at 0: 2 of 101 are more than 1 %
    assert dataset.skips.total == 101
    with pytest.raises(InputError) as error:
        dataset.check()
    assert "Skipped 2 of 101 samples (2.0 %)" in error.value.what
    assert (
        "the limit is 1 %. For example: Sample x: The image /nowhere/gone.png" in error.value.what
    )
    assert "allow_skips" in error.value.do
    dataset.skips.allow = True
    dataset.check()


def test_few_samples_are_judged_at_the_end_only(processor):
    dataset = ConversationDataset([talk("q", "a"), broken()], processor)
    dataset[1]
    dataset.check()
    with pytest.raises(InputError, match="Skipped 1 of 2"):
        dataset.check(final=True)
    assert Skips().summary() == "No sample was skipped of 0."


def test_one_in_a_hundred_is_allowed():
    skips = Skips()
    for _ in range(100):
        skips.seen()
    skips.add("overlong", 7)
    skips.check(final=True)
    skips.add("overlong", 9)
    with pytest.raises(InputError, match="Skipped 2 of 100"):
        skips.check()


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_count_into_the_same_table(processor, context, workers):
    conversations = [talk("q", str(i)) if i % 4 else broken() for i in range(1, 13)]
    dataset = ConversationDataset(conversations, processor)
    loader = DataLoader(
        dataset, batch_size=2, collate_fn=Collator(processor), num_workers=workers,
        multiprocessing_context=context,
    )  # fmt: skip
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [2] * 6
    assert dataset.skips.counts == {"broken_image": 3}
    assert dataset.skips.total == 15
    assert dataset.skips.first("broken_image") == 3


def test_nothing_usable_and_nothing_at_all(processor):
    with pytest.raises(InputError, match="The data set is empty"):
        ConversationDataset([], processor)
    dataset = ConversationDataset([broken(), broken()], processor)
    with pytest.raises(
        InputError, match="None of the 2 samples can be used; the first: Sample bro"
    ):
        dataset[0]


def test_template_is_checked_at_once():
    processor = MAKERS["chatml"]()
    processor.chat_template = (
        "{{ messages|length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(InputError, match="rewrites history"):
        ConversationDataset([talk("a", "b", "c", "d")], processor)


def test_overlong_error_stops(processor):
    dataset = ConversationDataset([talk("a", "b")], processor, max_length=3, overlong="error")
    with pytest.raises(InputError, match="more than max_length = 3"):
        dataset[0]


def test_dataset_pickles(processor):
    dataset = ConversationDataset([talk("q", "a", images=1)], processor)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[0]["input_ids"], dataset[0]["input_ids"])


class Numbers(torch.utils.data.Dataset):
    def __init__(self, name, n):
        self.items = [(name, i) for i in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_mixture_is_exact_seeded_and_fair():
    parts = [Numbers("a", 10), Numbers("b", 100), Numbers("c", 7)]
    mixture = MixtureDataset(parts, weights=[0.5, 0.3, 0.2], size=101, seed=3)
    items = [mixture[i] for i in range(len(mixture))]
    counts = collections.Counter(name for name, _ in items)
    assert counts == {"a": 51, "b": 30, "c": 20}  # 50.5, 30.3, 20.2: the largest remainder is a's
    seen = collections.Counter(items)
    for name, n in (("a", 10), ("c", 7)):
        each = [seen[(name, i)] for i in range(n)]
        assert max(each) - min(each) <= 1  # nothing twice before everything once
    assert max(seen[("b", i)] for i in range(100)) == 1
    assert items != sorted(items)
    again = MixtureDataset(parts, weights=[0.5, 0.3, 0.2], size=101, seed=3)
    assert [again[i] for i in range(101)] == items
    again.set_epoch(1)
    second = [again[i] for i in range(101)]
    assert second != items and collections.Counter(n for n, _ in second) == counts
    other = MixtureDataset(parts, weights=[0.5, 0.3, 0.2], size=101, seed=4)
    assert [other[i] for i in range(101)] != items


def test_mixture_by_length_and_zero_weight():
    parts = [Numbers("a", 3), Numbers("b", 5)]
    whole = MixtureDataset(parts)
    assert sorted(whole[i] for i in range(8)) == sorted(parts[0].items + parts[1].items)
    only = MixtureDataset(parts, [0, 2], size=4)
    assert {only[i][0] for i in range(4)} == {"b"}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1], "2 data sets, but 1 weights"),
        ([0, 0], "cannot be drawn"),
        ([1, -1], "cannot be drawn"),
    ],
)
def test_mixture_mistakes(weights, sentence):
    with pytest.raises(InputError, match=sentence):
        MixtureDataset([Numbers("a", 1), Numbers("b", 1)], weights)
    with pytest.raises(InputError, match="lengths"):
        MixtureDataset([Numbers("a", 0)])


def test_mixture_of_conversations_checks_all_parts(processor):
    good = ConversationDataset([talk("q", "a")], processor)
    bad = ConversationDataset([talk("q", "a"), broken()], processor)
    mixture = MixtureDataset([good, bad], size=6)
    assert all("labels" in mixture[i] for i in range(6))
    with pytest.raises(InputError, match="broken"):
        mixture.check(final=True)


def test_qwen2_vl_batches():
    processor = get_processor("qwen2_vl")
    conversations = [talk("q", "a", images=2), talk("q", "b"), talk("q", "c", images=1)]
    dataset = ConversationDataset(conversations, processor)
    batch = Collator(processor)([dataset[i] for i in range(3)])
    assert batch["image_grid_thw"].shape == (3, 3)
    assert batch["pixel_values"].shape[0] == int(batch["image_grid_thw"].prod(1).sum())
    assert batch["mm_token_type_ids"].shape == batch["input_ids"].shape
    image_id = processor.image_token_id
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == image_id)
    assert int((batch["input_ids"] == image_id).sum()) * 4 == batch["pixel_values"].shape[0]
