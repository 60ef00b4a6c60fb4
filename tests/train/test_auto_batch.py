"""auto_batch: an out-of-memory costs speed, never the loss. The byte budget makes it happen here."""

import contextlib
import os
import socket

import pytest
import torch
from train_helpers import Samples, fork, quiet, weights

from labs.doctors.memory.follow.budget import byte_budget
from labs.errors import InputError
from labs.models import build_tiny_llava
from labs.train import prepare

SIZE = 8


def trainer_of(samples, processor, **changes):
    model, _ = build_tiny_llava(seed=0)
    config = quiet(per_device_train_batch_size=SIZE, max_steps=4, **changes)
    return prepare(model, processor, samples, config=config)[0]


def halvings(result):
    return [(e["micro_batch"], e["accumulation"]) for e in result.history if "micro_batch" in e]


def peak(samples, processor, size):
    """Bytes that the run needs with micro-batches of `size`, and weights after it."""
    trainer = trainer_of(samples, processor)
    trainer.sampler.batch_size = size
    with byte_budget(None, trainer.model) as budget:
        result = trainer.train()
    return budget.peak_bytes, result, weights(trainer.model)


@pytest.fixture(scope="module")
def measured(samples, processor):
    return {size: peak(samples, processor, size) for size in (8, 4, 2)}


@pytest.fixture(scope="module")
def samples(processor):
    return Samples(24, processor)


def test_halves_until_it_fits_and_the_run_is_the_same(measured, samples, processor):
    needs = {size: measured[size][0] for size in measured}
    assert needs[8] > needs[4] > needs[2]
    trainer = trainer_of(samples, processor, auto_batch=True)
    with byte_budget((needs[4] + needs[2]) // 2, trainer.model) as budget:
        result = trainer.train()
    assert budget.failures == 2 and halvings(result) == [(4, 2), (2, 4)]
    assert result.losses()[1] == pytest.approx(measured[8][1].losses()[1], rel=1e-5)
    for name, value in weights(trainer.model).items():
        torch.testing.assert_close(value, measured[8][2][name], rtol=0, atol=1e-4, msg=name)


def test_without_it_the_run_dies(measured, samples, processor):
    trainer = trainer_of(samples, processor)
    with (
        byte_budget((measured[8][0] + measured[4][0]) // 2, trainer.model),
        pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"),
    ):
        trainer.train()


def test_one_sample_too_large_is_said(samples, processor):
    needed, *_ = peak(samples, processor, 1)
    trainer = trainer_of(samples, processor, auto_batch=True)
    with (
        byte_budget(int(0.9 * needed), trainer.model),
        pytest.raises(InputError, match="even one sample at a time"),
    ):
        trainer.train()


def test_contrastive_losses_refuse(processor):
    from labs.train import auto_batch

    class Pairs:
        class objective:
            even = True

    with pytest.raises(InputError, match="would change this loss"):
        auto_batch.check(Pairs)


def test_other_errors_are_not_swallowed(samples, processor):
    trainer = trainer_of(samples, processor, auto_batch=True)

    def broken(*_):
        raise RuntimeError("shapes do not match")

    trainer.objective.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train()


def _rank(rank, port, samples, processor, budget, folder):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )
    from accelerate.state import PartialState

    PartialState._reset_state()
    trainer = trainer_of(samples, processor, auto_batch=True)
    assert trainer.ranks == 2
    # Memory is short on the second rank only: the first one has to follow.
    short = byte_budget(budget, trainer.model) if rank == 1 else contextlib.nullcontext()
    with short:
        result = trainer.train()
    assert (short.failures > 0) if rank == 1 else True
    found = {"weights": weights(trainer.model), "halvings": halvings(result)}
    torch.save(found | {"losses": result.losses()[1]}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # the store's end, when this frame lets go of it, may wait for the other rank


def test_two_ranks_halve_together_and_equal_one(measured, tmp_path, samples, processor):
    trainer = trainer_of(samples, processor, gradient_accumulation_steps=2)
    expected, one = trainer.train().losses()[1], weights(trainer.model)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    limit = (measured[8][0] + measured[4][0]) // 2
    children = [fork(_rank, r, port, samples, processor, limit, tmp_path) for r in range(2)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    first, second = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    assert first["halvings"] == second["halvings"] == [(4, 2)]
    assert first["losses"] == pytest.approx(expected, rel=1e-4)
    for name, value in first["weights"].items():
        torch.testing.assert_close(value, second["weights"][name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(value, one[name], rtol=0, atol=2e-4, msg=name)
