"""Shards: exchanged with `webdataset` both ways, read as tarfile reads them, and trusting nothing."""

import gzip
import importlib.util
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats.tar_members import MAX_BYTES, open_tar, read_member, walk
from labs.formats.webdataset import (
    ShardWriter,
    decode_sample,
    expand_braces,
    read_samples,
    read_shard,
    shard_counts,
    shard_paths,
    write_shards,
)

needs_webdataset = pytest.mark.skipif(
    importlib.util.find_spec("webdataset") is None, reason="webdataset is not installed"
)


def numbered(count, size=10):
    return [
        {
            "__key__": f"{i:06d}",
            "json": json.dumps({"i": i}).encode(),
            "bin": bytes([i % 256]) * size,
        }
        for i in range(count)
    ]


def plain(samples):
    return [{k: v for k, v in sample.items() if k != "__url__"} for sample in samples]


def tar(path, *members, format=tarfile.PAX_FORMAT):
    """A tar by the standard library. A member: (name, bytes), or a TarInfo."""
    with tarfile.open(path, "w", format=format) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, type, target="", **attributes):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


# Writing and reading.

keys = st.lists(
    st.text("abz019-_ é有圈", min_size=1, max_size=30).filter(lambda s: s.strip() == s),
    unique=True, min_size=1, max_size=12,
)  # fmt: skip
values = st.dictionaries(
    st.sampled_from(["jpg", "json", "txt", "seg.png", "cls"]), st.binary(max_size=1500), min_size=1
)


@given(keys, st.data())
def test_what_is_written_is_read(tmp_path_factory, keys, data):
    folder = tmp_path_factory.mktemp("shards")
    samples = [{"__key__": key, **data.draw(values)} for key in keys]
    samples[0]["__key__"] = "long/" * 25 + samples[0]["__key__"]  # needs an extended header
    count, size = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 10_240, 20_480]))
    paths = write_shards(samples, folder / "s-%03d.tar", count, size)
    assert sorted(folder.iterdir()) == paths == sorted(paths)
    assert plain(read_samples(folder)) == samples
    for path in paths:
        inside = list(read_samples(path))
        assert 1 <= len(inside) <= count
        assert path.stat().st_size <= size or len(inside) == 1
        with tarfile.open(path) as file:  # and tarfile agrees, to the last byte
            assert sum(1 for _ in file) == sum(len(s) - 2 for s in inside)
        assert path.stat().st_size % tarfile.RECORDSIZE == 0


def test_shards_are_filled_by_count_and_by_bytes(tmp_path):
    paths = write_shards(numbered(10), tmp_path / "c-%06d.tar", max_samples=4)
    assert [len(list(read_samples(p))) for p in paths] == [4, 4, 2]
    assert [p.name for p in paths] == [f"c-{i:06d}.tar" for i in range(3)]
    big = write_shards(numbered(10, 5000), tmp_path / "b-%06d.tar", max_bytes=30_720)
    sizes = [p.stat().st_size for p in big]
    # A sample takes 1,024 + 5,632 bytes: four and the end mark fill 30,720, five would not fit.
    assert [len(list(read_samples(p))) for p in big] == [4, 4, 2] and max(sizes) == 30_720
    assert plain(read_samples(tmp_path / "c-{000000..000002}.tar")) == numbered(10)
    assert plain(read_samples([tmp_path / "c-000002.tar", tmp_path / "c-000000.tar"])) == [
        *numbered(10)[8:], *numbered(10)[:4]
    ]  # fmt: skip


def test_the_same_samples_make_the_same_bytes(tmp_path):
    one = write_shards(numbered(5), tmp_path / "a-%d.tar")
    two = write_shards(numbered(5), tmp_path / "b-%d.tar")
    assert one[0].read_bytes() == two[0].read_bytes()


def test_a_shard_is_there_whole_or_not_at_all(tmp_path):
    with (
        pytest.raises(KeyError),
        ShardWriter(tmp_path / "s-%d.tar", 3, index=tmp_path / "i.json") as w,
    ):
        for sample in numbered(8):
            w.write(sample)
            if sample["__key__"] == "000004":
                assert [p.name for p in tmp_path.glob("s-*.tar")] == ["s-0.tar"]
                raise KeyError("in the middle")
    assert [p.name for p in tmp_path.iterdir()] == ["s-0.tar"]
    assert plain(read_samples(tmp_path)) == numbered(3)


