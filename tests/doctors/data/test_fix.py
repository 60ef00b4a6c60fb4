"""`--fix` on whole data sets: the original untouched, no error in the copy, all of it or nothing."""

import copy
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.bench import data_faults_blind, data_faults_known
from labs.bench.data_plant import plant
from labs.doctors.data.check import check, examine
from labs.doctors.data.fix import fix
from labs.doctors.data.kinds import KINDS
from labs.doctors.data.options import Options
from labs.errors import InputError
from labs.formats import read_conversations
from labs.models.places import ZOO
from tests.doctors.data.sets import clean_set, read_records, record, write_images, write_records

ROOT = Path(__file__).resolve().parents[3]


def options(path: Path, **kwargs) -> Options:
    return Options(path=path, **{"workers": 1, **kwargs})


def fingerprint(folder: Path) -> dict[str, tuple]:
    """Every file, link and folder with its bytes, mode and times."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        digest = hashlib.sha256(data).hexdigest()
        found[str(path.relative_to(folder))] = (
            digest,
            status.st_mode,
            status.st_mtime_ns,
            status.st_size,
        )
    return found


def changes(out: Path) -> list[dict]:
    return list(map(json.loads, (out / "changes.jsonl").read_text().splitlines()))


def test_planted_faults_are_gone_and_the_original_is_untouched(tmp_path):
    """The acceptance test: every kind of structural fault, pictures and a second split included."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    both = (data_faults_known.VARIANTS, data_faults_blind.VARIANTS)
    variants = {
        kind: [*both[0].get(kind, ()), *both[1].get(kind, ())] for kind in {**both[0], **both[1]}
    }
    truth = plant(data, variants, samples=240, share=0.4, test=20, seed=3)
    before = fingerprint(data)
    examined = examine(options(data))
    report = fix(examined, out)
    assert fingerprint(data) == before
    assert report.fixed["errors_left"] == []
    again = check(options(out, image_root=data))
    assert [f.kind for f in again.of("error")] == []
    assert {f.kind for f in again.findings if not f.semantic and f.repair != "keep"} == set()
    # What was not faulty is there to the byte, in order; what was is mended or logged as removed.
    lines = (data / "train.jsonl").read_bytes().split(b"\n")
    touched = {c["line"] for c in changes(out) if c["file"] == "train.jsonl"}
    assert touched <= {fault.line for fault in truth}
    expected = [line for number, line in enumerate(lines, 1) if line and number not in touched]
    written = (out / "train.jsonl").read_bytes().split(b"\n")
    assert [line for line in written if line in set(expected)] == expected
    mended = [c for c in changes(out) if c["action"] == "mended"]
    assert len(written) - 1 == len(expected) + len(mended)
    assert (out / "test.jsonl").read_bytes() == (data / "test.jsonl").read_bytes()
    fixed = report.fixed
    assert (fixed["mended"], fixed["removed"]) == (len(mended), len(changes(out)) - len(mended))
    held_out = (data / "test.jsonl").read_text().count("\n")
    assert fixed["kept"] + fixed["mended"] == len(written) - 1 + held_out
    for change in mended:
        for edit in change["edits"]:
            assert edit["done"].startswith("removed turn") or edit["before"] != edit["after"]
            assert KINDS[edit["kind"]].repair == "edit"


NOISE = ["<|im_end|>", "</s>", "\x00", "\ufffd", "\x1b[31m", "<|endoftext|>", "[INST]", " ", ""]


def garble(one: dict, fault: str, noise: str, at: int) -> None:
    """Put a fault into a record, on top of those that it has."""
    turns = one["conversations"] or []
    turn = turns[at % len(turns)] if turns else {"value": ""}
    if fault == "text":
        turn["value"] += noise + "end"
    elif fault == "blank":
        turn["value"] = noise if noise.isspace() or not noise else "\x00"
    elif fault == "pop" and turns:
        turns.pop()
    elif fault == "place":
        for each in turns:
            each["value"] = each["value"].replace("<image>\n", "")
    elif fault == "surplus":
        turn["value"] += "<image>"
    elif fault == "role":
        turn["from"] = "narrator"
    elif fault == "swap":
        turns.reverse()
    elif fault == "two":
        one["image"] = [one["image"], one["image"]]
    elif fault == "none":
        one["conversations"] = None
    elif fault == "far":
        one["image"] = "../../etc/" + noise


