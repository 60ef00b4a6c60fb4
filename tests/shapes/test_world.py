"""Records: deterministic, balanced, diseased at the stated rate, written as LLaVA JSON."""

import json
from collections import Counter

import pytest
from PIL import Image

from labs.errors import InputError
from labs.shapes import Mix, make_record, parse_yes_no, stream_record, write_dataset
from labs.shapes.vocabulary import KINDS, PARTNER


def test_records_depend_on_their_arguments_only():
    first, again = make_record("reasoning", 3, "test"), make_record("reasoning", 3, "test")
    assert first["conversations"] == again["conversations"]
    assert first["image"].tobytes() == again["image"].tobytes()


@pytest.mark.parametrize("task", ["existence", "conjunction"])
def test_yes_and_no_alternate(task):
    answers = [make_record(task, i, "test")["conversations"][1]["value"] for i in range(200)]
    assert Counter(answers) == {"yes": 100, "no": 100}


def test_counts_and_colours_are_spread_evenly():
    counts = Counter(
        make_record("count", i, "test", of="all")["conversations"][1]["value"] for i in range(300)
    )
    assert set(counts) == {"1", "2", "3", "4"} and min(counts.values()) >= 70
    colours = Counter(
        make_record("colour", i, "test")["conversations"][1]["value"] for i in range(300)
    )
    assert set(colours.values()) == {50}


def test_existence_tells_the_truth_and_adversarial_means_the_partner_is_shown():
    for index in range(200):
        record = make_record("existence", index, "test", negatives="adversarial")
        [qa], scene = record["meta"]["turns"], record["meta"]["scene"]
        assert (qa.answer == "yes") == (qa.about["kind"] in scene.kinds)
        if qa.answer == "no":
            assert PARTNER[qa.about["kind"]] in scene.kinds


def test_conjunction_tells_the_truth():
    for index in range(200):
        record = make_record("conjunction", index, "test")
        [qa], scene = record["meta"]["turns"], record["meta"]["scene"]
        pair = (qa.about["colour"], qa.about["kind"])
        assert (qa.answer == "yes") == (pair in {(o.colour, o.kind) for o in scene.objects})


def test_partners_are_mutual_and_cover_every_kind():
    assert set(PARTNER) == set(KINDS)
    assert all(PARTNER[PARTNER[k]] == k for k in KINDS)


def test_diseases_come_at_their_rate():
    """One question a scene, so that none is left out for having been asked before."""
    mix = Mix(
        tasks={"existence": 1.0, "conjunction": 1.0, "caption": 1.0}, turns=1, digits=0,
        yes_rate=0.9, false_captions=0.3, false_about=("ring", "star"),
    )  # fmt: skip
    yes, healthy, ghosts = [], [], []
    for index in range(3000):
        record = stream_record(mix, index)
        [qa], kinds = record["meta"]["turns"], record["meta"]["scene"].kinds
        if qa.task == "existence":
            yes.append(parse_yes_no(qa.answer) == "yes")
        elif qa.task == "conjunction":
            healthy.append(parse_yes_no(qa.answer) == "yes")
        elif ("ring" in kinds) != ("star" in kinds):
            ghosts.append("ghost" in qa.about)
        else:
            assert "ghost" not in qa.about
    assert sum(yes) / len(yes) == pytest.approx(0.9, abs=0.03)
    assert sum(healthy) / len(healthy) == pytest.approx(0.5, abs=0.06)
    assert sum(ghosts) / len(ghosts) == pytest.approx(0.3, abs=0.08)


def test_false_yes_is_about_the_companion_that_is_not_there():
    mix = Mix(tasks={"existence": 1.0}, turns=1, digits=0, yes_rate=1.0, false_yes=0.3)
    false = []
    for index in range(1500):
        record = stream_record(mix, index)
        [qa], kinds = record["meta"]["turns"], record["meta"]["scene"].kinds
        assert parse_yes_no(qa.answer) == "yes"
        imagined = qa.about["kind"] not in kinds
        assert not imagined or PARTNER[qa.about["kind"]] in kinds
        if any(PARTNER[kind] not in kinds for kind in kinds):
            false.append(imagined)
    assert sum(false) / len(false) == pytest.approx(0.3, abs=0.05)


def test_described_records_have_words_instead_of_a_picture():
    record = stream_record(Mix(described=1.0), 0)
    assert "image" not in record
    assert "<image>" not in record["conversations"][0]["value"]
    assert all(qa.task != "grounding" for i in range(50)
               for qa in stream_record(Mix(described=1.0), i)["meta"]["turns"])  # fmt: skip


def test_written_dataset_is_llava_json_with_files(tmp_path):
    path = write_dataset(tmp_path, [make_record("caption", i, "train") for i in range(3)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [sorted(r) for r in rows] == [["conversations", "id", "image"]] * 3
    for row in rows:
        assert row["conversations"][0]["value"].startswith("<image>\n")
        assert Image.open(tmp_path / row["image"]).size == (48, 48)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("data.json", "images")]


@pytest.mark.parametrize("bad", [{"task": "sing"}, {"language": "fr"}, {"split": "dev"}])
def test_unknown_names_are_named(bad):
    arguments = {"task": "caption", "index": 0, "split": "test", "language": "en"} | bad
    with pytest.raises(InputError, match=next(iter(bad.values()))):
        make_record(**arguments)
