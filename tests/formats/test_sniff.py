"""What a path holds is found out by looking: formats, splits, image folders, and odd folders."""

import ast
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.formats.sniff import sniff, split_in
from labs.formats.sniff_file import guess

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ring."}]
LLAVA = {"id": "1", "image": "a.jpg", "conversations": TURNS}
NOTE = {"note_idx": 7, "note_title": "t", "note_content": "c", "image_path": ["a.webp"]}
SEARCH = {"search_idx": 0, "query": "q", "search_result_details_with_idx": [], "search_results": []}
RECORDS = {
    "llava": [
        LLAVA,
        {"messages": [{"role": "user", "content": "hi"}], "images": ["a.jpg"]},
        {"conversation": ["a", "b"]},
    ],
    "pairs": [{"file_name": "a.jpg", "text": "a ring"}, {"image": "a.jpg", "caption": ["x", "y"]}],
    "preference": [
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"conversations": TURNS, "output_1": {}, "output_2": {}, "preference": 1},
        {"image": "a.jpg", "text": json.dumps({"question": "q", "chosen": "c", "rejected": "r"})},
    ],
    "qilin": [NOTE, SEARCH],
    "pope": [{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}],
}
COCO = {
    "info": {"images": 1},
    "licenses": [],
    "images": [{"id": 5, "file_name": "5.jpg"}],
    "annotations": [{"image_id": 5, "id": 1, "caption": "A ring."}],
}
TSV = 'index\tquestion\tA\tB\tanswer\timage\n1\t"two\nlines"\tx\ty\tA\t/9j/\n'


def write(path, value, indent=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, (str, bytes)):
        path.write_bytes(value.encode() if isinstance(value, str) else value)
    else:
        path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def shard(path, names=("1.jpg", "1.txt")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    return path


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "no_suffix", "wrong.txt"])
@pytest.mark.parametrize(
    ("format", "record"), [(f, r) for f, records in RECORDS.items() for r in records]
)
def test_records_by_their_keys(tmp_path, format, record, name):
    for value in ([record] * 3, lines(record, record), json.dumps([record], indent=2)):
        assert sniff(write(tmp_path / name, value)).format == format


def test_a_majority_decides_and_damage_does_not(tmp_path):
    text = '{"id": 1, "conv\n' + lines(LLAVA, {"x": 1}, LLAVA) + "oops\n"
    assert sniff(write(tmp_path / "a.jsonl", text)).format == "llava"
    assert sniff(write(tmp_path / "b.json", json.dumps([LLAVA])[:-20])).format == "llava"
    assert sniff(write(tmp_path / "c.jsonl", lines(LLAVA).encode("utf-16"))).format == "llava"
    assert sniff(write(tmp_path / "d.json", "\ufeff" + json.dumps([LLAVA]))).format == "llava"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["info", "annotations", "images"])
def test_coco(tmp_path, indent, key):
    value = {key: COCO[key], **COCO}
    layout = sniff(write(tmp_path / "captions.json", value, indent))
    assert layout.format == "coco"
    boxes = {**value, "annotations": [{"image_id": 5, "id": 1, "bbox": [1, 2, 3, 4]}]}
    with pytest.raises(InputError, match="COCO annotations without captions"):
        sniff(write(tmp_path / "instances.json", boxes, indent))


def test_coco_with_much_before_the_captions(tmp_path):
    value = {**COCO, "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(20_000)]}
    assert sniff(write(tmp_path / "captions.json", value)).format == "coco"


def test_tables(tmp_path):
    assert sniff(write(tmp_path / "dev.tsv", TSV)).format == "mmbench"
    assert (
        sniff(write(tmp_path / "0001.txt", "Is it a cat?\tYes\nIs it a dog?\tNo\n")).format == "mme"
    )
    answers = "1.jpg\tIs it a cat?\tYes\tNo, it is not.\n"
    assert sniff(write(tmp_path / "color.txt", answers)).format == "mme"


def test_shards(tmp_path):
    assert sniff(shard(tmp_path / "a.tar")).format == "webdataset"
    assert sniff(shard(tmp_path / "b", ["1.png", "1.json"])).format == "webdataset"
    for names, words in ((["1.jpg", "2.jpg"], "pictures without texts"), ([], "without pictures")):
        with pytest.raises(InputError, match=words):
            sniff(shard(tmp_path / "c.tar", names))


def test_parquet_by_its_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame([NOTE]).to_parquet(tmp_path / "notes.parquet")
    assert sniff(tmp_path / "notes.parquet").format == "qilin"
    pandas.DataFrame([{"a": 1}]).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="columns a"):
        sniff(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "b": 2}', "keys a, b"),
        (b"[1, 2]", "first record is a number"),
        (b"hello world", "plain text"),
        (bytes(range(256)) * 4, "binary data"),
        (b"\x1f\x8b" + b"x" * 600, "gzip archive"),
        (b"PK\x03\x04" + b"x" * 600, "zip archive"),
        (b"a\tb\n1\t2\n", "columns a, b"),
        (b'{"a', "no JSON record"),
        (b"PAR1" + b"x" * 600, "Parquet"),
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git-LFS"),
    ],
)
def test_what_is_not_known_is_named(tmp_path, content, words):
    path = write(tmp_path / "thing", content)
    with pytest.raises(InputError, match=words) as error:
        sniff(path)
    assert str(path) in str(error.value)
    path.rename(tmp_path / "thing.json")
    with pytest.raises(InputError, match=words):
        sniff(tmp_path)