def test_the_index_is_optional_and_tells_the_numbers(tmp_path):
    write_shards(numbered(7), tmp_path / "s-%d.tar", 3, index=tmp_path / "index.json")
    counts = shard_counts(tmp_path / "index.json")
    assert counts == {str(tmp_path / f"s-{i}.tar"): n for i, n in enumerate((3, 3, 1))}
    content = json.loads((tmp_path / "index.json").read_text())
    assert content["wids_version"] == 1
    assert content["shardlist"][2]["filesize"] == (tmp_path / "s-2.tar").stat().st_size
    for broken in ("", "[]", '{"shardlist": 3}', '{"shardlist": [{"url": "a"}]}'):
        (tmp_path / "bad.json").write_text(broken)
        with pytest.raises(InputError, match="is no index of shards"):
            shard_counts(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        ({"jpg": b""}, "None is no key"),
        ({"__key__": "../a", "jpg": b""}, "is no key"),
        ({"__key__": "/a", "jpg": b""}, "is no key"),
        ({"__key__": "C:a", "jpg": b""}, "is no key"),
        ({"__key__": "a.b", "jpg": b""}, "is no key"),
        ({"__key__": "__meta__/a", "jpg": b""}, "is no key"),
        ({"__key__": "a"}, "is empty"),
        ({"__key__": "a", "x/jpg": b""}, "no extension"),
        ({"__key__": "a", "JPG": b""}, "no extension"),
        ({"__key__": "a", "jpg": 3}, "a.jpg is a int"),
        ({"__key__": "a", "json": {1, 2}}, "a.json is no JSON"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, sample, sentence):
    with pytest.raises(InputError, match=sentence):
        write_shards([sample], tmp_path / "s-%d.tar")
    assert list(tmp_path.iterdir()) == []


def test_other_mistakes_of_writing(tmp_path):
    with pytest.raises(InputError, match="comes twice"):
        write_shards([*numbered(1), *numbered(1)], tmp_path / "s-%d.tar")
    with pytest.raises(InputError, match="names one file"):
        ShardWriter(tmp_path / "s.tar")
    with pytest.raises(InputError, match="at least one sample"):
        ShardWriter(tmp_path / "s-%d.tar", 0)
    with pytest.raises(InputError, match="No sample"):
        write_shards([], tmp_path / "s-%d.tar")
    assert list(tmp_path.iterdir()) == []


# Values.


def test_values_by_extension(tmp_path):
    picture = Image.fromarray(np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4)
    array = np.linspace(0, 1, 6).reshape(2, 3)
    sample = {
        "__key__": "圈", "json": {"问": ["有几个圆环？", 2]}, "txt": "有两个。", "cls": 7,
        "png": picture, "seg.png": picture, "npy": array, "id": "x-3", "pyd": pickle.dumps(Trap()),
    }  # fmt: skip
    write_shards([sample], tmp_path / "s-%d.tar")
    [raw] = read_samples(tmp_path)
    assert all(isinstance(v, bytes) for k, v in raw.items() if not k.startswith("__"))
    found = decode_sample(raw)
    assert found["json"] == sample["json"] and found["txt"] == "有两个。" and found["cls"] == 7
    assert found["id"] == "x-3" and found["__key__"] == "圈"
    assert np.array_equal(found["npy"], array)
    for name in ("png", "seg.png"):
        assert found[name].mode == "RGB"
        assert np.array_equal(np.asarray(found[name]), np.asarray(picture))
    assert found["pyd"] == sample["pyd"]  # bytes: never unpickled
    assert decode_sample(raw, images=False)["png"] == raw["png"]


class Trap:
    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize(
    "member",
    [
        {"json": b"{"}, {"json": b"\xff"}, {"txt": b"\xff\xfe\xff"}, {"jpg": b"no picture"}, {"png": b""},
        {"npy": b"\x93NUMPY"}, {"json": b"[" * 100_000},
    ],
)  # fmt: skip
def test_broken_values_are_named(member):
    [extension] = member
    with pytest.raises(InputError, match=rf"17\.{extension} in a\.tar"):
        decode_sample({"__key__": "17", "__url__": "a.tar", **member})


def test_a_pickle_in_an_array_and_a_cut_picture_are_refused():
    file = io.BytesIO()
    np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="npy"):
        decode_sample({"__key__": "a", "npy": file.getvalue()})
    jpeg = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(jpeg, "JPEG")
    with pytest.raises(InputError, match="damaged"):
        decode_sample({"__key__": "a", "jpg": jpeg.getvalue()[:500]})


