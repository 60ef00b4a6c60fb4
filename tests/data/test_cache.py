"""The cache of pictures: the same pixels, never above its limit, shared by processes, never a pickle."""

import multiprocessing
import os
import pickle
import random
import time

import numpy as np
import pytest
from PIL import Image

from labs.data import CachedImages, ConversationDataset, StreamingLoader, stream_conversations
from labs.data.cache import resize
from labs.errors import InputError
from labs.formats import load_image
from labs.formats.webdataset import write_shards
from tests.data.conftest import get_processor, picture


def saved(folder, count=1, size=(60, 40)):
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        picture(i, size).save(path)
    return paths


def pixels(image):
    return np.asarray(image).tolist()


def kept(folder):
    """Bytes of pictures in the cache."""
    return sum(path.stat().st_size for path in folder.glob("*.rgb"))


@pytest.mark.parametrize("size", [None, 24, (17, 33)])
def test_the_same_pixels_the_first_and_the_second_time(tmp_path, size):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache", size=size)
    plain = resize(load_image(path), size)
    assert plain.size == {None: (60, 40), 24: (36, 24)}.get(size, size)
    for _ in range(3):
        found = cache.load(path)
        assert found.mode == "RGB" and pixels(found) == pixels(plain)
    assert (cache.hits, cache.misses, cache.failed) == (2, 1, 0)
    again = CachedImages(tmp_path / "cache", size=size)  # of another run
    assert pixels(again.load(str(path))) == pixels(plain) and again.hits == 1
    found.putpixel((0, 0), (1, 2, 3))  # to write into one does not change the cache
    assert pixels(cache.load(path)) == pixels(plain)


