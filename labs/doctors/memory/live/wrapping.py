"""Which functions of which libraries stand for a phase of a run, and how they are wrapped.

Standard library only; loaded into observed processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

# Called once these modules are imported: {module: [(dotted name, phase)]}
WRAPPED = {
    "transformers.trainer": [
        ("Trainer.evaluation_loop", "evaluation"),
        ("Trainer._save_checkpoint", "checkpoint"),
    ],
    "transformers.modeling_utils": [("PreTrainedModel.save_pretrained", "checkpoint")],
    "transformers.generation.utils": [("GenerationMixin.generate", "generation")],
    "deepspeed.runtime.engine": [
        ("DeepSpeedEngine.backward", "backward"),
        ("DeepSpeedEngine.step", "optimizer step"),
        ("DeepSpeedEngine.save_checkpoint", "checkpoint"),
    ],
}


def wrap(owner: Any, name: str, mark: Callable[[bool], None]) -> None:
    """Replace `owner.name` by itself between two marks; it keeps its name, text and signature."""
    original = getattr(owner, name, None)
    if original is None or getattr(original, "_oom_doctor", False):
        return

    @functools.wraps(original)
    def wrapped(*arguments, **named):
        mark(True)
        try:
            return original(*arguments, **named)
        finally:
            mark(False)

    wrapped._oom_doctor = True
    setattr(owner, name, wrapped)
