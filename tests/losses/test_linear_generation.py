import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from labs.losses import IGNORE, generation_loss, linear_generation_loss

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def example(batch=3, tokens=7, width=5, vocab=13, seed=0, dtype=torch.float32, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, tokens, width, generator=generator).to(dtype)
    weight = torch.randn(vocab, width, generator=generator).to(dtype)
    bias = torch.randn(vocab, generator=generator).to(dtype)
    labels = torch.randint(0, vocab, (batch, tokens), generator=generator)
    labels[torch.rand(batch, tokens, generator=generator) > share] = IGNORE
    return [x.requires_grad_() for x in (hidden, weight, bias)], labels


def both(inputs, labels, chunk_size=None, num_items=None):
    """(value, gradients) of the plain way and of ours."""
    hidden, weight, bias = inputs
    plain = generation_loss(F.linear(hidden, weight, bias), labels, num_items)
    ours = linear_generation_loss(hidden, weight, labels, chunk_size, num_items, bias)
    needed = [x for x in inputs if x is not None and x.requires_grad]
    return [(loss, torch.autograd.grad(loss, needed)) for loss in (plain, ours)]


def assert_same(wanted, got, tolerance):
    """Relative to the size of each tensor, so that a small gradient is not let through."""
    for a, b in zip((wanted[0], *wanted[1]), (got[0], *got[1]), strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * a.abs().max()


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(2, 9),
    width=st.integers(1, 7),
    vocab=st.integers(2, 17),
    seed=st.integers(0, 999),
    chunk=st.sampled_from([None, 1, 2, 3, 100]),
    items=st.sampled_from([None, 1, 29]),
    with_bias=st.booleans(),
)
def test_value_and_gradients_of_the_plain_loss(
    batch, tokens, width, vocab, seed, chunk, items, with_bias
):
    inputs, labels = example(batch, tokens, width, vocab, seed, torch.float64)
    if not with_bias:
        inputs[2] = None
    assert_same(*both(inputs, labels, chunk, items), tolerance=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_float32_to_one_in_a_million(device):
    inputs, labels = example(3, 67, 31, 1009)
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    assert_same(*both(inputs, labels.to(device), chunk_size=17), tolerance=1e-6)


def test_gradients_by_finite_differences():
    inputs, labels = example(2, 4, 3, 5, dtype=torch.float64)

    def loss(hidden, weight, bias):
        return linear_generation_loss(hidden, weight, labels, chunk_size=2, bias=bias)

    assert gradcheck(loss, inputs)  # calls backward more than once on a graph, too


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1)])
def test_frozen_parts_get_no_gradient_and_spoil_none(frozen):
    inputs, labels = example(dtype=torch.float64)
    for index in frozen:
        inputs[index].requires_grad_(False)
    assert_same(*both(inputs, labels, 2), tolerance=1e-12)
    linear_generation_loss(inputs[0], inputs[1], labels, bias=inputs[2]).backward()
    assert all(inputs[index].grad is None for index in frozen)


def test_frozen_head_allocates_no_gradient_for_it():
    inputs, labels = example(width=11, vocab=1009)
    inputs[1].requires_grad_(False)
    with LargestTensor(besides=inputs[1]) as seen:
        linear_generation_loss(inputs[0], inputs[1], labels, chunk_size=1).backward()
    assert 1009 <= seen.numel < 1009 * 11


def test_tied_weights():
    ids = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
    (_, weight, _), labels = example(dtype=torch.float64)
    gradients = []
    for loss_of in (
        lambda h: generation_loss(h @ weight.T, labels),
        lambda h: linear_generation_loss(h, weight, labels, chunk_size=2),
    ):
        loss_of(F.embedding(ids, weight).tanh()).backward()
        gradients.append(weight.grad)
        weight.grad = None
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_the_truth_as_the_plain_loss(dtype, device):
    inputs, labels = example(3, 67, 31, 1009, dtype=dtype)
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    labels = labels.to(device)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    (truth, true_gradients), _ = both(exact, labels)
    (plain, plain_gradients), (ours, our_gradients) = both(inputs, labels, chunk_size=17)
    assert ours.dtype == torch.float32
    assert abs(ours - plain) <= 1e-6 * plain
    assert abs(ours - truth) <= 3e-3 * truth
    for a, b, c in zip(true_gradients, plain_gradients, our_gradients, strict=True):
        assert c.dtype == dtype
        assert (c.double() - a).norm() <= 1.1 * (b.double() - a).norm() + 1e-6 * a.norm()


