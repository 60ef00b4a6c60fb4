"""Two ranks make the run of one: losses, logged numbers, validation and weights."""

import dataclasses
import os
import socket

import pytest
import torch
from train_helpers import fork, quiet

from labs.formats import Turn
from labs.models import build_tiny_llava
from labs.train.preference.config import PreferenceConfig
from labs.train.preference.trainer import train_preference
from tests.train.preference.preference_runs import fresh, some_pairs


def run_of(per_rank, pictured):
    processor = build_tiny_llava()[1]
    config = quiet(
        max_steps=2, learning_rate=1e-3, per_device_train_batch_size=per_rank,
        per_device_eval_batch_size=2, eval_steps=2,
    )  # fmt: skip
    model, pairs = fresh(), some_pairs(6)
    if not pictured:
        pairs = [dataclasses.replace(p, images=(), prompt=(Turn("user", p.id),)) for p in pairs]
    result = train_preference(model, processor, pairs, pairs[:4], config, PreferenceConfig())
    return {"history": result.history, "weights": {n: p.detach() for n, p in model.named_parameters()}}  # fmt: skip


def _rank(rank, port, folder, pictured):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    from accelerate.state import PartialState

    PartialState._reset_state()
    torch.save(run_of(3, pictured), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)


@pytest.mark.parametrize("pictured", [True, False])
def test_two_ranks_are_one(tmp_path, pictured):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = [fork(_rank, rank, port, tmp_path, pictured) for rank in range(2)]
    alone = run_of(6, pictured)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][name]), name
        torch.testing.assert_close(value, alone["weights"][name], atol=5e-4, rtol=1e-3)
    for one, other in zip(ranks[0]["history"], alone["history"], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name in ("loss", "eval_loss", "grad_norm") or "/" in name or "entropy" in name:
                assert one[name] == pytest.approx(other[name], rel=5e-3, abs=1e-3), name
