"""Traces nanoVLM's step and loads its weights into the model of the allocator; sizes in MiB."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from nanovlm import DECODER_BLOCKS, SIDE, TOWER_BLOCKS, NanoVLM
from workbench import MIB, at_peak

from labs.doctors.memory.cuda.allocator import CachingAllocator
from labs.doctors.memory.cuda.playback import play
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.trace.fakes import as_cuda, fake_tensors

# README of huggingface/nanoVLM at 91a3b93, section "VRAM Usage": one H100, SmolLM2-135M, 128 tokens;
# batch -> MiB (measure_vram.py divides max_memory_allocated by 1024² and prints "MB").
PUBLISHED = {
    1: 4448.58,
    2: 4465.39,
    4: 4532.29,
    8: 5373.46,
    16: 7604.36,
    32: 12074.31,
    64: 20995.06,
    128: 38834.19,
    256: 74561.08,
}
PUBLISHED_LOAD = 871.44
TOKENS = 128


def load() -> tuple[float, float]:
    """(asked for, allocated) after the weights went to the device one by one, as `.to()` does."""
    allocator = CachingAllocator()
    with torch.device("meta"):
        model = NanoVLM()
    for module in [m for _, m in walk(model)]:
        for parameter in module.parameters(recurse=False):
            allocator.malloc(parameter.numel() * parameter.element_size())
    return allocator.requested / MIB, allocator.allocated / MIB


def walk(module: torch.nn.Module, name: str = ""):
    """Children before their parent: the order in which nn.Module._apply moves parameters."""
    for child_name, child in module.named_children():
        yield from walk(child, f"{name}.{child_name}")
    yield name, module


def trace_step(
    batch: int, blocks: tuple[int, int] = (TOWER_BLOCKS, DECODER_BLOCKS), steps: int = 2
) -> dict:
    """Peaks of measure_vram.py's loop: float32 weights, autocast to bfloat16, AdamW (foreach)."""
    follower = Follower()
    with ExitStack() as stack:
        stack.enter_context(fake_tensors())
        stack.enter_context(follower)
        stack.enter_context(as_cuda(follower, torch.bfloat16))
        model = NanoVLM(blocks)
        follower.attach(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)
        for _ in range(steps):
            pixels, mask = torch.zeros(batch, 3, SIDE, SIDE), torch.zeros(batch, 1, 1, TOKENS)
            ids = torch.zeros(batch, TOKENS, dtype=torch.long)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(pixels, ids, ids, mask)
            loss.backward()
            optimizer.step()
            del loss
    played = play(follower.events)
    return {
        "live": follower.peak_bytes / MIB,
        "allocated": played.peak_allocated / MIB,
        "reserved": played.peak_reserved / MIB,
        "at_peak": {name: size / MIB for name, size in at_peak(follower).items()},
    }