@given(st.binary(max_size=300))
def test_no_bytes_make_guessing_fail(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "data"
    path.write_bytes(data)
    try:
        assert guess(path).format or guess(path).saw
    except InputError:
        pass


def test_a_missing_path(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        sniff(tmp_path / "nowhere.json")


# Folders.


def test_a_folder_with_splits(tmp_path):
    train = write(tmp_path / "llava_train.json", [LLAVA] * 9)
    write(tmp_path / "deep" / "val" / "data.jsonl", lines(LLAVA))
    write(tmp_path / "test-00.jsonl", lines(LLAVA))
    write(tmp_path / "more.json", [LLAVA])
    layout = sniff(tmp_path)
    assert layout.format == "llava" and len(layout.files) == 4
    assert {k: [f.name for f in v] for k, v in layout.splits.items()} == {
        "train": ["llava_train.json", "more.json"],
        "val": ["data.jsonl"],
        "test": ["test-00.jsonl"],
    }
    assert train in layout.files and layout.note == ""


def test_names_without_a_split(tmp_path):
    write(tmp_path / "data.json", [LLAVA])
    write(tmp_path / "latest_attrain.json", [LLAVA])
    assert sniff(tmp_path).splits == {}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2017.json", "train"), ("val.json", "val"), ("x-validation-1", "val"), ("dev", "val"),
        ("TEST.jsonl", "test"), ("latest", None), ("evaluate", None), ("contest", None), ("training", "train"),
    ],
)  # fmt: skip
def test_splits_by_name(name, split):
    assert split_in(name) == split


def test_the_largest_format_wins_and_the_rest_is_told(tmp_path):
    write(tmp_path / "train.json", [LLAVA] * 9)
    write(tmp_path / "pope.jsonl", lines(*RECORDS["pope"]))
    write(tmp_path / "config.json", {"a": 1})
    write(tmp_path / "empty.json", "")
    layout = sniff(tmp_path)
    assert [f.name for f in layout.files] == ["train.json"]
    for words in ("pope.jsonl (pope)", "config.json", "empty.json", "zero bytes"):
        assert words in layout.note


def test_hidden_files_and_loops_of_links_are_passed_over(tmp_path):
    write(tmp_path / "a" / "train.json", [LLAVA])
    write(tmp_path / ".hidden.json", [LLAVA])
    write(tmp_path / ".git" / "x.json", [LLAVA])
    os.symlink(tmp_path, tmp_path / "a" / "up")
    os.symlink("self.json", tmp_path / "self.json")
    os.symlink("gone", tmp_path / "broken.json")
    os.symlink(tmp_path / "a", tmp_path / "b")
    layout = sniff(tmp_path)
    assert [f.name for f in layout.files] == ["train.json"]


def test_folders_of_pictures_are_not_listed_to_the_end(tmp_path, monkeypatch):
    write(tmp_path / "train.json", [LLAVA])
    (tmp_path / "images").mkdir()
    for number in range(2200):
        (tmp_path / "images" / f"{number}.jpg").touch()
    seen = 0
    scandir = os.scandir

    class Counted:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            nonlocal seen
            for entry in self.entries:
                seen += 1
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    assert sniff(tmp_path).format == "llava"
    assert 2000 <= seen <= 2100


def test_one_json_beside_each_picture_is_not_read_to_the_end(tmp_path):
    write(tmp_path / "z_train.jsonl", lines(LLAVA))
    for number in range(3000):
        (tmp_path / f"{number}.json").write_text('{"width": 1}')
    began = time.perf_counter()
    assert [f.name for f in sniff(tmp_path).files] == ["z_train.jsonl"]
    assert time.perf_counter() - began < 5


