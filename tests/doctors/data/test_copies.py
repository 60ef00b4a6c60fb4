"""Copies of samples, ids and captions; samples and images that are also in another split."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.data.options import Options
from labs.doctors.data.sample import Place, Sample
from labs.doctors.data.survey import Survey, survey
from labs.doctors.data.text import same
from labs.doctors.data.text.digests import question_numbers, turns_digest
from labs.errors import InputError
from labs.formats.sniff import sniff

HERE = Place("x.json", 1, 0)


def record(image, *texts, id=None, **more):
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": id, "image": image, "conversations": turns, **more}


def lonely(*texts):
    found = record(None, *texts)
    del found["image"]
    return found


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8"
    )
    return path


def look(path, *against, **options) -> Survey:
    given = Options(path=path, against=tuple(against), workers=1, **options)
    return survey(sniff(path), given)


def found(result: Survey, kind: str) -> list[tuple[str, int]]:
    return [(e.place.file, e.place.record) for e in result.tally.examples.get(kind, [])]


# Digests.

turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=3)), max_size=3)
parts = st.tuples(
    st.lists(st.text(max_size=3), max_size=2), turns, st.lists(st.text(max_size=3), max_size=2)
)


@settings(max_examples=300)
@given(a=parts, b=parts)
def test_digests_agree_where_turns_and_answers_do(a, b):
    one, other = (Sample(HERE, None, *p) for p in (a, b))
    assert (turns_digest(one) == turns_digest(other)) == (stripped(a) == stripped(b))


def stripped(part) -> tuple:
    """Turns without outer white space, and the other answers."""
    return [(role, text.strip()) for role, text in part[1]], part[2]


def test_where_a_placeholder_stands_makes_no_other_sample():
    first, last, within, two = (
        turns_digest(Sample(HERE, None, [], [("user", text), ("assistant", "red")]))
        for text in ("<image>\nWhat?", "What?\n<image>", "Wh<image>at?", "<image>What?<image>")
    )
    assert first == last == within != two


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (([("user", "x")], ["a", "b"]), ([("user", "x")], ["a\0b"])),
        (([("user", "x"), ("a", "b")], []), ([("user", "x")], ["a", "b"])),
        (([("user", "x\0assistant\0y")], []), ([("user", "x"), ("assistant", "y")], [])),
    ],
)
def test_separators_inside_texts_do_not_confuse_digests(a, b):
    assert turns_digest(Sample(HERE, None, [], *a)) != turns_digest(Sample(HERE, None, [], *b))


def test_questions():
    def numbers(*texts, images=("a.jpg",)):
        roles = [("user", "assistant")[i % 2] for i in range(len(texts))]
        return question_numbers(
            Sample(HERE, None, list(images), list(zip(roles, texts, strict=True)))
        )

    assert numbers("<image>\nIs it?", "x") == numbers("is IT? <image>", "y")
    assert numbers("Is it?", "x", "And?", "y") == numbers("Is it?", "x") + numbers("And?", "x")
    assert numbers("Hi", "a", images=()) != numbers("Hi", "b", images=())
    assert numbers("What is the capital?", "a", images=()) == numbers(
        "What is the capital?", "b", images=()
    )


# Within one set.


def test_equal_samples_are_told_of_at_the_later_one(tmp_path):
    a, b = record("a.jpg", "q", "a", id=1), record("a.jpg", "q", "b", id=2)
    messages = {
        "images": ["a.jpg"],
        "messages": [{"role": "user", "content": "q"}, {"content": "a", "role": "assistant"}],
    }
    path = write(
        tmp_path / "data.jsonl",
        a,
        b,
        {**a, "id": 9, "extra": 1},
        messages,
        {**a, "image": ["a.jpg"]},
    )
    result = look(path)
    assert found(result, "duplicate_sample") == [("data.jsonl", n) for n in (2, 3, 4)]
    example = result.tally.examples["duplicate_sample"][0]
    assert example.detail == "the same as line 1" and example.id == "9"
    assert result.tally.hits["data.jsonl", 2] == [
        "missing_placeholder",
        "missing_image",
        "duplicate_sample",
    ]


def test_equal_pictures_under_other_names_are_the_same(tmp_path):
    big = b"\xff" * 50_000
    contents = {
        "a": big + b"1",
        "copy": big + b"1",
        "end": big + b"2",
        "start": b"1" + big[1:] + b"1",
        "long": big,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    os.symlink("a.jpg", tmp_path / "link.jpg")
    names = ["a", "end", "copy", "start", "long", "gone", "link", "gone too", "a"]
    path = write(tmp_path / "data.jsonl", *(record(f"{n}.jpg", "<image>q", "a") for n in names))
    result = look(path)
    assert [names[r] for _, r in found(result, "duplicate_sample")] == ["copy", "link", "a"]
    assert {e.detail for e in result.tally.examples["duplicate_sample"]} == {"the same as line 1"}
    two = [record([f"{n}.jpg", "end.jpg"], "<image><image>q", "a") for n in ("a", "copy", "start")]
    swapped = {**two[0], "image": ["end.jpg", "a.jpg"]}
    result = look(write(path, *two, swapped))
    assert [r for _, r in found(result, "duplicate_sample")] == [1]


def test_equal_samples_of_two_files_of_one_split(tmp_path):
    write(tmp_path / "train-0.jsonl", record("a.jpg", "q", "a"))
    write(tmp_path / "train-1.jsonl", record("b.jpg", "q", "a"), record("a.jpg", "q", "a"))
    result = look(tmp_path)
    assert found(result, "duplicate_sample") == [("train-1.jsonl", 1)]
    assert "train-0.jsonl, line 1" in result.tally.examples["duplicate_sample"][0].detail


def test_records_that_are_no_samples_are_no_copies(tmp_path):
    path = write(
        tmp_path / "data.jsonl",
        record("a.jpg", "q", "a"),
        {"conversations": []},
        {"conversations": []},
    )
    assert found(look(path), "duplicate_sample") == []


@settings(max_examples=30, deadline=None)
@given(choice=st.lists(st.integers(0, 6), max_size=20))
def test_copies_and_ids_against_a_plain_count(tmp_path_factory, choice):
    path = tmp_path_factory.mktemp("copies") / "data.jsonl"
    write(
        path,
        record("z.jpg", "first", "x", id="z"),
        *(record(f"{n}.jpg", "q", "a", id=n) for n in choice),
    )
    result = look(path)
    expected = [i for i, n in enumerate(choice, 1) if n in choice[: i - 1]]
    assert [record for _, record in found(result, "duplicate_sample")] == expected
    assert [record for _, record in found(result, "duplicate_id")] == expected


def test_ids_are_compared_within_a_file(tmp_path):
    a = record("a.jpg", "q", "a", id="7")
    write(
        tmp_path / "one.jsonl",
        a,
        record("b.jpg", "q", "b"),
        record("c.jpg", "q", "b"),
        {**a, "image": "d"},
    )
    write(tmp_path / "two.jsonl", {**a, "image": "e.jpg"})
    result = look(tmp_path)
    assert found(result, "duplicate_id") == [("one.jsonl", 3)]
    assert result.tally.examples["duplicate_id"][0].detail == "used before, at line 1"


def test_captions_shared_by_many_images(tmp_path):
    def pair(n, text):
        return {"image": f"{n}.jpg", "text": text}

    few = [pair(n, "one of nineteen") for n in range(19)]
    many = [pair(100 + n, "A stock photo!") for n in range(25)]
    again = [pair(200, "one image only")] * 30
    path = write(tmp_path / "data.jsonl", *few, *many, *again)
    result = look(path)
    assert found(result, "shared_caption") == [("data.jsonl", 19)]
    assert "25 images" in result.tally.examples["shared_caption"][0].detail
    write(path, *many, *(pair(1000 + n, f"number {n}") for n in range(2600)))
    assert found(look(path), "shared_caption") == []  # less than 1 %


def test_answers_to_descriptions_are_captions_and_other_answers_are_not(tmp_path):
    described = [record(f"{n}.jpg", "<image>\nDescribe the image.", "A ring.") for n in range(30)]
    assert found(look(write(tmp_path / "a.jsonl", *described)), "shared_caption")
    counted = [record(f"{n}.jpg", "<image>\nHow many?", "A ring.") for n in range(30)]
    assert not found(look(write(tmp_path / "b.jsonl", *counted)), "shared_caption")


@pytest.mark.parametrize(
    ("yes", "no", "told"), [(80, 20, True), (79, 21, False), (0, 100, True), (99, 0, False)]
)
def test_answers_that_go_one_way(tmp_path, yes, no, told):
    answers = ["Yes"] * yes + ["No"] * no
    path = write(
        tmp_path / "data.jsonl",
        *(record(f"{n}.jpg", f"<image>q{n}", a) for n, a in enumerate(answers)),
    )
    result = look(path)
    assert bool(found(result, "yes_rate")) == told
    assert (result.answers.get(("en", "yes"), 0), result.answers.get(("en", "no"), 0)) == (yes, no)


# Leaks.


@pytest.fixture
def splits(tmp_path):
    for name in "abcdef":
        (tmp_path / f"{name}.jpg").write_bytes(b"\xff" * 20_000 + name.encode())
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "size.jpg").write_bytes(
        b"\xff" * 19_999 + b"xa"
    )  # as long as a.jpg, and ends like it
    os.link(tmp_path / "b.jpg", tmp_path / "hard.jpg")
    os.symlink("b.jpg", tmp_path / "soft.jpg")
    train = write(
        tmp_path / "train.jsonl",
        record("a.jpg", "<image>\nWhat?", "x", "And now?", "y"),  # 0: a sample
        record("a.jpg", "<image>\nOther?", "x"),  # 1: an image
        record("copy.jpg", "what?\n<image>", "z"),  # 2: a sample, by bytes
        record("size.jpg", "<image>\nWhat?", "x"),  # 3: clean
        record("hard.jpg", "<image>\nElse?", "x"),  # 4: an image
        record("soft.jpg", "<image>\nWhere?", "x"),  # 5: a sample
        record("c.jpg", "<image>\nWhat?", "x"),  # 6: clean
        lonely("What is the capital of France?", "It is Paris."),  # 7: a sample
        lonely("Hello!", "Hi."),  # 8: clean, its answer is another
        record(["c.jpg", "a.jpg"], "<image><image>\nDifferent?", "x"),  # 9: an image
        record("gone.jpg", "<image>\nWhat?", "x"),  # 10: a sample, though the file is missing
    )
    test = write(
        tmp_path / "test.jsonl",
        record("a.jpg", "<image>\nWhat?", "another answer"),
        record("b.jpg", "Where? <image>", "x"),
        lonely("what is the capital of france?", "Paris"),
        lonely("Hello!", "Good day."),
        record("gone.jpg", "<image>\nWhat?", "x"),
    )
    return train, test


LEAKED = [0, 2, 5, 7, 10], [1, 4, 9]


def test_leaks_between_the_splits_of_a_folder(splits):
    train, _ = splits
    result = look(train.parent)
    assert [r for _, r in sorted(found(result, "leaked_sample"))] == LEAKED[0]
    assert [r for _, r in sorted(found(result, "leaked_image"))] == LEAKED[1]
    assert {file for file, _ in found(result, "leaked_sample")} == {"train.jsonl"}
    example = result.tally.examples["leaked_sample"][1]
    assert (example.image, example.detail) == ("copy.jpg", "also in test.jsonl, line 1")
    held_out = {entry.reference for entry in result.held_out_images()}
    assert held_out == {"a.jpg", "b.jpg", "gone.jpg"}
    assert {entry.reference for entry in result.training_images()} >= {"copy.jpg", "a.jpg", "c.jpg"}


def test_leaks_into_files_that_are_named(splits):
    train, test = splits
    result = look(train, test)
    assert [r for _, r in sorted(found(result, "leaked_sample"))] == LEAKED[0]
    assert [r for _, r in sorted(found(result, "leaked_image"))] == LEAKED[1]
    assert result.samples == 11 and len(result.other.images) == 3
    assert {e.reference for e in result.held_out_images()} == {"a.jpg", "b.jpg", "gone.jpg"}
    # The other split is compared with, not checked.
    assert all(e.place.file == "train.jsonl" for es in result.tally.examples.values() for e in es)


def test_leaks_into_another_folder_and_format(splits, tmp_path):
    train, _ = splits
    other = tmp_path / "bench"
    other.mkdir()
    (other / "x.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    pope = {"question_id": 1, "image": "x.jpg", "text": "What?", "label": "yes"}
    write(other / "pope.jsonl", pope)
    result = look(train, other / "pope.jsonl")
    assert sorted(r for _, r in found(result, "leaked_sample")) == [0, 2]
    assert sorted(r for _, r in found(result, "leaked_image")) == [1, 9]
    assert look(train, other).tally.counts == result.tally.counts


def test_a_split_named_twice_is_read_once(splits):
    train, test = splits
    result = look(train.parent, test)
    assert result.samples == 11
    assert sorted(r for _, r in found(result, "leaked_sample")) == LEAKED[0]
    with pytest.raises(InputError, match="also named by --against"):
        look(train, train)


def test_no_split_no_leaks(splits):
    train, _ = splits
    result = look(train)
    assert found(result, "leaked_sample") == [] and list(result.held_out_images()) == []


def test_files_are_read_only_where_sizes_agree(splits, monkeypatch):
    train, test = splits
    read = []
    real = same._read
    monkeypatch.setattr(
        same,
        "_read",
        lambda table, n, whole: (read.append((table.references[n], whole)), real(table, n, whole))[
            1
        ],
    )
    (train.parent / "c.jpg").write_bytes(b"short")
    look(train, test)
    assert ("c.jpg", False) not in read
    assert ("size.jpg", True) not in read or ("size.jpg", False) in read
    assert len(read) == len(set(read))
