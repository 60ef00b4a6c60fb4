"""Pictures that bomb, hang or kill: each is told about, the others are still done, nothing is left."""

import base64
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from labs.doctors.data.images import check_images, process, unavailable
from labs.doctors.data.images.pool import LARGEST
from labs.errors import InputError
from labs.formats import load_image
from tests.doctors.data.images_helpers import (
    check,
    encoded,
    endless_jpeg,
    kinds,
    options,
    picture,
    png,
    verdict_of_child,
)


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


OTHERS: set[int] = set()  # children that other tests' fixtures keep: a browser, the grading server


def own_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.pid not in OTHERS]


@pytest.fixture(autouse=True)
def leaves_nothing():
    """No child is left, not even as a zombie, and no pipe or file is open, however a test ends."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children())
    before = open_files()
    yield
    assert own_children() == []
    assert open_files() == before


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = write(tmp_path / "bomb.png", png(30_000, 30_000))
    assert path.stat().st_size < 3_000_000  # would be 2.7 GB
    began = time.process_time()
    (problem,) = verdict_of_child(path).problems
    assert problem.kind == "image_too_large"
    assert problem.detail == "30000 x 30000 pixels, above the limit of 100,000,000"
    assert time.process_time() - began < 1
    with pytest.raises(InputError):
        load_image(path)
    small = write(tmp_path / "small.png", png(200, 100))
    assert kinds(verdict_of_child(small, max_pixels=20_000)) == []
    assert kinds(verdict_of_child(small, max_pixels=19_999)) == ["image_too_large"]


def test_beyond_pillows_own_limit_the_options_limit_holds(tmp_path):
    path = write(tmp_path / "large.png", png(14_000, 14_000))  # 196 million; Pillow stops at 179
    assert kinds(verdict_of_child(path, max_pixels=195_999_999)) == ["image_too_large"]
    limits = {"max_pixels": 196_000_000, "image_memory_mb": 50}  # refused later, for its memory
    assert kinds(verdict_of_child(path, **limits)) == ["image_too_slow"]


def test_decoding_within_a_limit_of_memory(tmp_path):
    path = write(tmp_path / "a.png", png(6_000, 6_000))  # 144 MB as Pillow holds it
    (problem,) = verdict_of_child(path, image_memory_mb=100).problems
    assert problem.kind == "image_too_slow" and "limit of 100 MB" in problem.detail
    assert kinds(verdict_of_child(path, image_memory_mb=300)) == []


def test_a_decoder_that_calls_lack_of_memory_damage(tmp_path):
    """libjpeg says "broken": a progressive picture's coefficients did not fit."""
    large = picture(0, (4_000, 3_000), grain=100)
    path = write(tmp_path / "a.jpg", encoded(large, "JPEG", progressive=True, subsampling=0))
    (problem,) = verdict_of_child(path, image_memory_mb=50).problems
    assert problem.kind == "image_too_slow" and "limit of 50 MB" in problem.detail
    assert kinds(verdict_of_child(path, image_memory_mb=400)) == []


def test_the_limit_of_memory_is_that_of_each_picture(tmp_path):
    """Many pictures in one child, each just within it: nothing adds up."""
    path = write(tmp_path / "a.png", png(3_000, 3_000))  # 36 MB
    items = [(number, path) for number in range(8)]
    for _, answer in check_images(items, options(image_memory_mb=70, near_duplicates=False)):
        assert answer.problems == []


def test_a_decoder_that_does_not_come_back(tmp_path):
    sound = [write(tmp_path / f"{i}.jpg", encoded(picture(i), "JPEG")) for i in range(9)]
    endless = write(tmp_path / "endless.jpg", endless_jpeg())
    assert endless.stat().st_size < 1_000_000  # half a minute or more of decoding
    began = time.monotonic()
    answers = check([*sound[:4], endless, *sound[4:]], image_seconds=1.5)
    assert time.monotonic() - began < 20
    (problem,) = answers.pop(str(endless)).problems
    assert problem.kind == "image_too_slow" and "limit of 1.5 seconds" in problem.detail
    assert all(answer.problems == [] for answer in answers.values())


def test_several_that_hang_with_several_children(tmp_path):
    sound = [write(tmp_path / f"{i}.jpg", encoded(picture(i), "JPEG")) for i in range(30)]
    data = endless_jpeg()
    endless = [write(tmp_path / f"endless{i}.jpg", data) for i in range(3)]
    mixed = [*sound[:10], endless[0], endless[1], *sound[10:29], endless[2], sound[29]]
    answers = check(mixed, image_seconds=1.0, workers=2)
    slow = {name for name, answer in answers.items() if kinds(answer) == ["image_too_slow"]}
    assert slow == {str(path) for path in endless}
    assert sum(answer.problems == [] for answer in answers.values()) == 30


