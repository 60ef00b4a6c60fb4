"""Which phase of a run a Python stack belongs to: load, forward, backward, optimizer step, …

A stack is a list of (file, line, function), innermost first. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import FrameType, TracebackType

Frame = tuple[str, int, str]

# Asked in this order of the whole stack: a forward pass inside generation is generation.
# (phase, the function's name, the file's path or "" for any)
RULES = [
    ("checkpoint", r"_?(save|dump)(_\w+)?|save_file|_save_checkpoint", r""),
    ("generation", r"_?generate(_and_\w+)?|generate_\w+|_sample|_beam_search", r""),
    (
        "evaluation",
        r"_?(eval|evaluate|evaluation|validate|validation|predict|prediction|test)"
        r"(_(loop|step|epoch|model|batch|all|one|metrics))?|run_(eval|validation)|compute_metrics",
        r"",
    ),
    ("load", r"_?from_pretrained|_load_\w+|load_state_dict|load_model|load_checkpoint", r""),
    ("optimizer step", r"step|_\w*step\w*|_init_group|_(multi|single)_tensor_\w+", r"[/\\]optim"),
    ("optimizer step", r"step|_take_model_step|_optimizer_step", r"deepspeed"),
    ("backward", r"_?backward(_\w+)?|_engine_run_backward", r""),
    ("forward", r"forward|_call_impl|_wrapped_call_impl", r""),
    ("load", r"to|cuda|_apply|half|bfloat16|__init__|initialize", r"[/\\]nn[/\\]|deepspeed"),
]
_RULES = [(phase, re.compile(name), re.compile(place)) for phase, name, place in RULES]

# Machinery: shown last in a report, never the place to look first.
_MACHINERY = re.compile(
    r"[/\\](torch|transformers|accelerate|deepspeed|peft|trl|lightning|pytorch_lightning)[/\\]"
    r"|[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3|^<frozen|^<eval_with_key"
    r"|[/\\]_oom_doctor[/\\]|[/\\]labs[/\\]doctors[/\\]"
)


def of_stack(stack: Iterable[Frame]) -> str | None:
    """The phase a stack stands in; None if it says nothing."""
    return _of_stack(tuple((file, function) for file, _, function in stack))


@lru_cache(maxsize=4096)
def _of_stack(stack: tuple[tuple[str, str], ...]) -> str | None:
    for phase, name, place in _RULES:
        for file, function in stack:
            # torch.utils.checkpoint keeps no checkpoint: it recomputes, in backward.
            if phase == "checkpoint" and re.search(r"torch[/\\]utils[/\\]checkpoint", file):
                continue
            if name.fullmatch(function) and place.search(file):
                return phase
    return None


def own(stack: Iterable[Frame]) -> list[Frame]:
    """The frames of the user's own files, innermost first."""
    return [frame for frame in stack if not _MACHINERY.search(frame[0])]


def of_frame(frame: FrameType | None, most: int = 60) -> list[Frame]:
    """The stack of a running frame."""
    stack: list[Frame] = []
    while frame is not None and len(stack) < most:
        code = frame.f_code
        stack.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return stack


def of_traceback(traceback: TracebackType | None, most: int = 60) -> list[Frame]:
    """The stack at which an exception was raised."""
    stack: list[Frame] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        stack.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return stack[::-1][:most]


def of_thread(ident: int) -> list[Frame]:
    """The stack of another thread, as it stands now."""
    return of_frame(sys._current_frames().get(ident))


def show_stack(stack: Iterable[Frame], most: int) -> str:
    """The user's own frames of a stack, innermost first, on one line."""
    frames = [tuple(frame) for frame in stack]
    chosen = own(frames)[:most] or frames[:most]
    return " <- ".join(f"{file}:{line} in {name}" for file, line, name in chosen) or "(unknown)"