def test_known_by_path_size_time_and_target(tmp_path):
    one, two = saved(tmp_path, 2)
    cache = CachedImages(tmp_path / "cache", size=20)
    assert pixels(cache.load(one)) != pixels(cache.load(two))
    assert CachedImages(tmp_path / "cache", size=30).load(one).size == (45, 30)
    plain = tmp_path / "plain.bmp"  # of the same size in bytes, whatever it shows
    picture(8, (60, 40)).save(plain)
    before, stat = pixels(cache.load(plain)), plain.stat()
    picture(9, (60, 40)).save(plain)
    assert plain.stat().st_size == stat.st_size
    os.utime(plain, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # within one tick of the clock
    assert pixels(cache.load(plain)) == pixels(resize(load_image(plain), 20)) != before


def test_whatever_load_image_refuses_is_refused_each_time_and_not_kept(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(saved(tmp_path)[0].read_bytes()[:300])
    cache = CachedImages(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(InputError, match="truncated or damaged"):
            cache.load(tmp_path / "broken.jpg")
        with pytest.raises(InputError, match="does not exist"):
            cache.load(tmp_path / "gone.jpg")
        with pytest.raises(InputError):
            cache.load("bad\0name")
    assert kept(tmp_path / "cache") == 0 and cache.hits == 0


def test_pictures_in_memory_are_resized_and_not_kept(tmp_path):
    cache = CachedImages(tmp_path / "cache", size=(8, 8))
    assert cache.load(picture(1)).size == (8, 8)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_limit_holds_and_what_was_not_used_for_longest_goes(tmp_path):
    paths = saved(tmp_path, 12, (20, 20))
    one = 20 * 20 * 3 + 20
    cache = CachedImages(tmp_path / "cache", max_bytes=5 * one)
    for number, path in enumerate(paths, 1):
        cache.load(path)
        assert cache.misses == number
        time.sleep(0.002)
        cache.load(paths[0])  # used all the time: never gone
        assert cache.misses == number
        assert kept(tmp_path / "cache") <= 5 * one
        time.sleep(0.002)
    cache.load(paths[-1])
    assert cache.misses == 12
    cache.load(paths[1])
    assert cache.misses == 13  # gone long ago


def test_a_picture_larger_than_the_limit_is_not_kept(tmp_path):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache", max_bytes=1000)
    for _ in range(2):
        assert cache.load(path).size == (60, 40)
    assert kept(tmp_path / "cache") == 0 and cache.misses == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: data + b"x",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: b"otherfmt" + data[8:],
        lambda data: bytes(len(data)),  # what is left where the power failed
        lambda data: pickle.dumps(Trap()),
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, damage):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache")
    right = pixels(cache.load(path))
    [file] = (tmp_path / "cache").glob("*.rgb")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    same_size = file.stat().st_size == len(whole)
    assert pixels(cache.load(path)) == right and cache.hits == 0
    assert pixels(cache.load(path)) == right and cache.hits == 1
    if same_size:  # it took the place of the damaged one, and is not counted twice
        assert int((tmp_path / "cache" / "total").read_text()) == kept(tmp_path / "cache")


class Trap:
    def __reduce__(self):
        return (os.abort, ())


def test_a_lost_count_is_taken_again(tmp_path):
    paths = saved(tmp_path, 6, (20, 20))
    one = 20 * 20 * 3 + 20
    cache = CachedImages(tmp_path / "cache", max_bytes=4 * one)
    for content in (b"", b"rubbish", b"99999999999"):
        for path in paths:
            cache.load(path)
            (tmp_path / "cache" / "total").write_bytes(content)
            assert kept(tmp_path / "cache") <= 4 * one
    assert kept(tmp_path / "cache") >= 2 * one


def test_left_overs_of_a_killed_process_go(tmp_path):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache")
    old, new = (tmp_path / "cache" / name for name in ("old.tmp", "new.tmp"))
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (0, 0))
    cache.load(path)
    assert not old.exists() and new.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labs.data.cache.tempfile.mkstemp", full)
    assert cache.load(path).size == (60, 40)
    assert cache.failed == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        CachedImages(tmp_path / "file" / "cache")
    for settings in ({"max_bytes": 0}, {"size": 0}, {"size": (3, 0)}, {"size": (1, 2, 3)}):
        with pytest.raises(InputError):
            CachedImages(tmp_path / "c", **settings)


def use(folder, number, rounds, limit, hits):
    """What each process does: load at random, and compare with the file each time."""
    cache = CachedImages(folder / "cache", max_bytes=limit, size=(20, 20))
    order = random.Random(number)
    for _ in range(rounds):
        path = folder / f"{order.randrange(12)}.jpg"
        assert cache.load(path).tobytes() == resize(load_image(path), (20, 20)).tobytes()
    assert cache.failed == 0
    hits.put(cache.hits)


def test_several_processes_share_it(tmp_path):
    saved(tmp_path, 12, (40, 40))
    one = 20 * 20 * 3 + 20
    fork = multiprocessing.get_context("fork")
    hits = fork.SimpleQueue()
    children = [fork.Process(target=use, args=(tmp_path, i, 300, 7 * one, hits)) for i in range(3)]
    for child in children:
        child.start()
    highest = 0
    while any(child.is_alive() for child in children):
        try:
            highest = max(highest, kept(tmp_path / "cache"))
        except FileNotFoundError:
            pass  # went while it was looked at
        time.sleep(0.005)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sum(hits.get() for _ in children) > 100
    assert 0 < highest <= 7 * one
    left = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert left == {".rgb", ""}  # no temporary file
    assert int((tmp_path / "cache" / "total").read_text()) == kept(tmp_path / "cache")


def test_one_process_at_a_time_adds_to_it(tmp_path):
    saved(tmp_path, 12)
    cache, fork = CachedImages(tmp_path / "cache"), multiprocessing.get_context("fork")
    child = fork.Process(target=use, args=(tmp_path, 0, 1, 99_999, fork.SimpleQueue()))
    with cache._locked():
        child.start()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "cache").glob("*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert child.is_alive() and kept(tmp_path / "cache") == 0  # written, and it waits
    child.join(60)
    assert child.exitcode == 0 and kept(tmp_path / "cache") > 0


def test_pictures_of_shards_are_kept_in_workers(tmp_path):
    processor = get_processor("chatml")
    paths = saved(tmp_path, 6)
    samples = [
        {"__key__": f"{i}", "jpg": path.read_bytes(), "txt": "a ring"}
        for i, path in enumerate(paths)
    ]
    [shard] = write_shards(samples, tmp_path / "s-%d.tar")
    cache = CachedImages(tmp_path / "cache", size=(48, 48))
    plain = list(stream_conversations(shard, processor, buffer=0))
    for _ in range(2):
        stream = stream_conversations(shard, processor, buffer=0, images=cache)
        found = [b[0] for b in StreamingLoader(stream, 1, list, num_workers=1)]
        assert len(found) == 6
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 6
    size = plain[0]["pixel_values"].shape
    assert all(one["pixel_values"].shape == size for one in found)
    before = found[0]["pixel_values"]
    stat = shard.stat()
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # written again: read again
    stream = stream_conversations(shard, processor, buffer=0, images=cache)
    assert np.array_equal(next(iter(stream))["pixel_values"], before)
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 7


def test_a_data_set_in_memory_opens_its_pictures_through_it(tmp_path):
    processor = get_processor("chatml")
    paths = saved(tmp_path, 2, (48, 48))
    records = [{"image": str(p), "conversations": ["<image>\nq", "a"]} for p in paths]
    cache = CachedImages(tmp_path / "cache")
    plain = ConversationDataset(records, processor)
    cached = ConversationDataset(records, processor, images=cache)
    for _ in range(2):
        for one, other in zip(plain, cached, strict=True):
            assert one["pixel_values"].equal(other["pixel_values"])
    assert (cache.hits, cache.misses) == (2, 2)
    assert pickle.loads(pickle.dumps(cached))[0]["pixel_values"].equal(plain[0]["pixel_values"])


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    [path] = saved(tmp_path)
    cache = CachedImages(tmp_path / "cache")
    cache.load(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("labs.data.cache.os.utime", refuse)
    cache.load(path)
    assert (cache.hits, cache.misses) == (1, 1)


def test_resize_keeps_the_shape():
    wide = Image.new("RGB", (100, 50))
    assert resize(wide, 25).size == (50, 25)
    assert resize(wide, (3, 9)).size == (3, 9)
    assert resize(wide, None) is wide and resize(wide, (100, 50)) is wide
    assert resize(Image.new("RGB", (1000, 1)), 1).size == (1000, 1)
