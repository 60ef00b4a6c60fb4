import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from labs.losses import IGNORE, generation_loss, sequence_logprobs


def example(batch=3, tokens=7, vocab=11, seed=0, dtype=torch.float64):
    """Logits, and labels with padding on the left, on the right, and a row without any label."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, tokens, vocab, generator=generator, dtype=dtype) * 2
    labels = torch.randint(0, vocab, (batch, tokens), generator=generator)
    labels[0, : tokens // 2] = IGNORE
    if batch > 1:
        labels[1, tokens - 2 :] = IGNORE
    if batch > 2:
        labels[2] = IGNORE
    return logits, labels


def slow(logits, labels):
    """(-log p, row) of every labelled next token, one at a time."""
    terms = []
    for b in range(len(logits)):
        for t in range(logits.shape[1] - 1):
            label = labels[b, t + 1].item()
            if label != -100:
                z = logits[b, t].tolist()
                terms.append((math.log(sum(map(math.exp, z))) - z[label], b))
    return terms


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(2, 7),
    vocab=st.integers(2, 13),
    seed=st.integers(0, 999),
)
def test_value_is_the_slow_loop(batch, tokens, vocab, seed):
    logits, labels = example(batch, tokens, vocab, seed)
    terms = slow(logits, labels)
    total = sum(term for term, _ in terms)
    assert generation_loss(logits, labels).item() == pytest.approx(total / max(1, len(terms)))
    assert generation_loss(logits, labels, num_items=17).item() == pytest.approx(total / 17)
    sums, means = sequence_logprobs(logits, labels), sequence_logprobs(logits, labels, average=True)
    for b in range(batch):
        row = [term for term, at in terms if at == b]
        assert sums[b].item() == pytest.approx(-sum(row))
        assert means[b].item() == pytest.approx(-sum(row) / max(1, len(row)))


def test_gradients_by_finite_differences():
    logits, labels = example(3, 4, 5)
    logits.requires_grad_()
    assert gradcheck(lambda x: generation_loss(x, labels), (logits,))
    assert gradcheck(lambda x: sequence_logprobs(x, labels, average=True), (logits,))


def test_equals_transformers():
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits, labels = example(dtype=torch.float32)
    for items in (None, 23):
        theirs = ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=items)
        torch.testing.assert_close(generation_loss(logits, labels, items), theirs)


@given(seed=st.integers(0, 999))
def test_what_carries_no_label_does_not_matter(seed):
    logits, labels = example(seed=seed)
    loss = generation_loss(logits, labels)
    scrambled = logits.clone()
    silent = torch.cat([labels[:, 1:] == IGNORE, torch.ones(3, 1, dtype=torch.bool)], dim=1)
    scrambled[silent] = 1e3 * torch.randn(int(silent.sum()), 11, dtype=torch.float64)
    torch.testing.assert_close(generation_loss(scrambled, labels), loss)
    padded = torch.cat([logits, torch.randn(3, 2, 11, dtype=torch.float64)], dim=1)
    more = torch.cat([labels, torch.full((3, 2), IGNORE)], dim=1)
    torch.testing.assert_close(generation_loss(padded, more), loss)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(generation_loss(logits[order], labels[order]), loss)


def test_accumulation_equals_the_large_batch_only_with_num_items():
    logits, labels = example()
    logits.requires_grad_()
    generation_loss(logits, labels).backward()
    wanted, logits.grad = logits.grad, None
    items = (labels[:, 1:] != IGNORE).sum()
    for b in range(3):  # 4, 4 and 0 labels: unequal, and one micro-batch with none
        generation_loss(logits[b : b + 1], labels[b : b + 1], num_items=items).backward()
    torch.testing.assert_close(logits.grad, wanted)

    means = [generation_loss(logits[b : b + 1], labels[b : b + 1]) for b in range(3)]
    assert abs(sum(means) / 3 - generation_loss(logits, labels)) > 1e-3  # the well-known bug


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0), torch.tensor(0.0), 5])
def test_no_label_gives_zero_and_zero_gradients(items):
    logits, labels = example()
    logits.requires_grad_()
    loss = generation_loss(logits, torch.full_like(labels, IGNORE), items)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    logits, labels = example(3, 61, 997)
    logits = logits.to(dtype)
    got, wanted = generation_loss(logits, labels), generation_loss(logits.double(), labels)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert sequence_logprobs(logits, labels).dtype == torch.float32


def test_logprob_of_a_certain_token_is_zero_and_uniform_is_known():
    labels = torch.tensor([[0, 1, 2, 1]])
    assert sequence_logprobs(torch.zeros(1, 4, 8), labels).item() == pytest.approx(-3 * math.log(8))
    sure = torch.full((1, 4, 8), -1e4)
    sure[0, torch.arange(3), labels[0, 1:]] = 1e4
    assert sequence_logprobs(sure, labels).item() == 0
    assert generation_loss(sure, labels).item() == 0


def test_labels_that_do_not_fit():
    logits, labels = example()
    with pytest.raises(Exception, match=r"(?i)labels"):
        generation_loss(logits, labels.T)