def test_float16_with_a_loss_scale_keeps_small_gradients():
    """Scaled by 1/n before the loss scale reaches them, they would be rounded off, or to zero."""
    inputs, labels = example(1, 9, 5, 13, dtype=torch.float16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    items, scale = 2**22, 2.0**22
    loss = linear_generation_loss(inputs[0], inputs[1], labels, num_items=items)
    wanted = generation_loss(exact[0] @ exact[1].T, labels, num_items=items)
    got = torch.autograd.grad(loss * scale, inputs[:2])
    true = torch.autograd.grad(wanted * scale, exact[:2])
    for a, b in zip(true, got, strict=True):
        assert (b.double() - a).norm() <= 5e-3 * a.norm()


def test_autocast():
    inputs, labels = example(3, 67, 31, 1009)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (plain, plain_gradients), (ours, our_gradients) = both(inputs, labels, chunk_size=17)
    assert abs(ours - plain) <= 1e-6 * plain
    for a, b in zip(plain_gradients, our_gradients, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() <= 1e-2 * a.norm()
    exact = linear_generation_loss(inputs[0], inputs[1], labels, bias=inputs[2])
    assert ours != exact  # it did run in half precision


class LargestTensor(TorchDispatchMode):
    """The largest tensor any operation makes, in elements."""

    def __init__(self, besides=None):
        super().__init__()
        self.numel = 0
        self.besides = None if besides is None else besides.data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() != self.besides:
                self.numel = max(self.numel, x.numel(), x.untyped_storage().nbytes() // x.itemsize)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_never_holds_all_the_logits(dtype, share):
    batch, tokens, width, vocab, chunk = 2, 61, 11, 211, 13
    (hidden, weight, _), labels = example(batch, tokens, width, vocab, dtype=dtype, share=share)
    with LargestTensor() as ours:
        linear_generation_loss(hidden, weight, labels, chunk_size=chunk).backward()
    with LargestTensor() as plain:
        generation_loss(hidden @ weight.T, labels).backward()
    assert plain.numel == batch * tokens * vocab  # the instrument works
    assert ours.numel == max(chunk * vocab, vocab * width, batch * tokens * width)


def test_unlabelled_positions_cost_nothing():
    """Most of an instruction batch carries no loss: the products are over the rest alone."""
    from torch.utils.flop_counter import FlopCounterMode

    (hidden, weight, _), labels = example(4, 50, 11, 211, share=0.1)
    labelled = int((labels[:, 1:] != IGNORE).sum())
    with FlopCounterMode(display=False) as counter:
        linear_generation_loss(hidden, weight, labels, chunk_size=7).backward()
    assert 0 < labelled < 40
    assert counter.get_total_flops() == 3 * 2 * labelled * 11 * 211


def test_accumulation_with_unequal_token_counts_equals_the_large_batch():
    (hidden, weight, _), labels = example(dtype=torch.float64)
    labels[1] = IGNORE
    counts = (labels[:, 1:] != IGNORE).sum(dim=1)
    assert len(set(counts.tolist())) == 3
    linear_generation_loss(hidden, weight, labels).backward()
    wanted = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    for b in range(3):
        linear_generation_loss(
            hidden[b : b + 1], weight, labels[b : b + 1], chunk_size=2, num_items=counts.sum()
        ).backward()
    torch.testing.assert_close((hidden.grad, weight.grad), wanted)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0), 5])
def test_no_label_gives_zero_and_zero_gradients(items):
    inputs, labels = example()
    labels = torch.full_like(labels, IGNORE)
    loss = linear_generation_loss(inputs[0], inputs[1], labels, num_items=items, bias=inputs[2])
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in inputs)


def test_backward_twice():
    (hidden, weight, _), labels = example(dtype=torch.float64)
    loss = linear_generation_loss(hidden, weight, labels)
    first = [g.clone() for g in torch.autograd.grad(loss, (hidden, weight), retain_graph=True)]
    second = torch.autograd.grad(3 * loss, (hidden, weight))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(3 * a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, (hidden, weight))


def test_no_grad_computes_no_gradient():
    from torch.utils.flop_counter import FlopCounterMode

    (hidden, weight, _), labels = example()
    labelled = int((labels[:, 1:] != IGNORE).sum())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss = linear_generation_loss(hidden, weight, labels)
    assert not loss.requires_grad
    assert counter.get_total_flops() == 2 * labelled * 5 * 13
    torch.testing.assert_close(loss, generation_loss(hidden @ weight.T, labels).detach())


def test_large_logits_neither_overflow_nor_vanish():
    (hidden, weight, _), labels = example(dtype=torch.float64)
    inputs = [(hidden.detach() * 300).requires_grad_(), weight, None]
    wanted, got = both(inputs, labels, 2)
    assert wanted[0] > 100
    assert_same(wanted, got, tolerance=1e-12)


def test_not_a_number_is_not_hidden():
    (hidden, weight, _), labels = example(share=1.0)
    with torch.no_grad():
        hidden[1, 2, 3] = float("nan")
    assert linear_generation_loss(hidden, weight, labels).isnan()


def test_what_does_not_fit():
    (hidden, weight, _), labels = example()
    with pytest.raises(ValueError, match="chunk_size"):
        linear_generation_loss(hidden, weight, labels, chunk_size=0)
    with pytest.raises(Exception, match="labels"):
        linear_generation_loss(hidden, weight, labels[:, :-1])
    with pytest.raises(Exception, match="weight"):
        linear_generation_loss(hidden, weight[:, :-1], labels)
