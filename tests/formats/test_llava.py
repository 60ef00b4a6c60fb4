"""Reading JSON of every shape as a stream, and writing it whole or not at all."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import labs.formats.llava as llava
from labs.errors import InputError
from labs.formats import (
    Conversation,
    Turn,
    atomic_write,
    load_image,
    read_conversations,
    read_records,
    write_llava,
)


def record(i, **extra):
    return {"id": str(i), "conversations": [{"value": f"q{i} 几个？"}, {"value": f"a{i}"}], **extra}


RECORDS = [record(i) for i in range(5)]
SHAPES = {
    "list": json.dumps(RECORDS),
    "indented": json.dumps(RECORDS, indent=2, ensure_ascii=False) + "\n",
    "jsonl": "\n".join(map(json.dumps, RECORDS)),
    "jsonl with blanks": "\n\n" + "\n\n".join(map(json.dumps, RECORDS)) + "\n\n",
    "byte order mark": "\ufeff" + json.dumps(RECORDS),
    "byte order mark, jsonl": "\ufeff" + "\n".join(map(json.dumps, RECORDS)),
    "white space": " \n\t" + json.dumps(RECORDS, separators=(" , ", " : ")) + " \n",
}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(llava, "_CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_text(SHAPES[name], encoding="utf-8")
    conversations = list(read_conversations(path))
    assert [c.id for c in conversations] == list("01234")
    assert conversations[2].turns == (Turn("user", "q2 几个？"), Turn("assistant", "a2"))


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object(tmp_path, indent):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(record(0), indent=indent))
    assert len(list(read_conversations(path))) == 1


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(values=st.lists(plain, max_size=5), chunk=st.integers(1, 9), indent=st.none() | st.just(1))
def test_stream_equals_json(tmp_path_factory, values, chunk, indent):
    path = tmp_path_factory.mktemp("stream") / "list.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    before, llava._CHUNK = llava._CHUNK, chunk
    try:
        assert [value for _, value in read_records(path)] == values
    finally:
        llava._CHUNK = before


def test_stream_holds_a_window_only(tmp_path, monkeypatch):
    """A list of 4 MB is read through a window of 64 kB."""
    import tracemalloc

    monkeypatch.setattr(llava, "_CHUNK", 1 << 16)
    path = tmp_path / "long.json"
    lines = (json.dumps(record(i, note="x" * 1000)) for i in range(4000))
    path.write_text("[" + ",\n".join(lines) + "]")
    assert path.stat().st_size > 4_000_000
    tracemalloc.start()
    count = sum(1 for _ in read_conversations(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"a": 1},\n{"a": 2,}]', "line 2: bad JSON"),
        ('[{"a": 1},\n\n{"a" 2}]', "line 3: bad JSON: expecting ':' delimiter"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: bad JSON: expected a comma or the end of the list"),
        ('[{"conversations": ["q", "a"]},\n{"conversations": ["q"', "line 2: bad JSON"),
        ('[{"conversations": ["q", "a"]},\n', "line 2: bad JSON"),
        ('[{"conversations": ["q", "a"]}\n', "bad JSON: the list is cut off"),
        ('[{"conversations": ["q", "a"]}]\n\nmore', "line 3: bad JSON: text after the end"),
        ('{"conversations": ["q", "a"]}\n{"conv', "line 2: bad JSON"),
        ('{"a": }\n{"a": 1}', "line 1: bad JSON"),
        ('{\n"a": 1,\n"b" 2}', "line 3: bad JSON"),
        ("just text", "line 1: bad JSON"),
        ("[]", "the data set is empty"),
        (" [ \n ] ", "the data set is empty"),
        ("\n \n", "the data set is empty"),
        ("", "zero bytes"),
        ("<!DOCTYPE html><html>", "is an HTML page, not the file itself"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "is a Git-LFS pointer"),
        (
            '[{"conversations": ["q", "a"]}, {"conversations": []}]',
            "record 2: the conversation is e",
        ),
        (
            '{"conversations": ["q", "a"]}\n\n{"conversations": []}',
            "line 3: the conversation is em",
        ),
    ],
)
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_mistakes(tmp_path, monkeypatch, text, sentence, chunk):
    monkeypatch.setattr(llava, "_CHUNK", chunk)
    path = tmp_path / "data.json"
    path.write_text(text)
    read = read_records if text.startswith(('[{"a"', '{"a"', '{\n"a"')) else read_conversations
    with pytest.raises(InputError) as error:
        list(read(path))
    assert sentence in error.value.what
    assert str(path) in error.value.what


def test_not_utf8_and_missing(tmp_path):
    path = tmp_path / "data.json"
    path.write_bytes('[{"conversations": ["qué"]}]'.encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        list(read_conversations(path))
    with pytest.raises(InputError, match=r"data file .*none.json does not exist"):
        read_conversations(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder, where one data file was expected"):
        read_conversations(tmp_path)


def with_image(tmp_path, image, **options):
    (tmp_path / "set").mkdir(exist_ok=True)
    path = tmp_path / "set" / "data.json"
    path.write_text(json.dumps([{"image": image, "conversations": ["<image>", "a"]}]))
    return next(read_conversations(path, **options)).images[0]


def test_images_lie_under_the_folder(tmp_path):
    assert with_image(tmp_path, "a/b.jpg") == str(tmp_path / "set" / "a" / "b.jpg")
    assert with_image(tmp_path, "a/../b.jpg") == str(tmp_path / "set" / "b.jpg")
    inside = str(tmp_path / "set" / "c.jpg")
    assert with_image(tmp_path, inside) == inside
    other = with_image(tmp_path, "a.jpg", image_root=tmp_path / "pictures")
    assert other == str(tmp_path / "pictures" / "a.jpg")


@pytest.mark.parametrize("image", ["../secret.png", "a/../../secret.png", "/etc/hostname"])
def test_a_path_that_leaves_the_folder(tmp_path, image):
    with pytest.raises(InputError, match=r"record 1: the image path .* leaves the data folder"):
        with_image(tmp_path, image)


def test_a_folder_whose_name_only_begins_alike(tmp_path):
    with pytest.raises(InputError, match="leaves the data folder"):
        with_image(tmp_path, "../set2/a.png")


def test_a_link_that_leaves_the_folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "set" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "set" / "file.png").symlink_to(tmp_path / "outside" / "a.png")
    for image in ("folder/a.png", "file.png"):
        with pytest.raises(InputError, match="leaves the data folder"):
            with_image(tmp_path, image)
        assert with_image(tmp_path, image, follow_links=True).endswith(image)


def test_web_addresses_are_not_fetched(tmp_path):
    with pytest.raises(InputError, match="is a web address"):
        with_image(tmp_path, "https://example.org/a.jpg")


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_round_trip(tmp_path, name):
    image = Image.new("RGB", (3, 2), "red")
    records = [
        {
            "id": "0",
            "image": image,
            "conversations": ["<image>\nq", "红"],
            "meta": {"task": "colour"},
        },
        {"id": "1", "conversations": [{"from": "system", "value": "s"}, "q", "a"]},
        {"id": "2", "image": [image, image], "conversations": ["<image><image>", "a"]},
    ]
    assert write_llava(records, tmp_path / "set" / name) == 3
    back = list(read_conversations(tmp_path / "set" / name))
    assert [c.id for c in back] == ["0", "1", "2"]
    assert back[0].turns == (Turn("user", "<image>\nq"), Turn("assistant", "红"))
    assert back[0].meta == {"task": "colour"}
    assert back[1].turns[0].role == "system"
    assert [len(c.images) for c in back] == [1, 0, 2]
    assert load_image(back[2].images[1]).getcolors() == [(6, (255, 0, 0))]
    # Written again from what was read: paths stay relative, so the folder can be moved.
    again = tmp_path / "set" / ("again" + name)
    write_llava(back, again)
    assert str(tmp_path) not in again.read_text()
    assert list(read_conversations(again)) == back
    first = again.read_text().lstrip("[\n")
    assert first.startswith('{"id": "0", "image"') and '"from": "human"' in first


def test_nothing_half_written(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")

    def records():
        yield record(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_llava(records(), path)
    with pytest.raises(InputError, match="record 2: the conversation is empty"):
        write_llava([record(0), {"conversations": []}], path)
    with pytest.raises(InputError, match="No conversation to write"):
        write_llava([], path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_full_disk(tmp_path):
    """The kernel's own full device behind the temporary file."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    path = tmp_path / "out.json"
    with pytest.raises(InputError, match="The disk is full"), atomic_write(path) as file:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fileno())
        os.close(full)
        file.write("x" * 100_000)
    assert os.listdir(tmp_path) == []


def test_permissions_are_the_usual_ones(tmp_path):
    (tmp_path / "usual").write_text("x")
    write_llava([Conversation("0", (), (Turn("user", "q"),))], tmp_path / "ours.json")
    modes = {(tmp_path / name).stat().st_mode for name in ("usual", "ours.json")}
    assert len(modes) == 1
