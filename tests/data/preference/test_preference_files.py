"""Statistics of pairs, LLaVA-RLHF's layout, and pictures saved once."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.data.preference import preference_statistics, with_saved_pictures, write_llava_rlhf
from labs.errors import InputError
from labs.formats import Preference, Turn, read_preferences, write_preferences


def pair(chosen="yes", rejected="no", asked="Is it?", images=(), **meta):
    return Preference("p", tuple(images), (Turn("user", asked),), chosen, rejected, meta)


def test_useless_pairs_are_counted_once_each():
    pairs = [
        pair(), pair("no", "yes"), pair(),  # two duplicates, one of them contradicts
        pair("same", "same "), pair("same", "same"),  # tied comes before duplicate
        pair("a b c", "a b d", "Why?"), pair("a b", "c d", "Why?"),
    ]  # fmt: skip
    found = preference_statistics(pairs, str.split, 2)
    assert (found.n, found.tied, found.duplicates, found.contradicted) == (7, 2, 2, 1)
    assert found.truncated == 1 and found.useless == 5
    assert found.useless_share == pytest.approx(5 / 7)
    assert preference_statistics(pairs).truncated == 0
    with pytest.raises(InputError, match=r"5 of 7 pairs \(71.4 %\)"):
        found.check()
    found.check(limit=0.8)
    preference_statistics([pair()]).check(limit=0)


def test_margins_lengths_and_votes():
    pairs = [
        pair("long answer", "short", quality=[1.0, 0.0], votes=[True, True, False],
             first=[True, True, True]),
        pair("a", "bcd", quality=[0.0, 0.5], votes=[True], first=[False]),
        pair("abc", "xyz", quality=[0.5, 0.5]),
        pair("one", "two", "Other?", quality="high", votes=3),
    ]  # fmt: skip
    found = preference_statistics(pairs)
    assert found.margin == pytest.approx((1 - 0.5 + 0) / 3)
    assert found.mislabelled == 1 / 2  # of the two that differ
    assert found.agreement == pytest.approx(2 / 3)  # of those with more than one vote
    assert found.first == pytest.approx(2 / 4)  # two votes of four were for what came first
    assert found.chosen_length == (11 + 1 + 3 + 3) / 4
    assert found.rejected_length == (5 + 3 + 3 + 3) / 4
    assert found.chosen_longer == 1 / 2
    bare = preference_statistics([pair("abc", "xyz")])
    assert (bare.margin, bare.mislabelled, bare.agreement, bare.first) == (None,) * 4
    assert bare.chosen_longer is None
    json.dumps(found.to_dict())


def test_equal_words_about_other_pictures_are_no_duplicates():
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    pairs = [pair(asked="<image>?", images=[image]) for image in (red, blue, red.copy())]
    assert preference_statistics(pairs).duplicates == 1


def test_no_pairs_and_half_a_truncation_are_refused():
    with pytest.raises(InputError, match="no preference pairs"):
        preference_statistics([])
    with pytest.raises(InputError, match="max_tokens"):
        preference_statistics([pair()], str.split)


words = st.text("abc \n，是\"'<>", min_size=1, max_size=20).filter(str.strip)
pairs_drawn = st.builds(
    lambda turns, chosen, rejected, seen, quality: Preference(
        "an id", ("images/a.png", "images/b.png")[:seen],
        tuple(Turn(("user", "assistant")[i % 2], t) for i, t in enumerate(
            ("<image>" * seen + "\n" + turns[0], *turns[1:]))),
        chosen, rejected, {"quality": quality, "facts": "a ring"}),
    st.lists(words, min_size=1, max_size=5).filter(lambda t: len(t) % 2),
    words, words, st.integers(0, 2), st.lists(st.floats(-1, 1), min_size=2, max_size=2),
)  # fmt: skip


@settings(max_examples=30)
@given(st.lists(pairs_drawn, min_size=1, max_size=4), st.sampled_from([".json", ".jsonl"]))
def test_what_is_written_for_llava_rlhf_is_read_back_the_same(tmp_path_factory, pairs, suffix):
    folder = tmp_path_factory.mktemp("rlhf")
    pairs = [dataclasses.replace(p, images=tuple(str(folder / i) for i in p.images)) for p in pairs]
    path = folder / f"pairs{suffix}"
    assert write_llava_rlhf(pairs, path) == len(pairs)
    assert list(read_preferences(path)) == pairs
    # And what our other writer writes says the same.
    write_preferences(pairs, folder / "trl.jsonl")
    assert list(read_preferences(folder / "trl.jsonl")) == pairs


def test_the_layout_is_llava_rlhfs_and_the_better_answer_is_on_either_side(tmp_path):
    pairs = [
        pair(f"good {i}", f"bad {i}", "<image>\nIs it?", ["a.png"], task="t") for i in range(40)
    ]
    write_llava_rlhf(pairs, tmp_path / "pairs.json")
    rows = json.loads((tmp_path / "pairs.json").read_text())
    for i, row in enumerate(rows):
        assert row["image"] == "a.png" and row["task"] == "t"
        assert [t["from"] for t in row["conversations"]] == ["human", "gpt"]
        assert row[f"output_{row['preference']}"] == {"from": "gpt", "value": f"good {i}"}
        assert row[f"output_{3 - row['preference']}"] == {"from": "gpt", "value": f"bad {i}"}
    assert 10 < sum(row["preference"] == 1 for row in rows) < 30


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (pair("", "no"), "record 2: an answer is empty"),
        (pair(preference=1), "`preference`"),
        (pair(asked="<image> Is it?"), "placeholder"),
        (pair(images=["/elsewhere/a.png"], asked="<image>"), "leaves the data folder"),
    ],
)
def test_a_pair_that_could_not_be_read_is_not_written(tmp_path, wrong, match):
    path = tmp_path / "pairs.json"
    with pytest.raises(InputError, match=match):
        write_llava_rlhf([pair(), wrong], path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="nothing to write"):
        write_llava_rlhf([], path)


def test_a_picture_is_saved_once_and_never_over_another(tmp_path, monkeypatch):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first = [pair(asked="<image>", images=[image]) for image in (red, red.copy(), red)]
    second = [pair(asked="<image>", images=[image]) for image in (blue, red)]
    monkeypatch.chdir(tmp_path)
    write_preferences(with_saved_pictures(first, "."), "train.jsonl")
    write_llava_rlhf(with_saved_pictures(second, "."), "val.json")
    assert len(list((tmp_path / "images").iterdir())) == 2
    shown = [Image.open(p.images[0]).getpixel((0, 0))
             for name in ("train.jsonl", "val.json") for p in read_preferences(name)]  # fmt: skip
    assert shown == [(255, 0, 0)] * 3 + [(0, 0, 255), (255, 0, 0)]
    (kept,) = with_saved_pictures([pair(asked="<image>", images=["a.png"])], ".")
    assert kept.images == ("a.png",)
