"""`labs bench sft`: the same losses as TRL's, and the checks that see it where they are not."""

import math

import pytest

from labs.bench import sft

pytest.importorskip("trl")


@pytest.mark.slow
def test_two_steps_have_the_losses_of_trl():
    result = sft.run(1, sizes=("tiny",), batch=4, steps=1, turns=1)
    row = result["sizes"]["tiny"]
    assert set(row["loss"]) == {"labs", "trl", "trl with metrics"}
    for losses in row["loss"].values():
        assert losses == pytest.approx(row["loss"]["labs"], abs=1e-4)
        assert len(losses) == 2 and losses[0] != losses[1]  # a step was made, with effect
    assert row["loss_difference"] <= 1e-4
    assert 5 < row["loss"]["labs"][0] < 8  # about log(543): random weights know nothing
    batch, tokens = row["first_batch"]["shape"]
    assert batch == 4 and 4 < row["first_batch"]["labelled"] < batch * tokens
    assert all(megabytes > 1 for megabytes in row["peak_mb"].values())
    assert len(sft.tables(result)) == 2


def setup(**changes):
    same = {
        "weights": "w",
        "batch": {"input_ids": "i", "labels": "l"},
        "shape": [4, 9],
        "labelled": 3,
    }
    return same | changes


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (setup(weights="v"), "other weights"),
        (setup(batch={"input_ids": "i", "labels": "m"}), "differs in labels"),
        (setup(batch={"input_ids": "i"}), "differs in labels"),
    ],
)
def test_other_weights_or_labels_are_not_comparable(other, said):
    sft._check_same({"labs": setup(), "trl": setup()}, "tiny")
    with pytest.raises(sft.NotComparable, match=said):
        sft._check_same({"labs": setup(), "trl": other}, "tiny")


@pytest.mark.parametrize("wrong", [2.0002, math.nan])
def test_other_losses_are_not_comparable(wrong):
    same = {"labs": [3.0, 2.0], "trl": [3.00001, 2.00002]}
    assert sft._check_losses(same, "tiny") == pytest.approx(2e-5)
    with pytest.raises(sft.NotComparable, match="step 2"):
        sft._check_losses({"labs": [3.0, 2.0], "trl": [3.0, wrong]}, "tiny")


def test_both_read_the_same_files(tmp_path):
    from labs.bench.sft_child import messages
    from labs.formats import read_conversations

    path = sft._write_data(tmp_path, 12, 48)
    rows, conversations = messages(path), list(read_conversations(path))
    assert len(rows) == len(conversations) == 12
    for row, conversation in zip(rows, conversations, strict=True):
        assert [m["role"] for m in row["messages"]] == [t.role for t in conversation.turns]
        assert "<image>\n" + row["messages"][0]["content"] == conversation.turns[0].text
