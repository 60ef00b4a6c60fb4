"""A policy run that is taken up again is the same run, and leaves what it should."""

import json
import os
import signal

import pytest
import torch
from train_helpers import weights

from labs.errors import InputError
from labs.models.lora import LoRALinear
from labs.train.interrupt import TrainingInterrupted
from tests.train.policy.policy_runs import settings, trainer, unclocked, vowels


def equal(model, saved) -> bool:
    return all(torch.equal(p, saved[n]) for n, p in model.named_parameters())


def long_run(folder, **changes):
    policy = settings(
        algorithm="ppo", kl_in="reward", kl_target=0.5, kl_horizon=50, num_epochs=2,
        minibatch_size=6, value_learning_rate=1e-2,
    )  # fmt: skip
    usual = {"max_steps": 5, "output_dir": str(folder), "lr_scheduler_type": "linear"}
    return trainer(policy, **usual | changes)


def diary(folder, name="diary.jsonl"):
    return unclocked(json.loads(line) for line in (folder / name).read_text().splitlines())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(trainer, its folder) of a run without a break."""
    folder = tmp_path_factory.mktemp("whole")
    run = long_run(folder)
    run.train()
    return run, folder


def check_same(run, folder, whole):
    other, other_folder = whole
    assert equal(run.model, weights(other.model))
    head, same = run.forward.value_head.state_dict(), other.forward.value_head.state_dict()
    assert all(torch.equal(head[n], same[n]) for n in head) and head["bias"] != 0
    assert run.controller.coef == other.controller.coef != 0.1
    assert unclocked(run.position.history) == unclocked(other.position.history)
    assert diary(folder) == diary(other_folder)
    assert [e["step"] for e in diary(folder)] == [1, 2, 3, 4, 5]
    said = diary(folder, "samples.jsonl")
    assert said == diary(other_folder, "samples.jsonl")
    assert [e["step"] for e in said[::4]] == [1, 2, 4, 5]
    assert run.reward.skips.seen == other.reward.skips.seen


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, whole):
    torch.manual_seed(99)
    first = long_run(tmp_path, max_steps=5, save_steps=3)
    original = first.step

    def dies(asked):
        if first.position.step == 4:
            raise RuntimeError("power cut")
        return original(asked)

    first.step = dies
    with pytest.raises(RuntimeError, match="power cut"):
        first.train()
    assert first.last_checkpoint.name == "checkpoint-3"
    torch.manual_seed(7)
    run = long_run(tmp_path, save_steps=3)
    run.train(resume=True)
    check_same(run, tmp_path, whole)


def test_interrupted_it_saves_after_the_step_and_goes_on(tmp_path, whole):
    def interrupting(asked, completions):
        if run.position.step == 1:
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of the second step
        return vowels(asked, completions)

    interrupting.name = "vowels"
    run = long_run(tmp_path, reward=interrupting)
    with pytest.raises(TrainingInterrupted) as stopped:
        run.train()
    assert (stopped.value.step, run.position.step) == (2, 2)
    assert stopped.value.checkpoint.name == "checkpoint-2"
    assert [e["step"] for e in diary(tmp_path)] == [1, 2]
    run = long_run(tmp_path)
    run.train(resume=stopped.value.checkpoint)
    check_same(run, tmp_path, whole)


def test_the_diary_says_what_the_run_is(whole):
    run, folder = whole
    about = json.loads((folder / "run.json").read_text())
    assert about["policy"]["algorithm"] == "ppo" and about["policy"]["max_new_tokens"] == 8
    assert about["train"]["learning_rate"] == run.config.learning_rate
    assert about["rewards"] == {"vowels": 1.0}
    assert (folder / "report.html").exists()


def test_there_is_nothing_to_resume_without_a_folder():
    with pytest.raises(InputError, match="no run to resume"):
        trainer().train(resume=True)


def test_the_result_is_written(tmp_path):
    run = trainer(output_dir=str(tmp_path), save_final=True, max_steps=1)
    run.train()
    run.finish("tiny-llava")
    assert any(isinstance(m, LoRALinear) for m in run.model.modules())
    written = {path.name for path in tmp_path.rglob("*.safetensors")}
    assert "adapter_model.safetensors" in written


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    long_run(tmp_path, max_steps=2, save_steps=2).train()
    policy = settings(
        algorithm="ppo", kl_in="reward", kl_target=0.5, kl_horizon=50, num_epochs=1,
        minibatch_size=6, value_learning_rate=1e-2,
    )  # fmt: skip
    changes = {"max_steps": 2, "output_dir": str(tmp_path), "lr_scheduler_type": "linear"}
    other = trainer(policy, **changes)
    with pytest.raises(InputError, match="num_epochs = 2, not 1"):
        other.train(resume=True)
