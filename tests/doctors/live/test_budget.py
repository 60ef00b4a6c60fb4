"""The byte budget: exact counts, PyTorch's own exception in PyTorch's own words."""

import pytest
import torch
from torch import nn

from labs.doctors.memory.bytesize import format_size, parse_size
from labs.doctors.memory.follow import budget as budgets
from labs.doctors.memory.follow.budget import byte_budget
from labs.doctors.memory.log.messages import parse_messages

MIB = 2**20


def test_counts_by_hand():
    with byte_budget(None) as budget:
        a = torch.zeros(256, 1024)  # 1 MiB
        b = a.T[:10]  # a view: nothing
        c = a + 1  # 1 MiB
        assert budget.live_bytes == 2 * MIB
        del a
        assert budget.live_bytes == 2 * MIB, "the view keeps it"
        del b
        assert budget.live_bytes == MIB
        c.add_(1)
        assert budget.live_bytes == budget.peak_bytes - MIB == MIB


def test_raises_pytorchs_exception_at_the_byte():
    with byte_budget(3 * MIB):
        torch.zeros(3 * MIB, dtype=torch.uint8)
    with byte_budget(3 * MIB) as budget:
        kept = torch.zeros(2 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(MIB + 1, dtype=torch.uint8)
        assert type(caught.value) is torch.OutOfMemoryError
        assert budget.failed == MIB + 1 and budget.failures == 1
        assert caught.value.budget is budget and kept.numel() == 2 * MIB


def test_the_message_reads_like_cudas():
    with byte_budget(8 * MIB):
        held = [torch.zeros(MIB, dtype=torch.uint8) for _ in range(5)]
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.zeros(4 * MIB, dtype=torch.uint8)
    (said,) = parse_messages(str(caught.value))
    assert said.device == "CUDA" and said.complete and said.layout == "capacity"
    assert (said.tried, said.total, said.free) == (4 * MIB, 8 * MIB, 3 * MIB)
    assert (said.allocated, said.unallocated) == (len(held) * MIB, 0)
    assert "PYTORCH_ALLOC_CONF" in said.hint
    assert "scratch memory inside operators is not counted" in "".join(caught.value.__notes__)
    assert str(caught.value).startswith("CUDA out of memory. Tried to allocate 4.00 MiB. GPU 0 ")


def test_device_name_and_local_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    with (
        byte_budget("1 KiB", device_name="HIP"),
        pytest.raises(torch.OutOfMemoryError, match=r"HIP out of memory\..* GPU 3 has"),
    ):
        torch.zeros(1025, dtype=torch.uint8)


def test_what_is_freed_may_be_used_again():
    model = nn.Linear(64, 64)

    def step(size):
        model(torch.randn(size, 64)).sum().backward()
        model.zero_grad()

    with byte_budget(None, model) as measured:
        step(100)
    with byte_budget(measured.peak_bytes, model) as budget:
        for _ in range(3):
            with pytest.raises(torch.OutOfMemoryError):
                step(200)
            model.zero_grad()
            step(100)
        assert budget.failures == 3


def test_an_oom_in_backward_is_the_same_exception():
    model = nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64))
    with byte_budget(None, model) as forward:
        loss = model(torch.randn(512, 64)).square().mean()
    del loss
    with byte_budget(forward.peak_bytes, model) as budget:
        loss = model(torch.randn(512, 64)).square().mean()
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
            loss.backward()
    assert budget.held["activations"] > 0 and budget.held["weights"] == sum(
        p.nbytes for p in model.parameters()
    )


def test_a_step_by_category():
    model = nn.Linear(128, 256)
    optimizer = torch.optim.AdamW(model.parameters())
    held = sum(p.nbytes for p in model.parameters())
    with byte_budget(None, model, optimizer) as budget:
        assert budget.live() == budget.live() | {"weights": held}
        model(torch.randn(8, 128)).sum().backward()
        optimizer.step()
        live = budget.live()
        assert live["gradients"] == held
        assert 2 * held <= live["optimizer"] <= 2 * held + 16, "two moments, and the step counts"
        optimizer.zero_grad()
        assert budget.live()["gradients"] == 0
    with byte_budget(None, model, optimizer) as later:
        assert later.live()["optimizer"] == live["optimizer"], "state counts from the start"


def test_modules_are_learned_without_being_told():
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)))
    with byte_budget(None) as budget:
        out = model(torch.randn(4, 8))
        names = {block.module for block in budget.follower.blocks.values()}
        assert {"0", "1.0"} <= names and out.grad_fn is not None


def test_observers_are_told_first():
    told = []
    budgets.OBSERVERS.append(lambda budget, size: told.append((budget.limit, size)))
    try:
        with byte_budget(100), pytest.raises(torch.OutOfMemoryError):
            torch.zeros(101, dtype=torch.uint8)
    finally:
        budgets.OBSERVERS.pop()
    assert told == [(100, 101)]


@pytest.mark.parametrize(
    "text,size",
    [("2 GiB", 2**31), ("512MiB", 2**29), ("1.5GB", 1_500_000_000), ("64k", 65536), (1000, 1000),
     ("1,024 bytes", 1024), ("3g", 3 * 2**30)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "two", "2 pears", "-1 GiB", "0", "1e400", "GiB", True, "9e99TiB"]
)
def test_bad_sizes(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    "size,text",
    [(0, "0 bytes"), (512, "512 bytes"), (1024, "1024 bytes"), (1025, "1.00 KiB"),
     (2**20, "1024.00 KiB"), (20 * 2**20, "20.00 MiB"), (2**30, "1024.00 MiB"),
     (62_439_000_000, "58.15 GiB")],
)  # fmt: skip
def test_sizes_as_c10_prints_them(size, text):
    assert format_size(size) == text