# The same as others read.


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["file", "file", "file", "dir", "link", "long", "chinese"]),
            st.binary(max_size=1100),
        ),
        max_size=8,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.booleans(),
)
def test_members_are_those_that_tarfile_finds(tmp_path_factory, members, format, packed):
    folder = tmp_path_factory.mktemp("tars")
    entries = []
    for i, (kind, data) in enumerate(members):
        if kind == "dir":
            entries.append(special(f"d{i}", tarfile.DIRTYPE))
        elif kind == "link":
            entries.append(special(f"l{i}.jpg", tarfile.SYMTYPE, "d0"))
        else:
            stem = {"file": "", "long": "sub/" * 30 + "x" * 60, "chinese": "圈/有"}[kind]
            entries.append((f"{stem}{i}.jpg", data))
    path = tar(folder / "t.tar", *entries, format=format)
    with tarfile.open(path) as file:
        expected = [(m.name, m.offset_data, m.size) for m in file if not m.isdir()]
        bodies = [file.extractfile(m).read() for m in file if m.isreg()]
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    file, size = open_tar(path)
    with file:
        found, read = [], []
        for member in walk(file, path, size):
            found.append((member.name, member.offset, member.size))
            if member.problem is None:
                read.append(read_member(file, member, path))
    assert found == expected and read == bodies


@needs_webdataset
def test_webdataset_reads_what_is_written_here(tmp_path):
    import webdataset

    samples = numbered(25)
    for i, sample in enumerate(samples):
        sample["txt"] = f"有 {i} 个".encode()
    samples[3]["__key__"] = "有/圈"
    samples[4]["__key__"] = "d/" * 60 + "deep"
    paths = write_shards(samples, tmp_path / "s-%06d.tar", 10)
    assert len(paths) == 3
    dataset = webdataset.WebDataset(str(tmp_path / "s-{000000..000002}.tar"), shardshuffle=False)
    found = [
        {k: v for k, v in s.items() if k not in ("__url__", "__local_path__")} for s in dataset
    ]
    assert found == samples
    decoded = webdataset.WebDataset([str(p) for p in paths], shardshuffle=False).decode()
    assert [s["json"]["i"] for s in decoded] == list(range(25))