def test_a_folder_of_shards(tmp_path):
    for number in range(210):
        shard(tmp_path / f"train-{number:04d}.tar")
    shard(tmp_path / "val-0000.tar")
    layout = sniff(tmp_path)
    assert layout.format == "webdataset" and len(layout.files) == 211
    assert [len(files) for files in layout.splits.values()] == [210, 1]


def test_mme_in_both_shapes(tmp_path):
    text = "Is it?\tYes\nIs it not?\tNo\n"
    write(tmp_path / "landmark" / "questions_answers_YN" / "0001.txt", text)
    write(tmp_path / "landmark" / "images" / "0001.jpg", "x")
    write(tmp_path / "OCR" / "0002.txt", text)
    write(tmp_path / "OCR" / "0002.jpg", "x")
    layout = sniff(tmp_path)
    assert layout.format == "mme" and layout.root == tmp_path
    assert [f.name for f in layout.files] == ["0002.txt", "0001.txt"]
    (tmp_path / "answers").mkdir()
    write(tmp_path / "answers" / "color.txt", "1.jpg\tIs it?\tYes\tno\n")
    assert sniff(tmp_path / "answers").format == "mme"


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no data file"):
        sniff(tmp_path)
    write(tmp_path / "a.jpg", "x")
    write(tmp_path / "readme.txt", "x")
    with pytest.raises(InputError, match="holds no data file"):
        sniff(tmp_path)


# Image folders.


def test_the_image_folder_is_where_the_images_are(tmp_path):
    path = write(tmp_path / "annotations" / "data.json", [LLAVA])
    assert sniff(path).root == path.parent
    for folder in (tmp_path, tmp_path / "annotations" / "images", tmp_path / "annotations"):
        write(folder / "a.jpg", "x")
        layout = sniff(path)
        if folder == path.parent:
            assert layout.root == path.parent and layout.note == ""
        (folder / "a.jpg").unlink()
        if folder != path.parent:
            assert layout.root == folder and str(folder) in layout.note
    assert sniff(path, tmp_path / "given").root == tmp_path / "given"


def test_nothing_above_the_given_folder_is_looked_at(tmp_path):
    write(tmp_path / "a.jpg", "x")
    write(tmp_path / "data" / "train.json", [LLAVA])
    assert sniff(tmp_path / "data").root == tmp_path / "data"


def test_a_file_in_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path / "set" / "train.json", [LLAVA])
    write(tmp_path / "a.jpg", "x")
    monkeypatch.chdir(tmp_path / "set")
    assert sniff("train.json").root == tmp_path
    write(tmp_path / "set" / "a.jpg", "x")
    assert str(sniff("train.json").root) == "."


def test_coco_splits_have_folders_of_their_own(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "annotations" / f"captions_{split}2017.json", COCO)
        write(tmp_path / f"{split}2017" / "5.jpg", "x")
    # Both files name the same picture here, which is in both folders: the first one is taken.
    layout = sniff(tmp_path)
    assert layout.format == "coco" and set(layout.splits) == {"train", "val"}
    (tmp_path / "train2017" / "5.jpg").rename(tmp_path / "train2017" / "6.jpg")
    value = {**COCO, "images": [{"id": 5, "file_name": "6.jpg"}]}
    write(tmp_path / "annotations" / "captions_train2017.json", value)
    layout = sniff(tmp_path)
    roots = [layout.root_of(file).name for file in layout.files]
    assert roots == ["train2017", "val2017"]


def test_references_that_leave_the_folder_are_not_looked_up(tmp_path):
    write(tmp_path / "secret.jpg", "x")
    record = {**LLAVA, "image": "../secret.jpg"}
    path = write(tmp_path / "data" / "images" / "train.json", [record])
    assert sniff(path).root == path.parent


# The package: names are imported when they are asked for.


def test_every_name_of_the_package_is_where_it_says():
    """Three lists of one thing: `__all__`, where each name lives, and what type checkers are told."""
    import labs.formats as package

    tree = ast.parse(Path(package.__file__).read_text())
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("labs.formats.")
        for alias in node.names
    }
    assert {name: f"labs.formats.{home}" for name, home in package._HOME.items()} == told
    assert sorted(package.__all__) == sorted(told)
    for name, module in told.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
    with pytest.raises(ImportError):
        exec("from labs.formats import nothing")


def test_importing_the_package_imports_nothing():
    code = (
        "import sys, labs.formats, labs.formats.dialects, labs.formats.sniff, labs.formats.rows;"
        "print([m for m in ('PIL', 'numpy', 'torch') if m in sys.modules]);"
        "from labs.formats import IMAGE, fields, parse_conversation; print(IMAGE, 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n<image> True\n"