FAULTS = st.tuples(
    st.integers(0, 7),
    st.sampled_from("text text blank pop place surplus role swap two none far".split()),
    st.sampled_from(NOISE),
    st.integers(0, 5),
)


@settings(max_examples=40)
@given(st.lists(FAULTS, max_size=14), st.sampled_from(["train.json", "train.jsonl"]), st.booleans())
def test_whatever_is_wrong_no_error_is_left(tmp_path_factory, faults, name, held_out):
    """Faults on top of each other, and a test set that holds what some samples become once mended."""
    folder = tmp_path_factory.mktemp("set")
    records = [record(i, turns=1 + i % 3) for i in range(9)]
    clean = copy.deepcopy(records)
    for at, fault, noise, turn in faults:
        garble(records[at], fault, noise, turn)
    write_images(folder, range(9))
    source = write_records(folder / name, records)
    against = (write_records(folder / "test.json", clean[:4]),) if held_out else ()
    examined = examine(options(source, images=False, against=against))
    out = folder / "out"
    report = fix(examined, out)
    assert report.fixed["errors_left"] == []
    again = check(options(out / name, images=False, against=against, image_root=folder))
    assert [f.kind for f in again.of("error")] == []
    left = read_records(out / name)
    assert report.fixed["kept"] + report.fixed["mended"] == len(left)
    assert len({c["record"] for c in changes(out) if c["action"] == "removed"}) == 9 - len(left)
    ids = [one["id"] for one in left]
    assert ids == sorted(ids), "the order of the samples has changed"
    if not held_out:
        untouched = [one for one, sound in zip(records, clean, strict=True) if one == sound]
        assert [one for one in left if one in untouched] == untouched
    # The strict reader, which training uses, takes the copy.
    list(read_conversations(out / name, image_root=folder))


def test_a_fault_that_mending_brings_to_light(tmp_path):
    """Sample 2 differs from the test set's only by a character that --fix takes out: then it leaks."""

    def talk(number: int, question: str) -> dict:
        turns = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"Of course: {number}."},
        ]
        return {"id": str(number), "conversations": turns}

    question = (
        "Which of the planets of the solar system has the most moons, and how many are they today?"
    )
    records = [talk(i, f"{question} ({i})") for i in range(5)]
    held_out = write_records(tmp_path / "other.jsonl", [records[2]])
    records[2] = talk(2, f"{question}\x00 (2)")
    source = write_records(tmp_path / "train.json", records)
    examined = examine(options(source, against=(held_out,)))
    assert [f.kind for f in examined.report.findings] == ["control_characters"]
    report = fix(examined, tmp_path / "out")
    assert [c["action"] for c in changes(tmp_path / "out")] == ["mended", "removed"]
    assert {c["record"] for c in changes(tmp_path / "out")} == {2}
    assert [one["id"] for one in read_records(tmp_path / "out" / "train.json")] == [
        "0",
        "1",
        "3",
        "4",
    ]
    fixed = report.fixed
    assert (fixed["kept"], fixed["mended"], fixed["removed"], fixed["errors_left"]) == (4, 0, 1, [])


