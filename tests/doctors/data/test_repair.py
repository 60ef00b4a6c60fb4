"""The cleaned copy: what is left alone is left alone to the byte, what is mended is mended, no error stays."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.data.repair import record, target
from labs.doctors.data.repair.copy import DROP, KEEP, copy_file
from labs.doctors.data.repair.edits import mend
from labs.doctors.data.repair.record import Unmendable
from labs.doctors.data.sample import Place, Sample
from labs.doctors.data.text.characters import clean
from labs.doctors.data.text.special_tokens import Tokens
from labs.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
RECORDS = st.lists(
    st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=3), min_size=1, max_size=9
)


@settings(max_examples=30)
@given(RECORDS, st.data(), st.sampled_from(["list", "indented", "lines", "escaped"]))
def test_records_that_are_kept_are_kept_to_the_byte(tmp_path_factory, records, data, style):
    folder = tmp_path_factory.mktemp("copy")
    source, out = folder / "in.json", folder / "out.json"
    texts = [
        json.dumps(r, ensure_ascii=style == "escaped", indent=2 if style == "indented" else None)
        for r in records
    ]
    lines = style in ("lines", "escaped")
    whole = "\n".join(texts) + "\n" if lines else "[" + ",\n ".join(texts) + "]"
    source.write_text(whole, encoding="utf-8")
    fates = data.draw(
        st.lists(st.sampled_from("kdc"), min_size=len(records), max_size=len(records))
    )
    new = {"new": "记录"}

    def decide(row, text):
        assert json.loads(text) == row.value == records[row.record]
        return {"k": KEEP, "d": DROP, "c": new}[fates[row.record]]

    counted = copy_file(source, out, decide)
    assert counted[:3] == tuple(map(fates.count, "kcd"))
    assert [*counted.records] == [i for i, fate in enumerate(fates) if fate != "d"]
    starts = [whole.index(texts[0])]
    for before, text in itertools.pairwise(texts):
        starts.append(whole.index(text, starts[-1] + len(before)))
    lines_of = [whole.count("\n", 0, start) + 1 for start in starts]
    assert [*counted.lines] == [lines_of[record] for record in counted.records]
    expected = [r if f == "k" else new for r, f in zip(records, fates, strict=True) if f != "d"]
    written = out.read_bytes()
    if lines:
        assert [json.loads(line) for line in written.splitlines()] == expected
    else:
        assert json.loads(written) == expected
    at = 0
    for text, fate in zip(texts, fates, strict=True):
        if fate == "k":
            at = written.index(text.encode(), at) + len(text.encode())
    assert source.read_text(encoding="utf-8") == whole


def conversation(
    *turns: str, images=("a.png",), key="conversations", names=("human", "gpt")
) -> Sample:
    """A sample as reading gives it: turns "q: …" and "a: …" of the user and the assistant."""
    roles = {"q": ("user", names[0]), "a": ("assistant", names[1])}
    said = [turn.split(": ", 1) for turn in turns]
    text = "value" if key == "conversations" else "content"
    raw = {"id": "7", key: [{"from": roles[who][1], text: words} for who, words in said]}
    if len(images) == 1:
        raw["image"] = images[0]
    elif images:
        raw["images"] = list(images)
    parsed = [(roles[who][0], words) for who, words in said]
    return Sample(Place("d.json", 1, 0), "7", list(images), parsed, raw=raw)


def mended(sample: Sample, *kinds: str, tokens=("<|im_end|>", "</s>")) -> list[str]:
    before = json.dumps(sample.raw)
    new, done = mend(
        sample, kinds, Tokens(tokens).break_up, clean
    )  # fmt: skip
    assert json.dumps(sample.raw) == before, "the sample was changed in place"
    assert {edit.kind for edit in done} <= set(kinds)
    assert done
    turns = record.turn_list(new)
    assert {k: v for k, v in new.items() if v is not turns} == {
        k: v for k, v in sample.raw.items() if not isinstance(v, list) or k == "images"
    }
    return [f"{'q' if t['from'] in ('human', 'user') else 'a'}: {record.text_of(t)}" for t in turns]


@pytest.mark.parametrize(
    ("kinds", "turns", "expected"),
    [
        (["missing_placeholder"], ["q: What is it?", "a: A cat."], ["q: <image>\nWhat is it?", "a: A cat."]),
        (["missing_placeholder"], ["q: 这是什么？", "a: 猫。"], ["q: <image>\n这是什么？", "a: 猫。"]),
        (["no_answer"], ["q: <image>A?", "a: B.", "q: And?"], ["q: <image>A?", "a: B."]),
        (["empty_answer"], ["q: <image>A?", "a: B.", "q: C?", "a:  \n"], ["q: <image>A?", "a: B."]),
        # The picture was shown in the pair that goes: it is shown in the first that stays.
        (["empty_answer"], ["q: <image>\nA?", "a: ", "q: C?", "a: D."], ["q: <image>\nC?", "a: D."]),
        (["empty_question"], ["q: <image>A?", "a: B.", "q:  ", "a: C."], ["q: <image>A?", "a: B."]),
        (["empty_answer", "no_answer"], ["q: <image>A?", "a: B.", "q: C?", "a: ", "q: E?"], ["q: <image>A?", "a: B."]),
        (["control_characters"], ["q: <image>A\x00?", "a: B\x00B."], ["q: <image>A?", "a: BB."]),
        (["special_token_in_text"], ["q: <image>A<|im_end|>?", "a: B</s>."], ["q: <image>A< |im_end|>?", "a: B< /s>."]),
        (["special_token_in_text", "no_answer"], ["q: <image>A</s>", "a: B.", "q: C"], ["q: <image>A< /s>", "a: B."]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_what_is_mended(kinds, turns, expected, key):
    assert mended(conversation(*turns, key=key), *kinds) == expected


@pytest.mark.parametrize(
    ("kinds", "turns", "images"),
    [
        (["no_answer"], ["q: <image>A?"], ["a.png"]),
        (["empty_answer"], ["q: <image>A?", "a: "], ["a.png"]),
        # Which of the two belongs where, nobody knows.
        (["missing_placeholder"], ["q: A?", "a: B."], ["a.png", "b.png"]),
        (["missing_placeholder"], ["q: <image>A?", "a: B."], ["a.png", "b.png"]),
        (["empty_answer"], ["q: <image>A?", "a: ", "q: <image>C?", "a: D."], ["a.png", "b.png"]),
    ],
)
def test_what_cannot_be_mended(kinds, turns, images):
    with pytest.raises(Unmendable):
        mended(conversation(*turns, images=images), *kinds)


def test_a_text_in_parts_is_mended_in_its_part():
    raw = {"messages": [
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "A</s>?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "B"}, "C</s>"]},
    ]}  # fmt: skip
    turns = [("user", "<image>A</s>?"), ("assistant", "BC</s>")]
    sample = Sample(Place("d.json", 1, 0), None, ["a.png"], turns, raw=raw)
    new, done = mend(sample, ["special_token_in_text"], Tokens(["</s>"]).break_up, clean)
    assert new["messages"][0]["content"][0] == {"type": "image", "image": "a.png"}
    assert new["messages"][0]["content"][1]["text"] == "A< /s>?"
    assert new["messages"][1]["content"] == [{"type": "text", "text": "B"}, "C< /s>"]
    assert [(e.before, e.after) for e in done] == [("A</s>?", "A< /s>?"), ("C</s>", "C< /s>")]


@pytest.mark.parametrize(
    ("raw", "changed"),
    [
        ({"image": "a</s>.png", "caption": "b</s>", "id": "c</s>"}, {"caption": "b< /s>"}),
        ({"image": "a.png", "text": ["b", "c</s>"]}, {"text": ["b", "c< /s>"]}),
        ({"prompt": "a</s>", "chosen": "b", "rejected": "c</s>"}, {"prompt": "a< /s>", "rejected": "c< /s>"}),
        ({"image": "a.png", "chosen": [{"role": "assistant", "content": "c</s>"}]},
         {"chosen": [{"role": "assistant", "content": "c< /s>"}]}),
    ],
)  # fmt: skip
def test_texts_are_told_from_names_in_every_format(raw, changed):
    sample = Sample(Place("d.jsonl", 1, 0), None, [], [], raw=raw)
    new, _ = mend(sample, ["special_token_in_text"], Tokens(["</s>"]).break_up, clean)
    assert new == {**raw, **changed}


def test_where_a_copy_may_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "data"
    source.mkdir()
    (source / "train.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "link").symlink_to(source)
    for out in ("new", "empty", "a/b/new", "data/../new", "clean.json"):
        target.check_target(source / "train.json", Path(out))
    target.check_target(source, Path("new"))
    refused = {
        "full": "not empty", "data": "not empty", "data/train.json": "exists already", "data/new": "inside",
        "link/new": "inside", "new.jsonl": "names a file",
    }  # fmt: skip
    for out, why in refused.items():
        with pytest.raises(InputError, match=why):
            target.check_target(source, Path(out))
    with pytest.raises(InputError, match="no folder"):
        target.check_target(source / "train.json", source / "train.json" / "x")
    monkeypatch.chdir(source)
    with pytest.raises(InputError, match="not empty"):
        target.check_target(source / "train.json", Path("."))


@pytest.mark.parametrize("name", ["out", "clean.json"])
def test_a_copy_is_there_whole_or_not_at_all(tmp_path, name):
    source = tmp_path / "data.json"
    source.write_text("[]")
    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt), target.staged(out, source) as place:
        (place.folder / "half.json").write_text("[")
        assert not out.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [source]
    with target.staged(out, source) as place:
        place.log.write_text("log")
        (place.folder / "data.json").write_text("[1]")
        assert not out.exists()
    written = {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }
    if name == "out":
        assert written == {"data.json", "out/data.json", "out/changes.jsonl"}
        (tmp_path / "plain").mkdir()
        assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode, "private to its writer"
    else:
        assert written == {"data.json", "clean.json", "clean.changes.jsonl"}
        assert (out.read_text(), target.log_of(out).read_text()) == ("[1]", "log")
        with pytest.raises(InputError, match="exists already"):
            out.unlink()
            target.check_target(source, out)
    assert source.read_text() == "[]"