def children(timeout: float = 10.0) -> list[psutil.Process]:
    end = time.monotonic() + timeout
    while not (found := own_children()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def test_a_child_killed_from_outside_loses_nothing(tmp_path):
    paths = [write(tmp_path / f"{i}.png", encoded(picture(i), "PNG")) for i in range(250)]
    seen, killed = [], 0
    for name, answer in check_images(zip(paths, paths, strict=True), options(workers=2)):
        seen.append(name)
        assert answer.problems == []
        if len(seen) in (1, 40, 41, 200):
            for child in children():
                child.kill()
                killed += 1
    assert killed == 8
    assert sorted(seen) == sorted(paths)


@pytest.mark.parametrize("grain", [8, 1], ids=["short lines", "lines longer than a pipe"])
def test_a_child_stopped_from_outside_loses_nothing(monkeypatch, grain):
    monkeypatch.setattr(process, "GRACE", 0.5)
    data = encoded(picture(0, (300, 300), grain), "PNG")
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    items = [(number, url) for number in range(80)]
    seen = []
    for number, answer in check_images(items, options(image_seconds=1.0)):
        seen.append(number)
        assert answer.problems == []
        if len(seen) == 1:
            children()[0].suspend()
    assert sorted(seen) == list(range(80))


def test_a_picture_that_children_die_of_is_blamed_once_tried_again(tmp_path):
    """As when the kernel kills it for memory: each child that works on it for a second is killed."""
    endless = write(tmp_path / "endless.jpg", endless_jpeg())
    sound = [write(tmp_path / f"{i}.jpg", encoded(picture(i), "JPEG")) for i in range(5)]
    over, killed = threading.Event(), set()

    def kill():
        while not over.is_set():
            for child in own_children():
                try:
                    if child.cpu_times().user > 0.6 and child.pid not in killed:
                        killed.add(child.pid)
                        child.kill()
                except psutil.NoSuchProcess:
                    pass
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        answers = check([endless, *sound], image_seconds=60)
    finally:
        over.set()
        thread.join()
    (problem,) = answers.pop(str(endless)).problems
    assert problem.kind == "image_too_slow" and "SIGKILL" in problem.detail
    assert "1,024 MB" in problem.detail
    assert len(killed) == 2
    assert all(answer.problems == [] for answer in answers.values())


def test_each_item_once_and_progress_to_the_end(tmp_path):
    count = 3 * LARGEST + 7
    path = write(tmp_path / "a.png", encoded(picture(size=(16, 16)), "PNG"))
    told = []
    items = [(number, path) for number in range(count)]
    answers = list(check_images(items, options(workers=3), lambda *progress: told.append(progress)))
    assert sorted(number for number, _ in answers) == list(range(count))
    assert told == [("images", done, count) for done in range(1, count + 1)]
    told.clear()
    list(check_images(iter(items[:2]), options(), lambda *progress: told.append(progress)))
    assert told == [("images", 1, None), ("images", 2, None)]
    assert list(check_images([], options())) == []


def test_items_are_taken_as_they_are_needed_and_leaving_early_ends_the_children(tmp_path):
    path = write(tmp_path / "a.png", encoded(picture(size=(16, 16)), "PNG"))
    taken = 0

    def endless_items():
        nonlocal taken
        while True:
            taken += 1
            yield taken, path

    answers = check_images(endless_items(), options(workers=2))
    for _ in range(300):
        next(answers)
    assert taken < 300 + 2 * 3 * LARGEST
    assert len(children()) == 2
    answers.close()  # the fixture looks for what is left


def test_an_error_of_the_caller_ends_the_children(tmp_path):
    path = write(tmp_path / "a.png", encoded(picture(), "PNG"))

    def breaks():
        yield 1, path
        raise KeyError("the table of images is broken")

    with pytest.raises(KeyError):
        list(check_images(breaks(), options()))


def test_data_urls_larger_than_a_pipe(tmp_path):
    data = encoded(picture(0, (300, 300), grain=1), "PNG")
    assert len(data) > 200_000
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    items = [(number, url) for number in range(20)]
    answers = dict(check_images(items, options(workers=2)))
    assert sorted(answers) == list(range(20))
    assert all(answer.size == (300, 300) for answer in answers.values())


def test_names_in_no_encoding(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xe5\x9b\xbe '\n.png"
    with open(name, "wb") as file:
        file.write(encoded(picture(), "PNG"))
    assert verdict_of_child(os.fsdecode(name)).size == (96, 64)


def test_children_that_cannot_start_are_told_about(tmp_path, monkeypatch):
    """A Pillow whose libraries are missing: the parent has not imported it, the children fail."""
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('libjpeg.so.9 is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError) as error:
        verdict_of_child(tmp_path / "a.png")
    assert "end as soon as they start" in error.value.what
    assert "libjpeg.so.9 is missing" in error.value.what


def test_without_pillow_a_sentence(monkeypatch):
    assert unavailable() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "Pillow is not installed" in unavailable()
    with pytest.raises(InputError, match="Pillow is not installed"):
        list(check_images([(1, "a.png")], options()))


ORPHANED = """
import sys, time, psutil
from pathlib import Path
from labs.doctors.data.images import check_images
from labs.doctors.data.options import Options
answers = check_images([(i, sys.argv[1]) for i in range(10)], Options(path=Path("."), workers=2))
next(answers)
print(*[child.pid for child in psutil.Process().children()], flush=True)
time.sleep(60)
"""


def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path):
    sound = write(tmp_path / "a.png", encoded(picture(), "PNG"))
    command = [sys.executable, "-c", ORPHANED, str(sound)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert pids
    end = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
