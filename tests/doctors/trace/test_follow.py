"""Every storage counted once, from its allocation to its end, and named after who made it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.follow.ledger import CATEGORIES

ROWS, WIDTH, HIDDEN, VOCABULARY = 32, 16, 64, 100
FLOAT = 4


class Tiny(nn.Module):
    def __init__(self, checkpointing=False):
        super().__init__()
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.checkpointing = checkpointing

    def block(self, x):
        return self.down(self.up(x).relu())

    def forward(self, x):
        x = checkpoint(self.block, x, use_reentrant=False) if self.checkpointing else self.block(x)
        return self.head(x).logsumexp(-1).sum()


def step(model, follower, x):
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loss = model(x)
    during = follower.live()
    loss.backward()
    after_backward = follower.live()
    optimizer.step()
    return during, after_backward, optimizer


def test_views_and_in_place_operators_add_nothing():
    with Follower() as follower:
        x = torch.zeros(8, 8)
        assert follower.live_bytes == 8 * 8 * FLOAT
        y = x.view(64)[3:].reshape(-1)
        y.add_(1).mul_(2)
        x.t().copy_(torch.ones(()).expand(8, 8))
        assert follower.live_bytes == 8 * 8 * FLOAT
        del x
        assert follower.live_bytes == 8 * 8 * FLOAT, "a view keeps its storage"
        del y
        assert follower.live_bytes == 0
    assert follower.peak_bytes == 8 * 8 * FLOAT + FLOAT


def test_a_storage_that_grows_in_place_is_counted_at_its_new_size():
    with Follower() as follower:
        x = torch.empty(10)
        x.resize_(100)
        assert follower.live_bytes == 100 * FLOAT


def test_each_category_of_a_step_to_the_byte():
    weights = (2 * WIDTH * HIDDEN + WIDTH * VOCABULARY) * FLOAT
    model = Tiny()
    x = torch.randn(ROWS, WIDTH)
    with Follower(model, vocabulary=VOCABULARY) as follower:
        follower.mark(x, "inputs")
        during, after, _optimizer = step(model, follower, x)
        end = follower.live()
    assert during["weights"] == after["weights"] == end["weights"] == weights
    assert during["inputs"] == x.numel() * FLOAT
    assert during["logits"] == ROWS * VOCABULARY * FLOAT
    assert during["gradients"] == during["optimizer"] == 0
    assert after["gradients"] == end["gradients"] == weights
    assert after["logits"] == 0
    assert end["optimizer"] == 2 * weights + 3 * FLOAT, "two moments, and a step a parameter"
    # relu's output (the input of `down`), down's output, logsumexp's, and the loss
    saved = {
        e.storage_id: e.bytes
        for e in follower.events
        if e.category == "activations" and e.kind == "alloc" and e.phase == "forward"
    }
    expected = [ROWS * HIDDEN * FLOAT, ROWS * WIDTH * FLOAT, ROWS * FLOAT, FLOAT]
    assert sorted(saved.values(), reverse=True)[: len(expected)] == expected


def test_live_bytes_are_the_sum_of_the_events_and_of_the_categories():
    model = Tiny()
    with Follower(model) as follower:
        _, _, _optimizer = step(model, follower, torch.randn(ROWS, WIDTH))
        total = sum(e.bytes if e.kind == "alloc" else -e.bytes for e in follower.events)
        live = follower.live()
        assert total == sum(live.values()) == follower.live_bytes > 0
        assert set(live) == set(CATEGORIES)


def test_phases_and_modules_follow_by_themselves():
    model = Tiny()
    with Follower(model) as follower, follower.in_phase("load"):
        x = torch.randn(ROWS, WIDTH)
    with Follower(model) as follower:
        step(model, follower, x)
    made = {(e.phase, e.module, e.op.split(".")[0]) for e in follower.events if e.kind == "alloc"}
    assert ("forward", "up", "mm") in made
    assert ("backward", "up", "mm") in made and ("backward", "head", "mm") in made
    phases = [e.phase for e in follower.events if e.op != "before"]
    assert {"forward", "backward", "optimizer_step"} == set(phases)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fake_tensors_give_the_events_of_real_ones(checkpointing):
    def events(mode):
        with mode, Follower() as follower:
            model = Tiny(checkpointing)
            follower.attach(model)
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            for _ in range(2):
                model(torch.ones(ROWS, WIDTH)).backward()
                optimizer.step()
                optimizer.zero_grad()
        return [(e.kind, e.bytes, e.phase, e.module, e.category) for e in follower.events if e.op]

    real, fake = events(torch.enable_grad()), events(FakeTensorMode())
    start = next(i for i, e in enumerate(real) if e[2] == "backward")
    skipped = next(i for i, e in enumerate(fake) if e[2] == "backward")
    assert real[start:] == fake[skipped:]


def test_recomputed_activations_are_seen_where_they_are_recomputed():
    model = Tiny(checkpointing=True)
    with Follower(model) as follower:
        step(model, follower, torch.randn(ROWS, WIDTH))
    recomputed = [
        e
        for e in follower.events
        if e.kind == "alloc" and e.phase == "backward" and e.category == "activations"
    ]
    assert ROWS * HIDDEN * FLOAT in [e.bytes for e in recomputed]


def test_the_hook_may_refuse_an_allocation_before_it_counts():
    class Refused(Exception):
        pass

    def budget(size, follower):
        if follower.live_bytes + size > 1000:
            raise Refused(size)

    with Follower(on_alloc=budget) as follower:
        kept = torch.zeros(200)
        with pytest.raises(Refused) as refused:
            torch.zeros(51)
        assert follower.live_bytes == 800 == follower.peak_bytes
        assert refused.value.args == (51 * FLOAT,)
        del kept
        torch.zeros(250)


def test_the_stack_of_modules_survives_an_exception():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    model = nn.Sequential(nn.Linear(2, 2), Fails())
    with Follower(model) as follower:
        with pytest.raises(RuntimeError, match="no"):
            model(torch.zeros(1, 2))
        assert follower.module == ""


def test_what_moves_to_the_host_leaves_the_device():
    with Follower() as follower:
        x = torch.zeros(100)
        follower.move(x, "host")
        assert (follower.live_bytes, follower.host_bytes) == (0, 400)
        with follower.on_host():
            y = torch.zeros(10)
        assert follower.host_bytes == 440
        release = follower.hold(64, "weights", "layer", "fetch")
        assert follower.live_bytes == 64 and follower.live()["weights"] == 64
        release()
        del x, y
        assert (follower.live_bytes, follower.host_bytes) == (0, 0)


def test_stacks_name_the_line_that_allocated():
    with Follower(stacks=True) as follower:
        kept = torch.zeros(3)
        block = next(iter(follower.blocks.values()))
    file, _, function = block.stack[0]
    assert file == __file__ and function == "test_stacks_name_the_line_that_allocated"
    assert kept.numel() == 3


def test_a_bounded_history_keeps_the_last_events_and_the_right_peak():
    with Follower(history=4) as follower:
        for size in range(1, 20):
            torch.zeros(size)
    assert len(follower.events) == 4
    assert follower.peak_bytes == 19 * FLOAT and follower.live_bytes == 0
