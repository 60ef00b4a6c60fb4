"""The diary: what a process wrote is there after it was killed, and torn texts are seen as absent."""

import itertools
import os
import signal
import subprocess
import sys
import zlib

import pytest
from live_helpers import ROOT

from labs.doctors.memory.live import diary
from labs.doctors.memory.live.diary import RING, TEXT, TEXTS, Diary, Step

WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from labs.doctors.memory.live.diary import Diary, Step
d = Diary(sys.argv[2], {"rank": 3})
d.phase("backward")
for i in range(1, 6):
    d.step(Step(i, 1000.0 + i, i * 100, i * 200, i * 300, i * 400, 5000))
d.text("sample", {"phase": "forward", "stack": [["train.py", 12, "main"]]})
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def step(i):
    return Step(i, float(i), i, i, i, i, -1)


def test_survives_sigkill(tmp_path):
    path = tmp_path / "diary-1.bin"
    done = subprocess.run([sys.executable, "-c", WRITER, str(ROOT), str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL and b"ready" in done.stdout
    pages = diary.read(str(path))
    assert pages.phase == "backward" and pages.step == 5 and pages.ended is None
    assert pages.meta == {"rank": 3} and pages.sample["stack"] == [["train.py", 12, "main"]]
    assert pages.steps[2] == Step(3, 1003.0, 300, 600, 900, 1200, 5000)


def test_the_ring_keeps_the_last_steps(tmp_path):
    book = Diary(str(tmp_path / "d"), {})
    for i in range(1, RING + 10):
        book.step(step(i))
    pages = diary.read(book.path)
    assert [s.step for s in pages.steps] == list(range(10, RING + 10))
    book.goodbye()
    assert diary.read(book.path).ended is not None
    assert os.path.getsize(book.path) == diary.SIZE


def test_a_torn_text_is_absent(tmp_path):
    book = Diary(str(tmp_path / "d"), {"rank": 0})
    book.text("sample", {"phase": "forward"})
    start, _ = TEXTS["sample"]
    book.map[start + TEXT.size] ^= 0xFF  # the kill came in the middle of the copy
    pages = diary.read(book.path)
    assert pages.sample == {} and pages.meta == {"rank": 0}


def test_what_is_too_long_is_left_out_and_says_so(tmp_path):
    book = Diary(str(tmp_path / "d"), {})
    book.text("probe", {"tensors": ["x" * 20000]})
    assert diary.read(book.path).probe["too_long"] > 20000


def test_texts_do_not_overlap():
    spans = sorted(TEXTS.values())
    assert all(a + room <= b for (a, room), (b, _) in itertools.pairwise(spans))
    assert spans[-1][0] + spans[-1][1] <= diary.RING_AT and diary.HEADER.size <= spans[0][0]
    assert zlib.crc32(b"") == 0, "an empty text would pass its checksum: length 0 means absent"


@pytest.mark.parametrize("content", [b"", b"x" * diary.SIZE, diary.MAGIC])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "d"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a diary"):
        diary.read(str(path))


def test_what_is_loaded_into_a_process_needs_nothing_else():
    """The hook's library imports only itself, torch and the standard library."""
    import ast

    from labs.doctors.memory.live.library import LIBRARY

    folder = ROOT / "labs" / "doctors" / "memory"
    for name in LIBRARY:
        for node in ast.walk(ast.parse((folder / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                room = (folder / name).parents[node.level - 1]
                stem = room.joinpath(*(node.module or "").split("."))
                wanted = (
                    [stem]
                    if stem.with_suffix(".py").exists()
                    else [stem / a.name for a in node.names]
                )
                files = {str(path.relative_to(folder)) + ".py" for path in wanted}
                assert files <= set(LIBRARY), (name, files)
                continue
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            outside = {n.split(".")[0] for n in names} - set(sys.stdlib_module_names)
            assert outside <= {"torch"}, (name, outside)
