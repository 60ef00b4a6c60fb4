"""From whatever a program hands around to the storages that hold its bytes. Imports only torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Frames of PyTorch's machinery between a line that asks for memory and the follower.
_MACHINERY = (
    "torch/utils/_python_dispatch.py",
    "torch/_dynamo/eval_frame.py",
    "torch/_compile.py",
    "torch/_ops.py",
)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)


def storages_of(tensor: Tensor) -> list:
    """The untyped storages below a tensor: those inside a DTensor, the parts of a sparse one."""
    if is_traceable_wrapper_subclass(tensor):  # DTensor and its like: what is inside
        names, _ = tensor.__tensor_flatten__()
        return [s for name in names for s in storages_of(getattr(tensor, name))]
    if tensor.layout is not torch.strided:
        parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else ()
        return [s for part in parts for s in storages_of(part)]
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):  # functorch's wrappers have none
        return []


def vocabulary_of(model: nn.Module) -> int | None:
    """The width of a model's logits, from its configuration; None where it has none."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else None


def asking_frames(asker: str, most: int = 24) -> list[tuple[str, int, str]]:
    """The Python frames that asked, innermost first, without `asker`'s file and PyTorch's own."""
    frames, frame = [], sys._getframe(1)
    while frame is not None and len(frames) < most:
        code = frame.f_code
        if code.co_filename != asker and not code.co_filename.endswith(_MACHINERY):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return frames
