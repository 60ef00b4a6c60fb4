"""What is kept on the host trains as if it were not, and is not on the device."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.follow.offload import optimizer_on_host

STEPS, MICRO = 4, 2


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).to(dtype)


def make_optimizer(parameters):
    weights, biases = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, foreach=False)


def backward(model, step):
    """Gradients of two micro-batches, which accumulate."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(MICRO):
        x = torch.randn(16, 8, generator=generator).to(next(model.parameters()).dtype)
        (F.mse_loss(model(x), x) / MICRO).backward()


def train(model, optimizer, first=0, steps=STEPS):
    for step in range(first, first + steps):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def train_with_masters(model, steps=STEPS):
    """By hand: half-precision gradients, float32 weights and updates, rounded after each step."""
    masters = copy.deepcopy(model).float()
    optimizer = make_optimizer(list(masters.parameters()))
    for step in range(steps):
        backward(model, step)
        for half, full in zip(model.parameters(), masters.parameters(), strict=True):
            full.grad, half.grad = half.grad.float(), None
        optimizer.step()
        model.load_state_dict(masters.state_dict())


def assert_equal_weights(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_optimizer_on_the_host_trains_as_on_the_device():
    plain, offloaded = make_model(), make_model()
    train(plain, make_optimizer(list(plain.parameters())))
    before = copy.deepcopy(offloaded)
    optimizer = make_optimizer(list(offloaded.parameters()))
    with Follower(offloaded) as follower, optimizer_on_host(follower, optimizer):
        train(offloaded, optimizer)
    assert not torch.equal(before[0].weight, offloaded[0].weight)
    assert_equal_weights(plain, offloaded)


def test_half_precision_weights_are_updated_in_float32():
    by_hand, offloaded = make_model(torch.bfloat16), make_model(torch.bfloat16)
    train_with_masters(by_hand)
    optimizer = make_optimizer(list(offloaded.parameters()))
    with Follower(offloaded) as follower, optimizer_on_host(follower, optimizer):
        train(offloaded, optimizer)
    assert offloaded[0].weight.dtype == torch.bfloat16
    assert_equal_weights(by_hand, offloaded)


def test_training_goes_on_with_the_same_state_before_and_after():
    plain, offloaded = make_model(), make_model()
    train(plain, make_optimizer(list(plain.parameters())), steps=3)
    optimizer = make_optimizer(list(offloaded.parameters()))
    train(offloaded, optimizer, 0, 1)
    with Follower(offloaded) as follower, optimizer_on_host(follower, optimizer):
        train(offloaded, optimizer, 1, 1)
    train(offloaded, optimizer, 2, 1)
    assert_equal_weights(plain, offloaded)
    assert set(optimizer.state) == set(offloaded.parameters())


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_on_both_sides(dtype, width):
    model = make_model(dtype)
    numbers = sum(p.numel() for p in model.parameters())
    optimizer = make_optimizer(list(model.parameters()))
    with Follower(model) as follower, optimizer_on_host(follower, optimizer):
        backward(model, 0)
        # A whole gradient has left the device; its weights and their float32 copies are held.
        assert follower.live()["gradients"] == 0
        assert follower.live("host")["gradients"] == width * numbers
        assert follower.live("host")["optimizer"] == 4 * numbers
        optimizer.step()
        optimizer.zero_grad()
        counters = 4 * len(list(model.parameters()))
        assert follower.live()["weights"] == width * numbers
        assert follower.live()["optimizer"] == 0
        assert follower.live("host")["optimizer"] == (4 + 4 + 4) * numbers + counters
