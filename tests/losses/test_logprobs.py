"""Log-probabilities and entropies: slow loops, finite differences, TRL, and what is allocated."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labs.losses.generation import IGNORE
from labs.losses.logprobs import entropy, linear_token_logprobs, token_logprobs

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def example(batch=3, tokens=7, width=5, vocab=13, seed=0, dtype=torch.float32, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, tokens, width, generator=generator).to(dtype)
    weight = torch.randn(vocab, width, generator=generator).to(dtype)
    bias = torch.randn(vocab, generator=generator).to(dtype)
    ids = torch.randint(0, vocab, (batch, tokens), generator=generator)
    ids[torch.rand(batch, tokens, generator=generator) > share] = IGNORE
    return [x.requires_grad_() for x in (hidden, weight, bias)], ids


def weights_like(ids, dtype=torch.float64):
    """What arrives from a policy loss: a different gradient for every token."""
    return torch.randn(ids.shape, generator=torch.Generator().manual_seed(7)).to(ids.device, dtype)


def both(inputs, ids, temperature=1.0, chunk_size=None):
    """(log-probabilities, entropies, gradients) of the plain way and of ours."""
    hidden, weight, bias = inputs
    logits = F.linear(hidden, weight, bias)
    uncertain = entropy(logits, temperature).masked_fill(ids == IGNORE, 0).detach()
    ways = (
        (token_logprobs(logits, ids, temperature), uncertain),
        linear_token_logprobs(hidden, weight, ids, bias, temperature, chunk_size),
    )
    needed = [x for x in inputs if x is not None and x.requires_grad]
    return [
        (logprobs.detach(), uncertain, *torch.autograd.grad(
            (logprobs * weights_like(ids, logprobs.dtype)).sum(), needed
        ))
        for logprobs, uncertain in ways
    ]  # fmt: skip


def assert_same(wanted, got, tolerance):
    """Relative to the size of each tensor, so that a small gradient is not let through."""
    for a, b in zip(wanted, got, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * a.abs().max()


@settings(max_examples=50)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 4),
    vocab=st.integers(2, 6),
    temperature=st.sampled_from([0.3, 1.0, 1, 2.5]),
    seed=st.integers(0, 999),
)
def test_plain_log_probabilities_and_entropies_equal_a_slow_loop(
    batch, tokens, vocab, temperature, seed
):
    (hidden, weight, _), ids = example(batch, tokens, 4, vocab, seed, torch.float64)
    logits = (hidden @ weight.T).detach()
    got, uncertain = token_logprobs(logits, ids, temperature), entropy(logits, temperature)
    for b in range(batch):
        for t in range(tokens):
            powers = [math.exp(x / temperature) for x in logits[b, t].tolist()]
            p = [x / sum(powers) for x in powers]
            wanted = 0 if ids[b, t] == IGNORE else math.log(p[ids[b, t]])
            assert got[b, t].item() == pytest.approx(wanted, abs=1e-9)
            wanted = -sum(x * math.log(x) for x in p)
            assert uncertain[b, t].item() == pytest.approx(wanted, abs=1e-9)


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 9),
    width=st.integers(1, 7),
    vocab=st.integers(2, 17),
    seed=st.integers(0, 999),
    chunk=st.sampled_from([None, 1, 2, 3, 100]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    with_bias=st.booleans(),
    frozen=st.sampled_from([(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1)]),
)
def test_linear_is_the_plain_way(
    batch, tokens, width, vocab, seed, chunk, temperature, with_bias, frozen
):
    inputs, ids = example(batch, tokens, width, vocab, seed, torch.float64)
    for index in frozen:
        inputs[index].requires_grad_(False)
    if not with_bias:
        inputs[2] = None
    if any(x is not None and x.requires_grad for x in inputs):
        assert_same(*both(inputs, ids, temperature, chunk), tolerance=1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("frozen", [False, True])
def test_float32_to_one_in_a_million(device, frozen):
    inputs, ids = example(3, 67, 31, 1009)
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    inputs[1].requires_grad_(not frozen)
    inputs[2].requires_grad_(not frozen)
    for chunk_size in (17, 1000):
        assert_same(*both(inputs, ids.to(device), 0.7, chunk_size), tolerance=2e-6)


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_gradients_by_finite_differences(chunk_size):
    inputs, ids = example(2, 4, 3, 5, dtype=torch.float64)

    def logprobs(hidden, weight, bias):
        return linear_token_logprobs(hidden, weight, ids, bias, 0.7, chunk_size)[0]

    assert gradcheck(logprobs, inputs)  # calls backward more than once on a graph, too
    assert gradcheck(lambda hidden: logprobs(hidden, *(x.detach() for x in inputs[1:])), inputs[0])


def test_where_trl_computes_the_same():
    """TRL's fused head, on a CPU its loop of torch operations, and its two functions on logits."""
    pytest.importorskip("trl.trainer.utils")
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    (hidden, weight, bias), ids = example(2, 20, 16, 301, share=1.1)
    logits = F.linear(hidden, weight, bias)
    wanted = selective_log_softmax(logits, ids, temperature=0.7)
    torch.testing.assert_close(token_logprobs(logits, ids, 0.7), wanted, rtol=1e-5, atol=1e-5)
    wanted = entropy_from_logits(logits / 0.7)
    torch.testing.assert_close(entropy(logits, 0.7), wanted, rtol=1e-5, atol=1e-5)

    theirs = ChunkedLogProbFunction.apply(
        hidden.flatten(0, 1), weight, bias, ids.flatten(), 0.7, 100, None, 1.0, ("entropy",)
    )
    ours = linear_token_logprobs(hidden, weight, ids, bias, 0.7, chunk_size=7)
    for a, b in zip(theirs, ours, strict=False):
        torch.testing.assert_close(a.view_as(ids), b, rtol=1e-5, atol=1e-5, check_stride=False)
    ways = [
        torch.autograd.grad((x.view_as(ids) * weights_like(ids, x.dtype)).sum(), (hidden, weight))
        for x in (theirs[0], ours[0])
    ]
    for a, b in zip(*ways, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frozen", [False, True])
def test_half_precision_is_as_near_the_truth_as_the_plain_way(dtype, device, frozen):
    inputs, ids = example(3, 67, 31, 1009, dtype=dtype)
    ids = ids.to(device)
    inputs = [x.detach().to(device).requires_grad_() for x in inputs]
    inputs[1].requires_grad_(not frozen)
    inputs[2].requires_grad_(not frozen)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    truth, _ = both(exact, ids, 0.7)
    plain, ours = both(inputs, ids, 0.7, chunk_size=17)
    assert ours[0].dtype == ours[1].dtype == torch.float32
    assert_same(plain[:2], ours[:2], tolerance=1e-5)
    for a, b, c in zip(truth[2:], plain[2:], ours[2:], strict=True):
        assert c.dtype == dtype
        assert (c.double() - a).norm() <= 1.1 * (b.double() - a).norm() + 1e-6 * a.norm()


def test_autocast():
    inputs, ids = example(3, 67, 31, 1009)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ours = both(inputs, ids, chunk_size=17)
    assert_same(plain[:2], ours[:2], tolerance=1e-5)
    for a, b in zip(plain[2:], ours[2:], strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() <= 1e-2 * a.norm()
    exact, _ = linear_token_logprobs(inputs[0], inputs[1], ids, inputs[2])
    assert not torch.equal(exact, ours[0])  # it did run in half precision


class LargestTensor(TorchDispatchMode):
    """The largest tensor any operation makes, in elements."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel(), x.untyped_storage().nbytes() // x.itemsize)
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_never_holds_all_the_logits(dtype, frozen, temperature):
    batch, tokens, width, vocab, chunk = 2, 61, 11, 211, 13
    (hidden, weight, _), ids = example(batch, tokens, width, vocab, dtype=dtype, share=1.1)
    weight.requires_grad_(not frozen)
    with LargestTensor() as ours:
        linear_token_logprobs(hidden, weight, ids, None, temperature, chunk)[0].sum().backward()
    with LargestTensor() as plain:
        token_logprobs(hidden @ weight.T, ids, temperature).sum().backward()
    assert plain.numel == batch * tokens * vocab  # the instrument works
    assert ours.numel == max(chunk * vocab, vocab * width, batch * tokens * width)


def test_a_frozen_head_costs_two_products_and_a_whole_chunk_three():
    from torch.utils.flop_counter import FlopCounterMode

    (hidden, weight, _), ids = example(4, 50, 11, 211, share=0.1)
    chosen = int((ids != IGNORE).sum())
    assert 0 < chosen < 40  # -100 costs nothing: the products are over the rest alone
    product = 2 * chosen * 11 * 211

    def products(*, chunk_size, backward=True):
        with FlopCounterMode(display=False) as counter:
            logprobs, _ = linear_token_logprobs(hidden, weight, ids, chunk_size=chunk_size)
            if backward:
                logprobs.sum().backward()
        return counter.get_total_flops() / product

    assert products(chunk_size=7) == 4
    assert products(chunk_size=chosen) == 3
    weight.requires_grad_(False)
    assert products(chunk_size=7) == 2
    with torch.no_grad():
        assert products(chunk_size=7, backward=False) == 1


def test_no_id_at_all_gives_zeros_and_zero_gradients():
    for frozen in (False, True):
        inputs, ids = example()
        inputs[1].requires_grad_(not frozen)
        inputs[2].requires_grad_(not frozen)
        ids = torch.full_like(ids, IGNORE)
        logprobs, uncertain = linear_token_logprobs(inputs[0], inputs[1], ids, inputs[2])
        plain = token_logprobs(F.linear(*inputs), ids)
        (logprobs + plain).sum().backward()
        assert not logprobs.any() and not plain.any() and not uncertain.any()
        for x in inputs:
            assert x.grad is None or torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("chunk_size", [2, 100])
@pytest.mark.parametrize("frozen", [False, True])
def test_backward_twice(chunk_size, frozen):
    (hidden, weight, _), ids = example(dtype=torch.float64)
    weight.requires_grad_(not frozen)
    needed = (hidden,) if frozen else (hidden, weight)
    logprobs, _ = linear_token_logprobs(hidden, weight, ids, chunk_size=chunk_size)
    first = torch.autograd.grad(logprobs.sum(), needed, retain_graph=True)
    second = torch.autograd.grad(3 * logprobs.sum(), needed)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_tied_weights():
    tokens = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
    (_, weight, _), ids = example(dtype=torch.float64)
    gradients = []
    for logprobs_of in (
        lambda h: token_logprobs(h @ weight.T, ids),
        lambda h: linear_token_logprobs(h, weight, ids, chunk_size=2)[0],
    ):
        logprobs_of(F.embedding(tokens, weight).tanh()).sum().backward()
        gradients.append(weight.grad)
        weight.grad = None
    torch.testing.assert_close(*gradients)


def test_what_carries_a_gradient():
    (hidden, weight, _), ids = example()
    logprobs, uncertain = linear_token_logprobs(hidden, weight, ids)
    assert logprobs.requires_grad and not uncertain.requires_grad
    with torch.no_grad():
        logprobs, _ = linear_token_logprobs(hidden, weight, ids)
    assert not logprobs.requires_grad
    assert entropy(hidden @ weight.T).requires_grad


def test_entropy_by_finite_differences_and_at_its_ends():
    (hidden, weight, _), _ = example(1, 3, 4, 5, dtype=torch.float64)
    logits = (hidden @ weight.T).detach().requires_grad_()
    assert gradcheck(lambda x: entropy(x, 0.7), logits)
    assert entropy(torch.zeros(2, 8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert entropy(torch.tensor([1000.0, 0, 0])).item() == 0


def test_entropy_of_tokens_ruled_out():
    """Logits of -inf, as top-p leaves them, are as good as absent: no NaN in value or gradient."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gone = logits.clone()
    gone[:, 4:] = float("-inf")
    gone.requires_grad_()
    kept = logits[:, :4].clone().requires_grad_()
    torch.testing.assert_close(entropy(gone), entropy(kept))
    entropy(gone).sum().backward()
    entropy(kept).sum().backward()
    torch.testing.assert_close(gone.grad[:, :4], kept.grad)
    assert not gone.grad[:, 4:].any()


def test_large_logits_neither_overflow_nor_vanish():
    (hidden, weight, _), ids = example(dtype=torch.float64)
    inputs = [(hidden.detach() * 300).requires_grad_(), weight, None]
    wanted, got = both(inputs, ids, chunk_size=2)
    assert wanted[0].min() < -100
    assert_same(wanted, got, tolerance=1e-11)


def test_entropy_of_large_logits_in_float32_is_no_difference_of_large_numbers():
    """log-sum-exp less the mean logit, the other formula, is a rounding of 1e-3 at this height."""
    (hidden, weight, bias), ids = example(share=1.1)
    high = (bias.detach().double() + 1e4).float()
    exact = entropy(F.linear(hidden, weight, high))
    _, got = linear_token_logprobs(hidden.detach() * 1.0, weight, ids, high)
    torch.testing.assert_close(got, exact.detach(), rtol=1e-5, atol=1e-5)


def test_not_a_number_is_not_hidden():
    (hidden, weight, _), ids = example(share=1.1)
    with torch.no_grad():
        hidden[1, 2, 3] = float("nan")
    logprobs, uncertain = linear_token_logprobs(hidden, weight, ids)
    for found in (logprobs, uncertain, token_logprobs(hidden @ weight.T, ids)):
        assert found.isnan().nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_is_above_zero(temperature):
    (hidden, weight, _), ids = example()
    for call in (
        lambda: token_logprobs(hidden @ weight.T, ids, temperature),
        lambda: entropy(hidden @ weight.T, temperature),
        lambda: linear_token_logprobs(hidden, weight, ids, None, temperature),
    ):
        with pytest.raises(ValueError, match="temperature is above zero"):
            call()


def test_what_does_not_fit():
    (hidden, weight, _), ids = example()
    with pytest.raises(ValueError, match="chunk_size"):
        linear_token_logprobs(hidden, weight, ids, chunk_size=0)
    with pytest.raises(Exception, match="ids"):
        linear_token_logprobs(hidden, weight, ids[:, :-1])
    with pytest.raises(Exception, match="ids"):
        token_logprobs(hidden @ weight.T, ids[:, :-1])
    with pytest.raises(Exception, match="weight"):
        linear_token_logprobs(hidden, weight[:, :-1], ids)
