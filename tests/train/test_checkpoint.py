"""Checkpoints: the same bits after resuming, whole or not there, and every way to be wrong named."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from train_helpers import Samples, fork, quiet, weights

from labs.errors import InputError
from labs.models import build_tiny_llava
from labs.models.weights import read_weights
from labs.train import TrainConfig, TrainingInterrupted, Unfreeze, checkpoint, prepare, state, train


class Noisy(Samples):
    """Samples that draw from all three generators, as augmentation does."""

    def __getitem__(self, index):
        item = dict(self.items[index])
        factor = 1 + 0.1 * random.random() + 0.1 * np.random.rand()
        item["pixel_values"] = item["pixel_values"] * factor + 0.1 * torch.randn(1, 3, 48, 48)
        return item


def config(folder, **changes) -> TrainConfig:
    usual = {
        "output_dir": str(folder),
        "max_steps": 6,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "save_total_limit": None,
    }
    return quiet(**{**usual, **changes})


def run(folder, processor, samples, resume=None, **changes):
    model, _ = build_tiny_llava(seed=0)
    result = train(model, processor, samples, config=config(folder, **changes), resume=resume)
    return weights(model), result


@pytest.fixture(scope="module")
def noisy(processor):
    return Noisy(14, processor)


VARIANTS = {
    "full": {},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "unfreezing": {
        "trainable": {"language_model": "frozen"},
        "unfreeze": [Unfreeze(4, {"language_model": "all"})],
    },
    "lora with dropout": {"method": "lora"},
    "adalora": {"method": "adalora"},
    "bf16": {"mixed_precision": "bf16"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, processor, noisy, name):
    changes = dict(VARIANTS[name])
    if "method" in changes:
        from labs.train import LoraSettings

        changes["lora"] = LoraSettings(r=4, dropout=0.2, init_r=6)
    # 14 samples in steps of 4: step 3 lies within the first epoch, the rest crosses a border
    whole, one = run(tmp_path / "a", processor, noisy, save_steps=3, logging_steps=2, **changes)
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed, two = run(
        tmp_path / "b", processor, noisy, resume=True, save_steps=3, logging_steps=2, **changes
    )
    assert two.steps == 6
    for tensor_name in whole:
        assert torch.equal(whole[tensor_name], resumed[tensor_name]), tensor_name
    assert one.losses() == two.losses()
    assert one.losses("learning_rate") == two.losses("learning_rate")


def test_resuming_changes_something(tmp_path, processor, noisy):
    """The control of the test above: from step 3 without its state the bits differ."""
    whole, _ = run(tmp_path, processor, noisy, save_steps=3)
    model, _ = build_tiny_llava(seed=0)
    trainer, _ = prepare(model, processor, noisy, config=config(None, output_dir=None))
    weights_of_3 = read_weights(tmp_path / "checkpoint-3" / checkpoint.WEIGHTS)
    state.put_weights(trainer, weights_of_3)
    trainer.position.step = trainer.position.epoch_step = 3
    trainer.train()
    assert any(not torch.equal(whole[n], w) for n, w in weights(model).items())


def test_early_stop_and_best_model_survive_resuming(tmp_path, processor):
    few, others = Samples(4, processor), Samples(4, processor, seed=9)

    def go(folder, resume=None):
        model, _ = build_tiny_llava(seed=0)
        settings = config(
            folder,
            max_steps=100,
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            eval_steps=4,
            early_stopping_patience=3,
            load_best_model_at_end=True,
            save_steps=4,
        )
        return weights(model), train(model, processor, few, others, settings, resume=resume), model

    _, one, model = go(tmp_path)
    assert one.stopped == "early stop"
    # as if killed after the last checkpoint but one
    newest = checkpoint.latest(tmp_path)
    shutil.rmtree(newest)
    _, two, again = go(tmp_path, resume=True)
    assert two.steps == one.steps and two.best_eval_loss == one.best_eval_loss
    other = weights(again)
    assert all(torch.equal(w, other[n]) for n, w in weights(model).items())


def test_only_the_newest_checkpoints_are_kept(tmp_path, processor, samples):
    run(tmp_path, processor, samples, save_steps=2, save_total_limit=2)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]


def _save_forever(folder, processor, samples, marks):
    model, _ = build_tiny_llava(seed=0)
    trainer, _ = prepare(model, processor, samples, config=config(folder, save_total_limit=2))
    real = os.fsync
    for step in range(1, 10_000):
        trainer.position.step = step

        def slow(descriptor, step=step):  # a slow disk: the kill lands within a save
            if step > 1:
                (marks / "saving").touch()
                time.sleep(0.02)
            real(descriptor)

        os.fsync = slow
        trainer.save()


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.07, 0.11])
def test_kill_in_the_middle_of_a_save_leaves_the_previous_one(tmp_path, processor, samples, delay):
    folder, marks = tmp_path / "run", tmp_path / "marks"
    marks.mkdir()
    child = fork(_save_forever, folder, processor, samples, marks)
    deadline = time.monotonic() + 30
    while not (marks / "saving").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    found = checkpoint.checkpoints(folder)
    assert found, "the save before the killed one is gone"
    for path in found:
        checkpoint.verify(path)
    # and the next run cleans up what was half written, and resumes
    _, result = run(folder, processor, samples, resume=found[-1], save_steps=6)
    assert not [p for p in folder.glob(".*") if str(child.pid) in p.name]
    assert result.steps >= 6


def _train_until_told(folder, processor, samples, marks):
    model, _ = build_tiny_llava(seed=0)

    def mark(entry):
        (marks / f"step-{entry['step']}").touch()

    try:
        train(model, processor, samples, config=config(folder, max_steps=100_000), on_log=mark)
    except TrainingInterrupted as stop:
        torch.save({"step": stop.step}, marks / "stopped.pt")
        os._exit(130)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path, processor, samples, number):
    folder, marks = tmp_path / "run", tmp_path / "marks"
    marks.mkdir()
    child = fork(_train_until_told, folder, processor, samples, marks)
    deadline = time.monotonic() + 30
    while not (marks / "step-3").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, number)
    child.join(30)
    assert child.exitcode == 130
    step = torch.load(marks / "stopped.pt", weights_only=True)["step"]
    newest = checkpoint.latest(folder)
    assert newest.name == f"checkpoint-{step}" and step >= 3
    checkpoint.verify(newest)
    assert json.loads((newest / checkpoint.META).read_text())["position"]["step"] == step


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB, where root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _assert_first_is_intact(folder, error):
    assert "could not be written" in str(error) and "nothing of it was kept" in str(error)
    assert "intact" in error.do
    left = sorted(p.name for p in folder.iterdir())
    assert left == ["checkpoint-1"], left
    checkpoint.verify(folder / "checkpoint-1")


def test_a_full_disk_keeps_the_previous_checkpoint(small_disk, tmp_path, processor, samples, model):
    if small_disk is None:
        test_a_file_size_limit_keeps_the_previous_checkpoint(tmp_path, processor, samples, model)
        return
    folder = small_disk / "run"
    trainer, _ = prepare(model, processor, samples, config=config(folder, save_total_limit=None))
    trainer.position.step = 1
    trainer.save()
    room = shutil.disk_usage(small_disk).free
    with open(small_disk / "filler", "wb") as file:
        file.write(bytes(room - 1_000_000))  # the weights alone need 2.6 MB
    trainer.position.step = 2
    with pytest.raises(InputError) as caught:
        trainer.save()
    _assert_first_is_intact(folder, caught.value)
    (small_disk / "filler").unlink()
    trainer.save()
    checkpoint.verify(folder / "checkpoint-2")


def test_a_file_size_limit_keeps_the_previous_checkpoint(tmp_path, processor, samples, model):
    folder = tmp_path / "run"
    trainer, _ = prepare(model, processor, samples, config=config(folder))
    trainer.position.step = 1
    trainer.save()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer.position.step = 2
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, old[1]))
        with pytest.raises(InputError) as caught:
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    _assert_first_is_intact(folder, caught.value)


# every way a checkpoint can be wrong


@pytest.fixture
def good(tmp_path, processor, samples):
    run(tmp_path, processor, samples, max_steps=2, save_steps=2)
    return tmp_path / "checkpoint-2"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(bytes(data))


def _html(path):
    path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")


def _lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.META])
@pytest.mark.parametrize(
    "spoil,words",
    [
        (_cut, "truncated"),
        (_flip, "changed since it was written"),
        (_html, "HTML page"),
        (_lfs, "Git-LFS pointer"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["cut", "flipped", "html", "lfs", "missing"],
)
def test_a_spoilt_checkpoint_is_named(good, processor, samples, name, spoil, words):
    spoil(good / name)
    with pytest.raises(InputError, match=words) as caught:
        run(good.parent, processor, samples, resume=True, max_steps=2)
    assert name in caught.value.what


def test_no_checkpoint_is_named(tmp_path, processor, samples):
    for resume, words in [
        (True, "no checkpoint to resume"),
        (tmp_path / "x", "no checkpoint folder"),
    ]:
        with pytest.raises(InputError, match=words):
            run(tmp_path, processor, samples, resume=resume)
    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(InputError, match="no checkpoint of this program"):
        run(tmp_path, processor, samples, resume=True)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"method": "lora"}, "another model or set-up"),
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size"),
        ({"trainable": {"vision_tower": "all"}}, "another model or set-up"),
    ],
)
def test_a_checkpoint_of_another_run_is_named(good, processor, samples, changes, words):
    with pytest.raises(InputError, match=words):
        run(good.parent, processor, samples, resume=True, **{"max_steps": 2, **changes})


def test_a_checkpoint_on_another_base_model_is_named(good, processor, samples):
    other, _ = build_tiny_llava(seed=1)  # same shapes, other frozen weights
    with pytest.raises(InputError, match=r"frozen weights .*vision_tower"):
        train(other, processor, samples, config=config(good.parent, max_steps=2), resume=True)


def test_other_data_is_named(good, processor):
    with pytest.raises(InputError, match="24 samples; there are 10 now"):
        run(good.parent, processor, Samples(10, processor), resume=True, max_steps=2)


# files of weights from elsewhere


def test_weights_from_a_pth(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(tensors, tmp_path / "plain.pth")
    torch.save({"model": tensors}, tmp_path / "nested.pth")
    for name in ("plain.pth", "nested.pth"):
        read = read_weights(tmp_path / name)
        assert read.keys() == tensors.keys() and torch.equal(read["a"], tensors["a"])


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/labs-was-here",)


def test_bad_weights_are_named(tmp_path):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    torch.save({"steps": 3}, tmp_path / "empty.pth")
    torch.save({"a": torch.ones(100, 100)}, tmp_path / "cut.pth")
    _cut(tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "nothing.pth").touch()
    _html(tmp_path / "page.pth")
    _lfs(tmp_path / "pointer.safetensors")
    for name, words in [
        ("evil.pth", "would run code"),
        ("empty.pth", "no state dict"),
        ("cut.pth", "truncated"),
        ("cut.safetensors", "truncated"),
        ("nothing.pth", "empty file"),
        ("page.pth", "HTML page"),
        ("pointer.safetensors", "Git-LFS pointer"),
        ("absent.pth", "no file"),
    ]:
        with pytest.raises(InputError, match=words):
            read_weights(tmp_path / name)
    assert not os.path.exists("/tmp/labs-was-here")