@pytest.mark.parametrize("model", ["tiny-sft", None])
def test_a_real_tokenizer_no_longer_finds_the_special_token(tmp_path, model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ZOO / "tiny-sft")
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special} - {"<image>"}
    source = clean_set(tmp_path, len(special) + 1)
    records = read_records(source)
    for one, token in zip(records, sorted(special), strict=False):
        one["conversations"][1]["value"] = f"I say {token} and go on, 再说{token}一次."
    write_records(source, records)
    path = str(ZOO / model) if model else None
    examined = examine(options(source, images=False, model=path))
    found = {f.kind: f.count for f in examined.report.findings}
    assert found.get("special_token_in_text", 0) == len(special)
    fix(examined, tmp_path / "out")
    ids = {tokenizer.convert_tokens_to_ids(token) for token in special}
    kept = read_records(tmp_path / "out" / "train.jsonl")
    assert len(kept) == len(records)
    for one in kept:
        for turn in one["conversations"]:
            assert not ids & set(tokenizer(turn["value"], add_special_tokens=False)["input_ids"])
    assert ids & set(tokenizer(records[0]["conversations"][1]["value"])["input_ids"])


def test_what_a_score_judged_stays_unless_asked(tmp_path):
    source = clean_set(tmp_path, 6)
    records = read_records(source)
    records[1]["conversations"][1]["value"] = (
        "I'm sorry, but as an AI language model I cannot see images."
    )
    write_records(source, records)
    examined = examine(options(source, images=False))
    assert [f.kind for f in examined.report.findings] == ["refusal"]
    fix(examined, tmp_path / "kept")
    assert (tmp_path / "kept" / "train.jsonl").read_bytes() == source.read_bytes()
    assert changes(tmp_path / "kept") == []
    fix(examined, tmp_path / "gone", semantic=True)
    assert len(read_records(tmp_path / "gone" / "train.jsonl")) == 5


def test_copied_images_make_it_stand_alone(tmp_path):
    source = clean_set(tmp_path / "data", 6)
    (tmp_path / "data" / "images" / "2.png").write_bytes(b"")
    (tmp_path / "data" / "images" / "unused.png").write_bytes(b"x")
    link = tmp_path / "data" / "images" / "5.png"
    link.rename(tmp_path / "data" / "real.png")
    link.symlink_to("../real.png")
    report = fix(examine(options(source)), tmp_path / "out", copy_images=True)
    (tmp_path / "data").rename(tmp_path / "moved")
    out = tmp_path / "out"
    assert sorted(p.name for p in (out / "images").iterdir()) == [
        "0.png",
        "1.png",
        "3.png",
        "4.png",
        "5.png",
    ]
    assert not (out / "images" / "5.png").is_symlink()
    assert report.fixed["image_root"] == str(out)
    assert check(options(out)).verdict == "clean"


def test_without_copies_the_images_are_found_from_where_it_says(tmp_path):
    source = clean_set(tmp_path / "data", 4)
    records = read_records(source)
    records[0]["conversations"].pop()
    write_records(source, records)
    beside = fix(examine(options(source)), tmp_path / "data" / "clean.jsonl")
    assert beside.fixed["log"].endswith("clean.changes.jsonl")
    assert check(options(tmp_path / "data" / "clean.jsonl")).verdict == "clean"
    away = fix(examine(options(source)), tmp_path / "away")
    assert (
        check(options(tmp_path / "away", image_root=Path(away.fixed["image_root"]))).verdict
        == "clean"
    )
    assert not list(tmp_path.glob("away/images"))


