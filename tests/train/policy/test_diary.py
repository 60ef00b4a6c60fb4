"""The diary: whole lines whatever happens, a resume that forgets, TensorBoard, and reading it back."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from labs.errors import InputError
from labs.train.policy.diary import GROUPS, Diary, tag
from labs.train.policy.reading import read_diary
from labs.train.policy.series import QUANTITIES
from tests.train.policy.made_up import RUN, healthy, write

ROOT = Path(__file__).resolve().parents[3]


def picture(colour, size=(48, 48)):
    return Image.new("RGB", size, colour)


def sample(said="a red ring", **more):
    about = {"prompt": "Is there a ring?", "answer": "no", "reward": 0.5, "task": "existence"}
    return about | {"said": said, "image": picture("red")} | more


def lines(folder, name="diary.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_what_is_logged_is_read_back(tmp_path):
    diary = Diary(tmp_path / "run", run=RUN | {"root": Path("x"), "lr": math.inf})
    entry = {"step": 1, "reward": np.float32(0.5), "kl": torch.tensor(0.25), "stopped_early": True}
    diary.log(entry | {"loss": math.nan, "kl_coef": math.inf, "entropy": None})
    diary.log({"step": 2, "reward": 1}, [sample(), sample("数", image=None, answer=None)])
    read = read_diary(tmp_path / "run")  # while the run goes on
    assert read.entries[0].keys() == {"step", "reward", "kl", "stopped_early", "loss", "kl_coef"}
    assert (read.entries[0]["reward"], read.entries[0]["kl"]) == (0.5, 0.25)
    assert math.isnan(read.entries[0]["loss"]) and read.entries[0]["kl_coef"] == math.inf
    assert read.entries[1] == {"step": 2, "reward": 1.0}
    first, second = read.samples
    assert (first.step, first.prompt, first.said) == (2, "Is there a ring?", "a red ring")
    assert (first.answer, first.reward, first.task) == ("no", 0.5, "existence")
    assert first.picture == tmp_path / "run" / "samples" / "2_0.png"
    assert Image.open(first.picture).getpixel((5, 5)) == (255, 0, 0)
    assert (second.said, second.answer, second.picture) == ("数", None, None)
    assert read.run["policy"] == RUN["policy"] and read.run["root"] == "x" and not read.faults

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for name in ("diary.jsonl", "samples.jsonl"):
        for line in (tmp_path / "run" / name).read_text().splitlines():
            json.loads(line, parse_constant=refuse)
    json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=refuse)
    diary.close()
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


def test_large_pictures_are_made_smaller_and_equal_ones_are_known_again(tmp_path):
    large = picture("blue", (1200, 600))
    diary = Diary(tmp_path)
    diary.log({"step": 1}, [sample(image=large), sample(image=picture("green"))])
    diary.log({"step": 2}, [sample(image=picture("green")), sample(image=large.copy())])
    a, b, c, d = read_diary(tmp_path).samples
    assert Image.open(a.picture).size == (384, 192) and large.size == (1200, 600)
    assert a.same_picture == d.same_picture != b.same_picture == c.same_picture


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diary = Diary(None, "tensorboard", RUN)
    diary.log({"step": 1, "reward": 1.0}, [sample()])
    diary.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_step_leaves_no_report(tmp_path):
    Diary(tmp_path).close()
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(InputError, match="no entry"):
        read_diary(tmp_path)


def test_a_killed_run_leaves_every_step(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from labs.train.policy.diary import Diary\n"
        "diary = Diary(sys.argv[1])\n"
        "for step in range(1, 41):\n"
        "    said = [{'prompt': 'p', 'said': 's'}] if step == 40 else None\n"
        "    diary.log({'step': step, 'reward': step / 7}, said)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    read = read_diary(tmp_path)
    assert [e["reward"] for e in read.entries] == [s / 7 for s in range(1, 41)]
    assert len(read.samples) == 1 and not read.faults


def test_a_resumed_run_forgets_what_comes_again(tmp_path):
    diary = Diary(tmp_path)
    for step in range(1, 8):
        diary.log({"step": step, "reward": 1.0}, [sample(f"first {step}")])
    with open(tmp_path / "diary.jsonl", "ab") as file:
        file.write(b'{"step": 8, "rew')  # killed here
    diary = Diary(tmp_path, run=RUN, step=5)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        f"{s}_0.png" for s in range(1, 6)
    ]
    for step in range(6, 9):
        diary.log({"step": step, "reward": 2.0}, [sample(f"second {step}")])
    assert [(e["step"], e["reward"]) for e in lines(tmp_path)] == [
        (s, 1.0 if s < 6 else 2.0) for s in range(1, 9)
    ]
    said = [s["said"] for s in lines(tmp_path, "samples.jsonl")]
    assert said == [f"first {s}" for s in range(1, 6)] + [f"second {s}" for s in range(6, 9)]
    assert read_diary(tmp_path).run == RUN


def test_a_new_run_in_an_old_folder_keeps_the_old_diary_aside(tmp_path):
    old = Diary(tmp_path)
    old.log({"step": 1, "reward": 1.0}, [sample()])
    new = Diary(tmp_path)
    new.log({"step": 1, "reward": 2.0})
    read = read_diary(tmp_path)
    assert [e["reward"] for e in read.entries] == [2.0] and read.samples == []
    assert json.loads((tmp_path / "diary.previous.jsonl").read_text())["reward"] == 1.0
    assert list((tmp_path / "samples").iterdir()) == []


class FullDisk:
    """A file that takes ten bytes of each line, as a disk does that has no more."""

    def __init__(self, file):
        self.name, self.fileno, self.file = file.name, file.fileno, file

    def write(self, line):
        return self.file.write(line[:10])


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path):
    diary = Diary(tmp_path)
    diary.log({"step": 1, "reward": 1.0})
    before = (tmp_path / "diary.jsonl").read_bytes()
    diary.diary = FullDisk(diary.diary)
    with pytest.raises(InputError, match="cannot be written"):
        diary.log({"step": 2, "reward": 1.0})
    assert (tmp_path / "diary.jsonl").read_bytes() == before


def test_tensorboard_has_the_groups_the_texts_and_the_pictures(tmp_path):
    diary = Diary(tmp_path, "tensorboard")
    for entry in healthy(3):
        diary.log(entry, [sample("**no**\nring")])
    diary.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    scalars = set(board.Tags()["scalars"])
    assert {"reward/reward", "reward/task/count", "reward/rewards/answer", "kl/kl_coef"} <= scalars
    assert {"policy/entropy", "value/value_loss", "rollout/no_signal"} <= scalars
    assert {"speed/tokens_per_second"} <= scalars
    assert {name.split("/")[0] for name in scalars} == set(GROUPS)
    values = [event.value for event in board.Scalars("reward/reward")]
    assert values == pytest.approx([entry["reward"] for entry in healthy(3)])
    assert board.Tags()["images"] == ["samples/0"]
    text = board.Tensors("samples/0/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "\n    said: **no**\n    ring" in text


def test_tensorboard_forgets_the_lost_steps(tmp_path):
    for begin, value in ((0, 1.0), (2, 2.0)):
        diary = Diary(tmp_path, "tensorboard", step=begin)
        for step in range(begin + 1, 5):
            diary.log({"step": step, "reward": value})
        diary.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.value for e in board.Scalars("reward/reward")] == [1.0, 1.0, 2.0, 2.0]


def test_every_quantity_has_a_group():
    assert {tag(name).split("/")[0] for name in QUANTITIES} == set(GROUPS)
    assert tag("skipped/too_long") == "rollout/skipped/too_long" and tag("new") == "train/new"


# Reading what others left there.


def test_broken_lines_are_named_and_left_out(tmp_path):
    write(tmp_path, healthy(3))
    with open(tmp_path / "diary.jsonl", "ab") as file:
        file.write(
            b'{"step": 4, "reward": 0.5\n[1]\n\n{"reward": 1}\n{"step": true}\n{"step": -1}\n'
        )
        file.write(b'{"step": 5, "reward": "\xff"}\n' + b"[" * 100_000 + b"\n")
        file.write(b'{"step": 2, "reward": 9}\n{"step": 6.0, "reward": 0.25}\n{"step": 7, "rew')
    read = read_diary(tmp_path)
    assert [e["step"] for e in read.entries] == [1, 2, 3, 6]
    assert read.entries[1] == {"step": 2, "reward": 9.0}
    places = [fault.split(":")[0].rsplit(" ", 1)[1] for fault in read.faults]
    assert places == ["4", "5", "7", "8", "9", "10", "11", "12"], "the torn last line is fine"
    assert "no JSON" in read.faults[0] and "no step" in read.faults[2]
    assert "not UTF-8" in read.faults[5] and "again" in read.faults[7]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no diary.jsonl"),
        (b"", "no entry"),
        (b"{]\n{]\n", "line 1"),
        (b"<!doctype html><html>", "HTML page"),
        (b"\x80\x04pickle", "no entry"),
    ],
)
def test_what_is_no_diary_is_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "diary.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_diary(tmp_path)
    with pytest.raises(InputError, match="not there"):
        read_diary(tmp_path / "nowhere")


def test_pictures_outside_the_folder_are_not_looked_at(tmp_path):
    picture("red").save(tmp_path / "secret.png")
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "link.png").symlink_to(tmp_path / "secret.png")
    names = [
        "../secret.png", str(tmp_path / "secret.png"), "samples/link.png", "samples/../../secret.png",
        "https://example.org/x.png", "data:image/png;base64,AAAA", "a\0b", 7,
    ]  # fmt: skip
    samples = [{"step": 1, "prompt": "p", "said": "s", "image": name} for name in names]
    read = read_diary(write(folder, healthy(2), samples))
    assert len(read.samples) == len(names) and {s.picture for s in read.samples} == {None}
    assert len(read.faults) == 7


def test_a_broken_description_is_named(tmp_path):
    write(tmp_path, healthy(2), run=None)
    for content in ("[]", "{", "\ufeff", "[" * 100_000):
        (tmp_path / "run.json").write_text(content)
        read = read_diary(tmp_path)
        assert read.run == {} and len(read.faults) == 1 and "run.json" in read.faults[0]


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=30) | st.sampled_from([b'{"step": 3}\n', b"\n", b"{}\n"])))
def test_any_bytes_are_read_or_refused_in_a_sentence(tmp_path_factory, pieces):
    folder = tmp_path_factory.mktemp("run")
    content = b'{"step": 3}\n' + b"".join(pieces)
    (folder / "diary.jsonl").write_bytes(content)
    (folder / "samples.jsonl").write_bytes(content)
    read = read_diary(folder)
    assert read.entries[0]["step"] == 3
    diary = Diary(folder, step=3)
    assert len((folder / "diary.jsonl").read_bytes().splitlines()) == diary.lines >= 1
    assert not read_diary(folder).faults or diary.lines > 1
