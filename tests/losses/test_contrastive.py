import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from labs.losses import info_nce, siglip_loss


def features(batch=5, width=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(batch, width, generator=generator, dtype=dtype) for _ in range(2)]
    return draw[0] * 3, draw[1] / 2  # of unequal lengths: whoever forgets to normalise is seen


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_info_nce(images, texts, temperature):
    images, texts = images.tolist(), texts.tolist()
    total = 0.0
    for i in range(len(images)):
        row = [math.exp(cosine(images[i], t) / temperature) for t in texts]
        column = [math.exp(cosine(m, texts[i]) / temperature) for m in images]
        total -= math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))
    return total / (2 * len(images))


def slow_siglip(images, texts, temperature, bias):
    images, texts = images.tolist(), texts.tolist()
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            z = 1 if i == j else -1
            total += math.log1p(math.exp(-z * (temperature * cosine(image, text) + bias)))
    return total / len(images)


@given(
    batch=st.integers(1, 7),
    width=st.integers(1, 5),
    seed=st.integers(0, 999),
    temperature=st.floats(0.05, 5),
)
def test_info_nce_is_the_formula(batch, width, seed, temperature):
    images, texts = features(batch, width, seed)
    wanted = slow_info_nce(images, texts, temperature)
    assert info_nce(images, texts, temperature).item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(
    batch=st.integers(1, 7),
    seed=st.integers(0, 999),
    temperature=st.floats(0.1, 20),
    bias=st.floats(-12, 2),
)
def test_siglip_is_the_formula(batch, seed, temperature, bias):
    images, texts = features(batch, 3, seed)
    wanted = slow_siglip(images, texts, temperature, bias)
    assert siglip_loss(images, texts, temperature, bias).item() == pytest.approx(wanted, rel=1e-9)


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_invariants(seed, scale):
    images, texts = features(seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    loss = info_nce(images, texts)
    torch.testing.assert_close(info_nce(texts, images), loss)  # symmetric
    torch.testing.assert_close(info_nce(images * scale, texts), loss)  # lengths do not matter
    torch.testing.assert_close(info_nce(images[order], texts[order]), loss)  # nor does order
    sigmoid = siglip_loss(images, texts, 10.0, -10.0)
    torch.testing.assert_close(siglip_loss(images, texts * scale, 10.0, -10.0), sigmoid)
    torch.testing.assert_close(siglip_loss(images[order], texts[order], 10.0, -10.0), sigmoid)


def test_known_values():
    alike = torch.ones(6, 3)
    assert info_nce(alike, alike).item() == pytest.approx(math.log(6), rel=1e-6)
    assert info_nce(torch.eye(4), torch.eye(4), 0.01).item() == pytest.approx(0, abs=1e-6)
    # At zero logits every one of the B questions a row costs ln 2: a sum over pairs, over B.
    assert siglip_loss(alike, alike, 0.0, 0.0).item() == pytest.approx(6 * math.log(2), rel=1e-6)


def test_default_temperature_is_clips():
    images, texts = features()
    torch.testing.assert_close(info_nce(images, texts), info_nce(images, texts, 0.07))


def test_gradients_by_finite_differences():
    images, texts = (x.requires_grad_() for x in features(4, 3))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    assert gradcheck(info_nce, (images, texts, temperature))
    assert gradcheck(siglip_loss, (images, texts, temperature, bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    images, texts = (x.to(dtype) for x in features(5, 7))
    wanted = info_nce(images.double(), texts.double(), 0.01)
    got = info_nce(images, texts, 0.01)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(info_nce(images.float(), texts.float(), 0.01), got)


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        info_nce(torch.ones(3, 5), torch.ones(2, 5))
