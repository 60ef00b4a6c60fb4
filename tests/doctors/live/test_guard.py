"""memory_guard and the callbacks: the exception stays, and says what held the memory."""

import importlib.util
import warnings

import pytest
import torch
from torch import nn

from labs.doctors.memory.follow.budget import byte_budget
from labs.doctors.memory.guard import callbacks
from labs.doctors.memory.guard.memory_guard import memory_guard
from labs.doctors.memory.live.diary import Step
from labs.doctors.memory.live.memory_error import is_memory_error

MIB = 2**20


def parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    return model, torch.optim.AdamW(model.parameters())


def step(model, optimizer, size):
    model(torch.randn(size, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_report_is_on_the_exception():
    model, optimizer = parts()
    with (
        pytest.raises(torch.OutOfMemoryError, match="Tried to allocate") as caught,
        memory_guard(model, optimizer, step=2),
        byte_budget("3 MiB", model, optimizer) as budget,
    ):
        step(model, optimizer, 16)
        step(model, optimizer, 16)
        step(model, optimizer, 4000)
    report = caught.value.memory_report
    measured = report.facts["measured"]
    held = sum(p.nbytes for p in model.parameters())
    assert measured["categories"]["weights"] == held
    assert 2 * held <= measured["categories"]["optimizer"] <= 2 * held + 64
    assert sum(measured["categories"].values()) == sum(budget.held.values()) <= 3 * MIB
    assert measured["tried"] == pytest.approx(budget.failed, rel=0.01), "as printed, two digits"
    assert measured["phase"] == "forward" and measured["step"] == 2
    (finding,) = report.findings
    assert (
        "test_guard.py" in finding.evidence[1].text and "budget.py" not in finding.evidence[1].text
    )
    assert finding.title in "".join(caught.value.__notes__)


def test_other_exceptions_pass_untouched():
    with pytest.raises(ValueError, match="mine") as caught, memory_guard():
        raise ValueError("mine")
    assert not hasattr(caught.value, "memory_report") and not hasattr(caught.value, "__notes__")


def test_nothing_happens_without_an_exception():
    model, optimizer = parts()
    with memory_guard(model, optimizer):
        step(model, optimizer, 4)
    assert optimizer.state


def test_a_full_host_is_not_called_a_full_gpu():
    message = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
    message += "memory: you tried to allocate 999999999999999 bytes. Error code 12"
    with pytest.raises(RuntimeError) as caught, memory_guard():
        raise RuntimeError(message)
    assert caught.value.memory_report.findings[0].cause == "host_memory"


def test_guards_inside_one_another_report_once():
    model, optimizer = parts()
    with (
        pytest.raises(torch.OutOfMemoryError) as caught,
        memory_guard(),
        memory_guard(model, optimizer),
        byte_budget("1 MiB"),
    ):
        step(model, optimizer, 9000)
    assert sum("What to do" in note for note in caught.value.__notes__) == 1


@pytest.mark.parametrize(
    "error,about_memory",
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("out of order"), False),
    ],
)
def test_what_is_about_memory(error, about_memory):
    assert is_memory_error(error) is about_memory


def test_the_step_log_warns_once_and_names_the_step():
    log = callbacks.StepLog(every=5)
    log.numbers = lambda: (len(log.steps) * 4 * MIB, -1, len(log.steps) * 4 * MIB, 0, 1000 * MIB)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(1, 41):
            log.note(i)
    (warning,) = said
    assert warning.category is callbacks.MemoryGrows
    assert "rises by 4.00 MiB a step" in str(warning.message)
    assert "full at step 252" in str(warning.message), "4 (s - 1) passes 1000 at s = 252"
    assert isinstance(log.steps[-1], Step)


class Rows(torch.utils.data.Dataset):
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return {"x": torch.ones(self.sizes[i], 64)}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = parts()[0]

    def forward(self, x):
        return {"loss": self.net(x).square().mean()}


def test_in_transformers_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=6, report_to="none",
        use_cpu=True, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    callback = callbacks.transformers_callback()
    sizes = [8] * 5 + [4000]  # its hidden layer alone is 4 MiB
    model = Model()
    trainer = Trainer(model, arguments, train_dataset=Rows(sizes), callbacks=[callback])
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(Rows(sizes))
    with byte_budget("4 MiB"), pytest.raises(torch.OutOfMemoryError):
        trainer.train()
    assert [s.step for s in callback.steps] == [1, 2, 3, 4, 5]
    assert all(s.allocated > 0 and s.limit == 4 * MIB for s in callback.steps)
    measured = callback.report.facts["measured"]
    assert measured["step"] == 5 and measured["phase"] == "forward"
    assert callback.report.findings[0].cause in ("activations", "request_exceeds_gpu")
    assert (tmp_path / "memory_report.json").exists()


def test_with_accelerate():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*parts())
    with (
        pytest.raises(torch.OutOfMemoryError) as caught,
        callbacks.accelerate_guard(accelerator),
        byte_budget("2 MiB"),
    ):
        step(model, optimizer, 9000)
    assert caught.value.memory_report.verdict == "cause"


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("lightning", "pytorch_lightning"))),
    reason="Lightning is not among this project's packages",
)
def test_in_lightning(tmp_path):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = parts()[0]

        def training_step(self, batch, index):
            return self.net(batch["x"][0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    callback = callbacks.lightning_callback()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[callback],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Rows([8, 8, 9000]), batch_size=1)
    with byte_budget("3 MiB"), pytest.raises(torch.OutOfMemoryError) as caught:
        trainer.fit(Module(), loader)
    assert caught.value.memory_report is callback.report
    assert callback.report.facts["measured"]["step"] == 2 and len(callback.steps) == 2
