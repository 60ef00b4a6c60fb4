"""Modules and optimizers that stand for bitsandbytes' hold what bitsandbytes holds."""

import pytest
import torch
from torch import nn

from labs.doctors.memory.setup.nf4 import NF4Linear
from labs.doctors.memory.setup.optimizers import BitsAndBytesState

bitsandbytes = pytest.importorskip("bitsandbytes")


def stored(tensors):
    return sum(t.untyped_storage().nbytes() for t in tensors if isinstance(t, torch.Tensor))


@pytest.mark.parametrize(("rows", "columns", "bias"), [(256, 128, False), (1000, 192, True)])
def test_nf4_takes_the_bytes_of_bitsandbytes(rows, columns, bias):
    real = bitsandbytes.nn.Linear4bit(
        columns, rows, bias=bias, quant_type="nf4", compress_statistics=True
    )
    real.weight = bitsandbytes.nn.Params4bit(
        torch.randn(rows, columns), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    real = real.to("cpu")
    state = real.weight.quant_state
    assert state is not None and real.weight.dtype == torch.uint8
    parts = [real.weight.data, state.absmax, state.code, state.offset]
    parts += [state.state2.absmax, state.state2.code]
    ours = NF4Linear(columns, rows, bias, torch.float32)
    held = stored(p for name, p in ours.state_dict().items() if name != "bias")
    assert held == stored(parts)


def test_nf4_computes_shapes_and_gradients_like_a_linear_layer():
    layer = NF4Linear(64, 32, True, torch.float32)
    x = torch.randn(3, 5, 64, requires_grad=True)
    layer(x).sum().backward()
    assert layer(x).shape == (3, 5, 32) and x.grad.shape == x.shape
    assert all(not parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("name", "states", "bits"), [("AdamW8bit", 2, 8), ("Lion", 1, 32), ("AdamW", 2, 32)]
)
def test_optimizer_state_takes_the_bytes_of_bitsandbytes(name, states, bits):
    torch.manual_seed(0)
    shapes = [(300, 100), (4095,), (64, 64), (10,)]
    real = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in (*real, *ours):
        parameter.grad = torch.ones_like(parameter)
    theirs = getattr(bitsandbytes.optim, name)(real, lr=1e-3)
    theirs.step()
    stands = BitsAndBytesState(ours, states, bits)
    stands.step()
    for one, other in zip(real, ours, strict=True):
        own = {k: v for k, v in stands.state[other].items() if not k.startswith("qmap")}
        their = {k: v for k, v in theirs.state[one].items()
                 if isinstance(v, torch.Tensor) and not k.startswith("qmap")}  # fmt: skip
        assert stored(own.values()) == stored(their.values()), (name, tuple(one.shape))


def test_embeddings_keep_32_bits():
    embedding = nn.Embedding(1000, 64)
    embedding.weight.grad = torch.zeros_like(embedding.weight)
    optimizer = BitsAndBytesState(embedding.parameters(), 2, 8, wide=[embedding.weight])
    optimizer.step()
    assert optimizer.state[embedding.weight]["state1"].dtype == torch.float32