@needs_webdataset
def test_what_webdataset_writes_is_read_here(tmp_path):
    import webdataset

    picture = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    with webdataset.ShardWriter(str(tmp_path / "w-%06d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write(
                {"__key__": f"{i:04d}", "png": picture, "json": {"i": i}, "txt": "圆环", "cls": i}
            )
    found = [decode_sample(s) for s in read_samples(tmp_path / "w-{000000..000002}.tar")]
    assert [s["__key__"] for s in found] == [f"{i:04d}" for i in range(10)]
    assert [s["cls"] for s in found] == [s["json"]["i"] for s in found] == list(range(10))
    assert found[9]["txt"] == "圆环" and np.array_equal(np.asarray(found[9]["png"]), picture)
    # And sample by sample what it reads itself.
    reader = webdataset.WebDataset(str(tmp_path / "w-{000000..000002}.tar"), shardshuffle=False)
    theirs = [
        {k: v for k, v in s.items() if k not in ("__url__", "__local_path__")} for s in reader
    ]
    assert plain(read_samples(tmp_path)) == theirs


@needs_webdataset
@given(st.lists(st.text("a.b_/X", min_size=1, max_size=8), min_size=1, max_size=6))
def test_names_are_taken_apart_as_webdataset_does(tmp_path_factory, names):
    import webdataset

    names = [name for name in dict.fromkeys(names) if ".." not in name and not name.startswith("/")]
    names = [name for name in names if name.strip("/") == name]
    path = tar(tmp_path_factory.mktemp("n") / "t.tar", *[(name, b"x") for name in names])
    try:
        theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    except ValueError:  # one member of a sample twice
        assert any(s.problem == "duplicate_member" for s in read_shard(path))
        return
    theirs = [
        {k: v for k, v in s.items() if k not in ("__url__", "__local_path__")} for s in theirs
    ]
    try:
        assert plain(read_samples(path)) == theirs
    except InputError as error:  # pieces of one sample apart: there two samples, here an error
        assert "stand apart" in str(error)
        assert len({s["__key__"] for s in theirs}) < len(theirs)


def test_names_that_are_passed_over(tmp_path):
    names = ["a.jpg", "README", "__meta__/x.json", "__index__", "._a.jpg", "b/c.D.PNG"]
    path = tar(tmp_path / "t.tar", *[(n, b"x") for n in names], special("b", tarfile.DIRTYPE))
    assert plain(read_samples(path)) == [
        {"__key__": "a", "jpg": b"x"}, {"__key__": "b/c", "d.png": b"x"}
    ]  # fmt: skip


def test_gzip(tmp_path):
    [path] = write_shards(numbered(5, 3000), tmp_path / "s-%d.tar")
    (tmp_path / "p-0.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert plain(read_samples(tmp_path / "p-0.tar.gz")) == numbered(5, 3000)
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(path.read_bytes())[:-40])
    with pytest.raises(InputError, match="cut off"):
        list(read_samples(tmp_path / "cut.tar.gz"))


def test_reading_put_off_gives_the_same(tmp_path):
    [path] = write_shards(numbered(6, 3000), tmp_path / "s-%d.tar")
    put_off = list(read_shard(path, load=lambda: False))
    assert all(sample.data is None for sample in put_off)
    assert plain(s.read() for s in reversed(put_off)) == numbered(6, 3000)[::-1]


# Hostile shards.


def hostile():
    yield special("b.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link"
    yield special("b.jpg", tarfile.LNKTYPE, "a.jpg"), "link"
    yield special("b.jpg", tarfile.CHRTYPE, devmajor=1, devminor=5), "device"
    yield special("b.jpg", tarfile.FIFOTYPE), "device"
    yield special("b.jpg", b"Z"), "unknown_type"
    yield ("/b.jpg", b"x"), "unsafe_name"
    yield ("../b.jpg", b"x"), "unsafe_name"
    yield ("a/../../b.jpg", b"x"), "unsafe_name"
    yield ("b\\..\\..\\c.jpg", b"x"), "unsafe_name"
    yield ("C:/b.jpg", b"x"), "unsafe_name"
    yield ("b.jpg", bytes(5000)), "too_large"
    info = special("b.jpg", tarfile.REGTYPE, pax_headers={"GNU.sparse.realsize": "99999999999"})
    yield info, "sparse"


@pytest.mark.parametrize(("member", "reason"), list(hostile()))
def test_a_hostile_member_spoils_its_sample_and_no_other(tmp_path, member, reason, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tar(tmp_path / "t.tar", ("a.jpg", b"1"), member, ("c.jpg", b"3"))
    skipped = []
    found = list(read_samples(path, max_bytes=4096, on_skip=skipped.append))
    assert [s["__key__"] for s in found] == ["a", "c"]
    assert [s.problem for s in skipped] == [reason]
    with pytest.raises(InputError, match="which is"):
        list(read_samples(path, max_bytes=4096))
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "t.tar"]


def test_one_bad_member_takes_its_whole_sample(tmp_path):
    link = special("b.txt", tarfile.SYMTYPE, "a.txt")
    path = tar(tmp_path / "t.tar", ("b.jpg", b"2"), link, ("b.json", b"{}"), ("c.jpg", b"3"))
    skipped = []
    assert [s["__key__"] for s in read_samples(path, on_skip=skipped.append)] == ["c"]
    assert len(skipped) == 1 and skipped[0].detail == "b.txt"
    with pytest.raises(InputError, match=r"'b.txt', which is a link"):
        skipped[0].read()


def test_two_members_of_one_name_spoil_the_sample(tmp_path):
    path = tar(tmp_path / "t.tar", ("a.jpg", b"1"), ("a.JPG", b"2"), ("b.jpg", b"3"))
    skipped = []
    assert [s["jpg"] for s in read_samples(path, on_skip=skipped.append)] == [b"3"]
    assert [(s.problem, s.detail) for s in skipped] == [("duplicate_member", "a.JPG")]
    with pytest.raises(InputError, match="a second file of the same name"):
        list(read_samples(path))


def test_a_sample_of_many_members_is_bounded_too(tmp_path):
    path = tar(tmp_path / "t.tar", *[(f"a.{i}.bin", bytes(1000)) for i in range(5)])
    skipped = []
    assert list(read_samples(path, max_bytes=4000, on_skip=skipped.append)) == []
    assert [s.problem for s in skipped] == ["too_large"] and skipped[0].data is None
    assert len(list(read_samples(path, max_bytes=5000))) == 1


def header(name="b.jpg", size=0, type=tarfile.REGTYPE, raw_size=None):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    if raw_size is not None:
        block[124:136] = raw_size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (header(size=1 << 40), r"cut off: .* at byte 1,024"),  # a terabyte that is not there
        (header(size=1 << 20), r"cut off: .* at byte 1,024"),
        (header(raw_size=b"\xff" * 12), "damaged at byte 1,024"),  # -1 byte: the walk would stand
        (header(raw_size=b"\xff" + b"\0" * 11), "damaged"),  # and far backwards
        (header(size=1 << 33, type=tarfile.XHDTYPE), "damaged"),  # a header of 8 GB
        (header(size=1 << 33, type=tarfile.GNUTYPE_LONGNAME), "damaged"),
        (b"rubbish" * 100, "damaged"),
        (b"", "cut off"),
    ],
)
def test_damage_is_named_after_the_whole_samples(tmp_path, block, sentence):
    whole = tar(tmp_path / "t.tar", ("a.jpg", b"1")).read_bytes()[:1024]
    (tmp_path / "t.tar").write_bytes(whole + block + (bytes(10240) if block else b""))
    found = []
    with pytest.raises(InputError, match=sentence):
        for sample in read_samples(tmp_path / "t.tar"):
            found.append(sample["__key__"])
    assert set(found) <= {"a"}
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress((tmp_path / "t.tar").read_bytes()))
    if sentence == "damaged" or block == b"":
        with pytest.raises(InputError, match=sentence):
            list(read_samples(tmp_path / "t.tar.gz"))


