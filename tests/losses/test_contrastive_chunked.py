"""Blocks against the whole: value, gradients, memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labs.losses import chunked_info_nce, info_nce


def features(batch, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(batch, width, generator=generator, dtype=dtype) for _ in range(2)]
    return draw[0] * 3, draw[1] / 2 + draw[0] / 4  # pairs that go together, of unequal lengths


def value_and_gradients(loss_of, images, texts, temperature):
    inputs = [x.clone().requires_grad_() for x in (images, texts, temperature)]
    loss = 3 * loss_of(*inputs)  # an incoming gradient that is not one
    return loss.detach(), *torch.autograd.grad(loss, inputs)


@given(
    batch=st.integers(1, 40),
    width=st.integers(1, 9),
    chunk_size=st.integers(1, 45),
    temperature=st.floats(0.01, 5),
    seed=st.integers(0, 999),
)
def test_it_is_info_nce(batch, width, chunk_size, temperature, seed):
    given_ = *features(batch, width, seed), torch.tensor(temperature, dtype=torch.float64)
    wanted = value_and_gradients(info_nce, *given_)
    got = value_and_gradients(lambda *x: chunked_info_nce(*x, chunk_size=chunk_size), *given_)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_it_is_info_nce_in_float32_at_clips_coldest_temperature():
    given_ = *features(700, 64, dtype=torch.float32), torch.tensor(0.01)
    wanted = value_and_gradients(info_nce, *(x.double() for x in given_))
    got = value_and_gradients(lambda *x: chunked_info_nce(*x, chunk_size=128), *given_)
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_far_negatives_do_not_underflow():
    """Similarities 200 apart in a row: what one shift for a whole block would have made -inf."""
    images, texts = torch.eye(4), torch.eye(4)
    texts[0] = -texts[0]
    plain = info_nce(images, texts, 0.01)
    assert plain > 20
    torch.testing.assert_close(chunked_info_nce(images, texts, 0.01, chunk_size=3), plain)


def test_gradients_by_finite_differences():
    images, texts = (x.requires_grad_() for x in features(5, 3))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *x: chunked_info_nce(*x, chunk_size=2), (images, texts, temperature))


def test_only_what_needs_a_gradient_gets_one():
    images, texts = features(6, 3)
    texts.requires_grad_()
    chunked_info_nce(images, texts, 0.1, chunk_size=4).backward()
    wanted = torch.autograd.grad(info_nce(images, texts, 0.1), texts)[0]
    torch.testing.assert_close(texts.grad, wanted)
    assert not chunked_info_nce(images, texts.detach()).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    images, texts = (x.to(dtype).requires_grad_() for x in features(9, 7))
    got = chunked_info_nce(images, texts, 0.01, chunk_size=4)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, info_nce(images, texts, 0.01), rtol=1e-5, atol=1e-5)
    got.backward()
    assert images.grad.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = chunked_info_nce(images.float(), texts.float(), 0.01, chunk_size=4)
    torch.testing.assert_close(again, got)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made inside has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("batch", [64, 512])
def test_nothing_of_the_square_is_ever_made(batch):
    images, texts = (x.requires_grad_() for x in features(batch, 4))
    with Largest() as plain:
        info_nce(images, texts).backward()
    with Largest() as chunked:
        chunked_info_nce(images, texts, chunk_size=16).backward()
    assert plain.elements == batch**2  # so the observer sees forward and backward
    assert chunked.elements == max(16 * 16, batch * 4)


def test_a_chunk_is_one_pair_or_more():
    with pytest.raises(ValueError, match="chunk_size"):
        chunked_info_nce(*features(3, 2), chunk_size=0)