FORMATS = {
    "pairs": [
        {"image": "images/0.png", "text": "a red ring"},
        {"image": "images/1.png", "text": "a blue </s> ring"},
        {"image": "images/2.png", "text": "  "},
        {"image": "images/3.png", "caption": ["one\x00", "two"]},
    ],
    "preference": [
        {"image": "images/0.png", "prompt": "<image>\nWhat?", "chosen": "A ring.", "rejected": "A square."},
        {"image": "images/1.png", "prompt": "<image>\nWhat?", "chosen": "A ring.", "rejected": "A <|im_end|> b."},
        {"image": "images/2.png", "prompt": "<image>\nWhat?", "chosen": "", "rejected": "A square."},
        {"image": "images/3.png", "prompt": "<image>\nWhat\x00?", "chosen": "A.", "rejected": "B."},
    ],
    "pope": [
        {"question_id": 1, "image": "images/0.png", "text": "Is there a ring?", "label": "yes"},
        {"question_id": 2, "image": "images/1.png", "text": "Is there</s> a ring?", "label": "no"},
        {"question_id": 3, "image": "images/2.png", "text": "Is there a ring?", "label": "perhaps"},
        {"question_id": 4, "image": "images/3.png", "text": "Is there\x00 a ring?", "label": "yes"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_other_formats_are_cleaned_in_their_own(tmp_path, format):
    write_images(tmp_path, range(4))
    source = write_records(tmp_path / "data.jsonl", FORMATS[format])
    examined = examine(options(source))
    assert examined.report.facts["format"] == format
    report = fix(examined, tmp_path / "out")
    lines = source.read_text().splitlines()
    written = (tmp_path / "out" / "data.jsonl").read_text().splitlines()
    assert written[0] == lines[0]
    assert "< /s>" in written[1] or "< |im_end|>" in written[1]
    assert json.loads(written[2]) == json.loads(lines[3].replace("\\u0000", ""))
    assert len(written) == 3
    assert (report.fixed["kept"], report.fixed["mended"], report.fixed["removed"]) == (1, 2, 1)
    again = check(options(tmp_path / "out", image_root=tmp_path))
    assert (again.facts["format"], [f.kind for f in again.of("error")]) == (format, [])


def test_what_cannot_be_written_is_refused(tmp_path):
    write_images(tmp_path, [0])
    coco = {
        "images": [{"id": 1, "file_name": "images/0.png"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a ring"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match="COCO"):
        fix(examine(options(tmp_path / "coco.json")), tmp_path / "out")
    source = write_records(
        tmp_path / "bad.jsonl", [{**record(0), "conversations": []} for _ in range(3)]
    )
    before = fingerprint(tmp_path)
    with pytest.raises(InputError, match="No sample"):
        fix(examine(options(source, images=False)), tmp_path / "out")
    assert fingerprint(tmp_path) == {**before, ".": fingerprint(tmp_path)["."]}


def test_utf_16_becomes_utf_8(tmp_path):
    source = clean_set(tmp_path, 3)
    source.write_text(source.read_text("utf-8"), "utf-16")
    before = fingerprint(tmp_path)
    report = fix(examine(options(source)), tmp_path / "out")
    assert report.fixed["errors_left"] == []
    assert [one["id"] for one in read_records(tmp_path / "out" / "train.jsonl")] == [
        "0000",
        "0001",
        "0002",
    ]
    after = fingerprint(tmp_path)
    assert {name: after[name] for name in before if name != "."} == {
        n: v for n, v in before.items() if n != "."
    }


def test_a_killed_fix_leaves_nothing_that_looks_whole(tmp_path):
    source = clean_set(tmp_path / "data", 3)
    many = "".join(source.read_text().replace('"id": "', f'"id": "{i}-') for i in range(4_000))
    source.write_text(many)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from labs.doctors.data.check import examine; from labs.doctors.data.fix import fix\n"
        "from labs.doctors.data.options import Options\n"
        f"found = examine(Options(path=Path({str(source)!r}), images=False, workers=1))\n"
        "print('examined', flush=True)\n"
        f"fix(found, Path({str(tmp_path / 'out')!r}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"examined\n"
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".out.*/train.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = [p.name for p in tmp_path.iterdir() if p.name != "data"]
    assert not (tmp_path / "out").exists()
    assert len(left) == 1
    assert left[0].startswith(".out.")
    assert left[0].endswith(".partial")
    assert source.read_text() == many


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """The last write fails: the folder of the half copy goes with it."""
    source = clean_set(tmp_path / "data", 3)
    examined = examine(options(source, images=False))

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, InputError)):
        fix(examined, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_report_is_otherwise_the_same(tmp_path):
    source = clean_set(tmp_path, 3)
    examined = examine(options(source, images=False))
    report = fix(examined, tmp_path / "out")
    assert dataclasses.replace(report, fixed=None) == examined.report