@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_sparse_file_of_the_old_kind_with_its_map(tmp_path, more):
    """GNU tar --sparse: a map in the header, and further blocks of it before the bytes."""
    block = bytearray(header("b.jpg", size=600, type=tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"00000000000\0" * 2
    block[482] = more > 0
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    maps = [bytes(504) + bytes([i < more - 1]) + bytes(7) for i in range(more)]
    rest = bytes(1024) + header("c.jpg", size=1) + b"3" + bytes(511) + bytes(1024)
    (tmp_path / "t.tar").write_bytes(bytes(block) + b"".join(maps) + rest)
    skipped = []
    assert [s["jpg"] for s in read_samples(tmp_path, on_skip=skipped.append)] == [b"3"]
    assert [s.problem for s in skipped] == ["sparse"]


@pytest.mark.parametrize("size", [b"-512", b"9" * 5000, b"x", b"", b"99999999999"])
def test_a_size_in_an_extended_header_is_believed_as_little(tmp_path, size):
    body = b"size=" + size + b"\n"
    length = len(body) + 2
    while len(b"%d " % length) + len(body) != length:
        length += 1
    record = b"%d " % length + body
    blocks = header("x", len(record), tarfile.XHDTYPE) + record + bytes(-len(record) % 512)
    blocks += header(size=1) + b"x" + bytes(511) + bytes(1024)
    (tmp_path / "t.tar").write_bytes(blocks)
    with pytest.raises(InputError, match=r"damaged|cut off|no tar"):
        list(read_samples(tmp_path / "t.tar"))


def test_a_tar_cut_anywhere_gives_whole_samples_and_says_so(tmp_path):
    [path] = write_shards(numbered(4, 700), tmp_path / "s-%d.tar")
    data, whole = path.read_bytes(), plain(read_samples(path))
    end = 4 * (1024 + 1536)
    for size in [*range(1, end, 97), *range(512, end, 512), end, end + 1, end + 511]:
        path.write_bytes(data[:size])
        found = []
        with pytest.raises(InputError, match=r"cut off"):
            for sample in read_samples(path):
                found.append(sample)
        assert plain(found) == whole[: len(found)] and len(found) <= size // 2560
    path.write_bytes(data[: end + 512])  # one block of zeros will do
    assert plain(read_samples(path)) == whole


@given(st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_is_an_input_error_or_harmless(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("d")
    path = tar(
        folder / "t.tar", ("a.json", b"[1]"), ("x" * 120 + ".jpg", b"1"), ("圈.jpg", b"2" * 600),
        special("l.jpg", tarfile.SYMTYPE, "a.json"), format=tarfile.PAX_FORMAT,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    for position, value in damage:
        data[position] = value
    path.write_bytes(data)
    try:
        for sample in read_samples(path, on_skip=lambda sample: None):
            assert sum(len(v) for k, v in sample.items() if not k.startswith("__")) <= MAX_BYTES
    except InputError as error:
        assert error.what.endswith(".") and error.do


def test_pieces_of_a_sample_that_stand_apart(tmp_path):
    path = tar(tmp_path / "t.tar", ("a.jpg", b"1"), ("b.jpg", b"2"), ("a.json", b"{}"))
    with pytest.raises(InputError, match=r"sample a stand apart .*: jpg first, json later"):
        list(read_samples(path))
    # The same key with the same extensions is another sample: two tars joined to one.
    path = tar(tmp_path / "u.tar", ("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"))
    assert [s["jpg"] for s in read_samples(path)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git-LFS pointer"),
        (b"PK\x03\x04" + bytes(600), "is no tar file"),
        (b"\x1f\x8b" + b"no gzip at all" * 100, "cut off|cannot be read|no tar"),
    ],
)
def test_what_is_no_tar(tmp_path, content, sentence):
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        list(read_samples(tmp_path / "s.tar"))


# Names of shards.


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{x,y}-{0..1}.tar", ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]),
        ("a-{2..0}.tar", ["a-2.tar", "a-1.tar", "a-0.tar"]),
        ("a-{b}.tar", ["a-{b}.tar"]),
        ("a-{}.tar", ["a-{}.tar"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names
    if importlib.util.find_spec("braceexpand"):
        import braceexpand

        assert list(braceexpand.braceexpand(pattern)) == names


def test_names_that_are_no_files_of_this_machine(tmp_path):
    for pattern in ("pipe:curl http://x/a.tar", "https://x/a.tar", "s3://b/a.tar", "PIPE:rm x"):
        with pytest.raises(InputError, match="not files of this machine"):
            shard_paths(pattern)
    with pytest.raises(InputError, match=r"3 of 3 shards are not there; the first: .*a-0\.tar"):
        shard_paths(tmp_path / "a-{0..2}.tar")
    with pytest.raises(InputError, match="stands for"):
        expand_braces("a-{0..99999999999}.tar")
    with pytest.raises(InputError, match="stands for"):
        expand_braces("{0..9999}" * 3)
    with pytest.raises(InputError, match="no shard in the folder"):
        shard_paths(tmp_path)
    with pytest.raises(InputError, match="No shard was named"):
        shard_paths([])
    (tmp_path / "odd-{0..1}.tar").write_bytes(b"x")
    assert shard_paths(tmp_path / "odd-{0..1}.tar") == [str(tmp_path / "odd-{0..1}.tar")]
