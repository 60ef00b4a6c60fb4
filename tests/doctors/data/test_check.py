"""The check as a whole: planted faults at their places, nothing on clean data, and what is said beside."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from labs.bench import data_faults_known
from labs.bench.data_plant import plant
from labs.doctors.data.check import check, examine
from labs.doctors.data.gallery import source_of
from labs.doctors.data.options import Options
from labs.doctors.data.pictures import pictures_of
from labs.doctors.data.report import build
from labs.doctors.data.report.thumbnails import UNSEEN
from labs.doctors.data.text.collect import lower_edge, upper_edge
from labs.errors import InputError
from labs.models.places import ZOO
from tests.doctors.data.images_helpers import picture
from tests.doctors.data.sets import clean_set, read_records, record, write_images, write_records


def options(path: Path, **settings) -> Options:
    return Options(path=path, **{"workers": 1, **settings})


def kinds(report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def lines(report, kind: str) -> list[tuple[str, int]]:
    [finding] = [f for f in report.findings if f.kind == kind]
    return [(example.file, example.line) for example in finding.examples]


def test_clean_data_are_clean(tmp_path):
    report = check(options(clean_set(tmp_path)))
    assert (report.verdict, report.findings) == ("clean", [])
    facts = report.facts
    assert (facts["samples"], facts["turns"], facts["images"], facts["distinct_images"]) == (
        12,
        24,
        12,
        12,
    )
    assert facts["format"] == "llava"
    assert facts["bytes"] == (tmp_path / "train.jsonl").stat().st_size
    assert facts["image_files"]["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("images/*"))
    assert {h.name: h.total for h in report.histograms} == {
        "turns": 12, "images": 12, "characters": 12,
        "image_width": 12, "image_height": 12, "image_shape": 12, "image_area": 12,
    }  # fmt: skip
    unchecked = " ".join(report.unchecked)
    for gap in ("--model", "--against", "--clip"):
        assert gap in unchecked


KNOWN = set(data_faults_known.VARIANTS) - {"answer_cut_off", "wrong_caption", "low_clip_score"}


def test_planted_faults_are_found_where_they_are(tmp_path):
    variants = {kind: ways for kind, ways in data_faults_known.VARIANTS.items() if kind in KNOWN}
    truth = plant(tmp_path, variants, samples=160, share=0.3, test=20, seed=5)
    examined = examine(options(tmp_path))
    hits = examined.survey.tally.hits
    missed = [
        fault for fault in truth
        if fault.kind != "near_duplicate_image"
        and not hits.get(("train.jsonl", fault.line - 1))
    ]  # fmt: skip
    assert missed == []
    faulty = {fault.line for fault in truth}
    clean = [place for place in hits if place[0] == "train.jsonl" and place[1] + 1 not in faulty]
    assert clean == []
    assert {kind for kind in KNOWN if kind in kinds(examined.report)} >= KNOWN - {
        "near_duplicate_image"
    }
    severities = [f.severity for f in examined.report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)


def test_a_picture_is_opened_once_and_told_of_at_every_sample(tmp_path):
    """Five samples share one broken picture; three more show one that EXIF turns."""
    write_images(tmp_path, range(4))
    broken, turned = tmp_path / "images" / "0.png", tmp_path / "images" / "turned.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9).save(turned, exif=exif)
    records = [record(i, f"images/{i % 4}.png" if i % 4 else "images/0.png") for i in range(4)]
    records += [record(i, "images/0.png") for i in range(4, 8)]
    records += [record(i, "images/turned.jpg") for i in range(8, 11)]
    seen = []
    report = check(
        options(write_records(tmp_path / "train.json", records)), lambda *told: seen.append(told)
    )
    found = {f.kind: f for f in report.findings}
    assert found["truncated_image"].count == found["truncated_image"].samples == 5
    assert [e.record for e in found["truncated_image"].examples] == [0, 4, 5, 6, 7]
    assert found["truncated_image"].examples[1].id == "0004"
    assert found["truncated_image"].share == 5 / 11
    assert (found["exif_rotated"].count, found["exif_rotated"].samples) == (1, 3)
    opened = [done for stage, done, _ in seen if stage == "images"]
    assert max(opened) == 5
    assert "5 of 5" in dict(report.checked)["images"]


def test_the_same_pixels_in_other_bytes_are_the_same_picture(tmp_path):
    train = clean_set(tmp_path / "here", 10)
    write_images(tmp_path / "there", range(20, 24))
    with Image.open(tmp_path / "here" / "images" / "3.png") as image:
        image.save(tmp_path / "there" / "images" / "x.png", compress_level=0)
    held_out = [record(i) for i in range(20, 24)] + [record(30, "images/x.png")]
    test = write_records(tmp_path / "there" / "test.jsonl", held_out)
    report = check(options(train, against=(test,)))
    assert kinds(report) == {"leaked_image": 1}
    assert lines(report, "leaked_image") == [("train.jsonl", 4)]


def test_other_splits_by_name_and_by_option(tmp_path):
    train = clean_set(tmp_path / "here", 10)
    write_images(tmp_path / "there", range(20, 24))
    shutil.copyfile(tmp_path / "here" / "images" / "3.png", tmp_path / "there" / "images" / "x.png")
    nearly = picture(5)
    nearly.putpixel((3, 3), (1, 2, 3))
    nearly.save(tmp_path / "there" / "images" / "y.png")
    held_out = [record(i) for i in range(20, 24)] + [
        record(30, "images/x.png"),
        record(31, "images/y.png"),
    ]
    test = write_records(tmp_path / "there" / "test.jsonl", held_out)
    report = check(options(train, against=(test,)))
    assert kinds(report) == {"leaked_image": 1, "leaked_near_duplicate": 1}
    assert lines(report, "leaked_image") == [("train.jsonl", 4)]
    assert lines(report, "leaked_near_duplicate") == [("train.jsonl", 6)]
    # The other way round, and as two files of one folder.
    assert lines(check(options(test, against=(train,))), "leaked_image") == [("test.jsonl", 5)]
    for name in ("x", "y"):
        (tmp_path / "there" / "images" / f"{name}.png").rename(
            tmp_path / "here" / "images" / f"{name}.png"
        )
    write_images(tmp_path / "here", range(20, 24))
    test.rename(tmp_path / "here" / "test.jsonl")
    report = check(options(tmp_path / "here"))
    assert kinds(report) == {"leaked_image": 1, "leaked_near_duplicate": 1}
    assert lines(report, "leaked_image") == [("train.jsonl", 4)]
    assert report.facts["splits"] == {"train": 10, "test": 6}


def test_pictures_inside_the_records_are_looked_at(tmp_path):
    records = []
    for i in range(4):
        write_images(tmp_path, [i])
        data = (tmp_path / "images" / f"{i}.png").read_bytes()
        data = data[:-30] if i == 2 else data
        records.append(record(i, "data:image/png;base64," + base64.b64encode(data).decode()))
    report = check(options(write_records(tmp_path / "train.jsonl", records)))
    assert kinds(report) == {"truncated_image": 1}
    assert lines(report, "truncated_image") == [("train.jsonl", 3)]


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_processes_changes_nothing(tmp_path, workers):
    plant(tmp_path, data_faults_known.VARIANTS, samples=90, share=0.3, test=10, seed=2)
    one, many = (check(options(tmp_path, workers=n)).to_json() for n in (1, workers))
    assert one == many


def test_what_is_not_opened_is_said(tmp_path):
    path = clean_set(tmp_path, 3)
    (tmp_path / "images" / "1.png").write_bytes(b"")
    report = check(options(path, images=False))
    assert kinds(report) == {}
    assert "No picture was opened: --no-images was given." in report.unchecked
    report = check(options(path, near_duplicates=False))
    assert kinds(report) == {"empty_image": 1}
    assert any("--no-near-duplicates" in sentence for sentence in report.unchecked)


def test_nothing_outside_the_folder_is_opened(tmp_path):
    """Neither checked nor shown on the page, by whatever way the path leads out."""
    path = clean_set(tmp_path / "data", 5)
    secret = tmp_path / "secret.png"
    picture(99).save(secret)
    (tmp_path / "data" / "images" / "link.png").symlink_to(secret)
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    outward = [
        "../secret.png",
        str(secret),
        "images/link.png",
        "out/secret.png",
        "images/../../secret.png",
    ]
    records = [record(i, image) for i, image in enumerate(outward)] + [
        record(5, "https://x.org/a.png")
    ]
    examined = examine(options(write_records(path, records)))
    assert kinds(examined.report) == {"unsafe_path": 5, "web_address": 1}
    assert examined.gallery.opened == 0
    table = examined.survey.images
    assert [source_of(examined.survey, table, n) for n in range(len(table))] == [None] * 6
    shown = pictures_of(examined, lambda stage, done, total: None)
    assert {words for several in shown.values() for words in several} == {
        UNSEEN["unsafe_path"],
        UNSEEN["web_address"],
    }
    assert len(shown) == 6


def test_the_page_shows_the_picture_that_a_finding_is_about(tmp_path):
    path = clean_set(tmp_path, 6)
    records = read_records(path)
    records[1]["conversations"].pop()
    write_records(path, records)
    (tmp_path / "images" / "2.png").write_bytes(b"")
    nearly = picture(3)
    nearly.putpixel((5, 5), (0, 0, 0))
    nearly.save(tmp_path / "images" / "4.png")
    examined = examine(options(path))
    assert kinds(examined.report) == {"empty_image": 1, "no_answer": 1, "near_duplicate_image": 1}
    shown = pictures_of(examined, lambda stage, done, total: None)
    assert shown["empty_image", 0] == [UNSEEN["empty_image"]]
    for key, numbers in {("no_answer", 0): [1], ("near_duplicate_image", 0): [3, 3]}.items():
        urls = shown[key]
        assert len(urls) == len(numbers)
        for url, number in zip(urls, numbers, strict=True):
            small = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
            difference = ImageChops.difference(small, picture(number))
            assert max(ImageStat.Stat(difference).mean) < 15, (
                "another picture (two of them differ by 60 and more)"
            )
    assert pictures_of(examine(options(path, images=False)), lambda *_: None) == {}


def test_images_that_are_all_elsewhere(tmp_path):
    path = clean_set(tmp_path, 6)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    report = check(options(path))
    assert kinds(report) == {"missing_image": 6}
    assert any("6 of 6" in s and "--image-root" in s for s in report.unchecked)
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "root" / "images")
    assert check(options(path, image_root=tmp_path / "root")).verdict == "clean"


def test_with_a_model_and_a_clip_model(tmp_path):
    path = clean_set(tmp_path, 24)
    records = [record(i, turns=40 if i == 7 else 1) for i in range(24)]
    for i, one in enumerate(records):
        one["conversations"][0]["value"] = "<image>\nDescribe the image."
        one["conversations"][1]["value"] = f"{i} soft blobs of many colours beside each other."
    write_records(path, records)
    report = check(
        options(path, model=str(ZOO / "tiny-sft"), max_length=120, clip=str(ZOO / "tiny-clip"))
    )
    assert lines(report, "later_answer_cut_off") == [("train.jsonl", 8)]
    tokens = next(h for h in report.histograms if h.name == "tokens")
    assert tokens.total == 24
    lengths = report.facts["tokens"]
    assert lengths["median"] <= lengths["p95"] <= lengths["p99"] <= lengths["longest"]
    assert lengths["longest"] > 120 > lengths["median"]
    assert 0 < report.facts["filled_without_packing"] <= 1
    said = dict(report.checked)
    assert "max_length 120" in said["tokens"]
    assert re.match(r"2[34] scored; threshold -?0\.\d+", said["texts against pictures, by CLIP"])
    assert report.unchecked == [
        s for s in report.unchecked if "--model" not in s and "--clip" not in s
    ]


@pytest.mark.parametrize("wanted", [1, 7, 50])
def test_examples_are_as_many_as_wanted(tmp_path, wanted):
    records = [record(i) for i in range(60)]
    for one in records:
        one["conversations"].pop()
    report = check(
        options(write_records(tmp_path / "a.jsonl", records), images=False, examples=wanted)
    )
    found = {f.kind: f for f in report.findings}
    assert (found["no_answer"].count, len(found["no_answer"].examples)) == (60, wanted)


@pytest.mark.parametrize("make", ["empty folder", "no data", "binary", "empty file", "missing"])
def test_what_is_no_data_set_is_refused_in_two_sentences(tmp_path, make):
    path = tmp_path / "x"
    if make == "empty folder":
        path.mkdir()
    elif make == "no data":
        path = write_records(tmp_path / "x.json", [{"a": 1}, {"a": 2}])
    elif make == "binary":
        path.write_bytes(bytes(range(256)) * 40)
    elif make == "empty file":
        path.touch()
    with pytest.raises(InputError) as refused:
        check(options(path))
    for sentence in (refused.value.what, refused.value.do):
        assert sentence.rstrip()[-1] in ".!?"
        assert len(sentence) < 300


@pytest.mark.parametrize("top", [3, 23, 31, 40, 1000, 1_000_000])
def test_histograms_lose_nothing_and_overlap_nowhere(top):
    values = [*range(min(top, 60)), top, top // 2, top // 3]
    counts: dict[int, int] = {}
    for value in values:
        counts[lower_edge(value)] = counts.get(lower_edge(value), 0) + 1
    made = build.histogram("turns", counts, upper_edge)
    assert made.total == len(values)
    assert len(made.bins) <= build.BARS
    for (_, end, _), (start, _, _) in zip(made.bins, made.bins[1:], strict=False):
        assert start == end + 1
    for low, high, count in made.bins:
        assert count == sum(low <= value <= high for value in values)


def test_lengths_are_percentiles_within_a_sixteenth():
    values = sorted([i * i % 9973 for i in range(1, 2000)])
    counts: dict[int, int] = {}
    for value in values:
        counts[lower_edge(value)] = counts.get(lower_edge(value), 0) + 1
    told = build.lengths(counts, upper_edge)
    for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("longest", 1.0)):
        exact = values[int(share * len(values)) - (share == 1.0)]
        assert exact <= told[name] <= exact * 17 / 16 + 1
    assert told["mean"] == pytest.approx(sum(values) / len(values), rel=0.04)


def test_the_report_is_plain_json(tmp_path):
    report = check(options(clean_set(tmp_path, 3)))
    assert json.loads(report.to_json())["facts"] == json.loads(json.dumps(report.facts))
