"""The cases of `labs bench memory_gpu`: a model, a plan, and whether it may teach the constants.

About a third are for calibration, the rest is for validation; families, methods and sizes are spread
over both. Models are the bare configurations in tests/doctors/configs, with random weights. `TINY`
are the same machinery on a CPU in seconds.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.bench.children import ROOT
from labs.doctors.memory.cards import capacity
from labs.doctors.memory.plan import Plan

CONFIGS = ROOT / "tests" / "doctors" / "configs"
CALIBRATION, VALIDATION = "calibration", "validation"


@dataclass(frozen=True)
class Case:
    """One run. `changes` are the plan's fields that differ from its defaults.

    limit: the card that the run is confined to ("24", or "300 MiB" of tensors on a CPU), None for all
    that the device has. It asks whether the run fits, not how much it takes.
    """

    name: str
    model: str
    split: str
    changes: dict = field(default_factory=dict)
    limit: str | None = None

    def plan(self, models: Path = CONFIGS) -> Plan:
        return Plan(str(models / self.model), **self.changes)

    @property
    def limit_bytes(self) -> int | None:
        return None if self.limit is None else capacity(self.limit)[1]

    def identity(self, models: Path = CONFIGS) -> dict[str, Any]:
        """Everything that says what is run, wherever the configurations lie: plain JSON."""
        plan = self.plan(models).to_dict() | {"model": self.model}
        config = (models / self.model / "config.json").read_bytes()
        return {
            "plan": json.loads(json.dumps(plan)),
            "limit": self.limit,
            "config": hashlib.sha256(config).hexdigest()[:16],
        }

    def is_run(self, identity: dict[str, Any], models: Path = CONFIGS) -> bool:
        """Whether an identity is this case's. A field that plans did not have yet stands at its default."""
        mine, defaults = self.identity(models), json.loads(json.dumps(Plan("").to_dict()))
        theirs = identity | {"plan": {**defaults, **identity["plan"]}}
        return mine == theirs


def _c(name: str, model: str, **changes) -> Case:
    return Case(name, model, CALIBRATION, changes)


def _v(name: str, model: str, limit: str | None = None, **changes) -> Case:
    return Case(name, model, VALIDATION, changes, limit)


_LLAVA, _NEXT, _SMOL = "llava-1.5-7b", "llava-1.6-vicuna-7b", "smolvlm-256m"
_QWEN2, _QWEN25 = "qwen2-vl-2b", "qwen2.5-vl-3b"
_PALI, _INTERN = "paligemma-3b", "internvl3-1b"
_LORA, _QLORA = {"method": "lora"}, {"method": "qlora"}
_CKPT = {"checkpointing": "full"}
_ONE, _TWO = ((448, 448),), ((448, 448), (644, 476))
_WIDE = ((1344, 896),)

CASES: tuple[Case, ...] = (
    _c("llava-lora", _LLAVA, **_LORA),
    _v("llava-lora-ckpt", _LLAVA, **_LORA, **_CKPT, batch=4, sequence_length=1024),
    _v("llava-qlora-ckpt", _LLAVA, **_QLORA, **_CKPT, batch=4),
    _v("llava-full-ckpt", _LLAVA, **_CKPT, sequence_length=1024),
    _v("llava-dpo", _LLAVA, **_LORA, **_CKPT, objective="dpo", sequence_length=1024),
    # Float32 weights, gradients and states of 7 billion parameters leave no room on an H200.
    _v("llava-full-amp", _LLAVA, precision="bf16_amp", batch=4),
    _c("next-qlora", _NEXT, **_QLORA, images=((672, 672),), sequence_length=3072),
    _v("next-lora-ckpt", _NEXT, **_LORA, **_CKPT, images=((672, 672),), sequence_length=4096, batch=2),
    _v("next-qlora-wide", _NEXT, **_QLORA, images=((1008, 336),), sequence_length=2560, batch=2),
    _v("next-frozen-ckpt", _NEXT, **_CKPT, method="frozen", images=((336, 672),)),
    _c("qwen2-full", _QWEN2, images=_ONE, sequence_length=1024),
    _v("qwen2-lora-even", _QWEN2, **_LORA, images=_ONE, sequence_length=1024, batch=4, padding=False),
    _c("qwen2-dpo", _QWEN2, **_LORA, objective="dpo", images=_ONE, sequence_length=768, batch=2),
    _v("qwen2-8bit", _QWEN2, **_CKPT, optimizer="adamw_8bit", images=((1036, 756),), batch=2),
    _v("qwen2-qlora-ckpt", _QWEN2, **_QLORA, **_CKPT, images=_ONE, sequence_length=1024, batch=8),
    _v("qwen2-full-amp", _QWEN2, precision="bf16_amp", images=_ONE, sequence_length=1024, batch=2),
    _c("qwen25-lora-ckpt", _QWEN25, **_LORA, **_CKPT, images=_TWO, batch=2),
    _c("qwen25-full-ckpt", _QWEN25, **_CKPT, images=_ONE, sequence_length=1024, batch=2),
    _v("qwen25-eager", _QWEN25, **_LORA, attention="eager", images=_ONE, sequence_length=1024),
    _v("qwen25-expandable", _QWEN25, expandable_segments=True, images=_TWO),
    _v("qwen25-dpo-full", _QWEN25, **_CKPT, objective="dpo", images=_ONE, sequence_length=768),
    _c("smol-full", _SMOL, images=((1024, 768),), sequence_length=1280, batch=4),
    _v("smol-full-amp", _SMOL, precision="bf16_amp", images=((1024, 768),), sequence_length=1280, batch=6),
    _v("smol-lora-ckpt", _SMOL, **_LORA, **_CKPT, images=((512, 512),), sequence_length=1536, batch=5),
    _v("smol-fp32", _SMOL, precision="fp32", images=((640, 960),), sequence_length=1280, batch=2),
    _c("pali-frozen", _PALI, method="frozen", sequence_length=512, batch=4),
    _v("pali-full", _PALI, sequence_length=512, batch=2),
    _c("pali-lora-ckpt", _PALI, **_LORA, **_CKPT, sequence_length=384, batch=16),
    _v("pali-qlora", _PALI, **_QLORA, sequence_length=512, batch=4),
    _c("intern-full-amp", _INTERN, precision="bf16_amp", images=_WIDE, sequence_length=2560),
    _c("intern-qlora-ckpt", _INTERN, **_QLORA, **_CKPT, images=_ONE, sequence_length=1024, batch=4),
    _v("intern-full-even", _INTERN, images=_ONE, sequence_length=1024, batch=4, padding=False),
    _v("intern-lora-ckpt", _INTERN, **_LORA, **_CKPT, images=_WIDE, sequence_length=2560, batch=8),
    # Does it fit a smaller card? One that should, one that should not, two that are close.
    _v("qwen25-on-24", _QWEN25, "24", **_LORA, attention="eager", images=_ONE, sequence_length=1024),
    _v("qwen2-on-24", _QWEN2, "24", **_LORA, images=_ONE, sequence_length=1024, batch=4, padding=False),
    _v("next-on-24", _NEXT, "24", **_LORA, **_CKPT, images=((672, 672),), sequence_length=4096, batch=2),
    _v("intern-on-48", _INTERN, "48", **_LORA, **_CKPT, images=_WIDE, sequence_length=2560, batch=8),
)  # fmt: skip

# The tiny models of the bench `memory`, on a CPU: there nothing is fragmented and there is no context.
_SMALL = {
    "sequence_length": 192,
    "images": ((56, 56),),
    "device": "cpu",
    "processor": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
}
TINY: tuple[Case, ...] = (
    _c("tiny-llava-lora", "llava", **_SMALL, **_LORA, batch=2),
    _v("tiny-qwen2-full", "qwen2_vl", **_SMALL, batch=2),
    _v("tiny-qwen25-ckpt", "qwen2_5_vl", **_SMALL, **_CKPT, batch=2),
    _c("tiny-smol-frozen", "idefics3", **_SMALL, method="frozen"),
    _v("tiny-pali-full", "paligemma", **_SMALL, batch=2),
    _v("tiny-intern-eager", "internvl", **_SMALL, attention="eager"),
    _c("tiny-next-dpo", "llava_next", **_SMALL, **_LORA, objective="dpo"),
    _v("tiny-llava-dpo-full", "llava", **_SMALL, objective="dpo"),
    _v("tiny-llava-qlora", "llava", **_SMALL, **_QLORA, batch=2),
    _v("tiny-too-large", "llava", "64 MiB", **_SMALL, batch=64),
)


def features(case: Case) -> tuple[str, ...]:
    """What a case tells about: the fewer others have told it, the more it is worth."""
    plan = case.plan()
    return (
        f"split {case.split}",
        f"family {case.model}",
        f"method {plan.method} {plan.precision}",
        f"family {case.model} {case.split}",
        f"method {plan.method} {case.split}",
        f"checkpointing {plan.checkpointing}",
        f"kernel {plan.attention} {plan.batch > 1 and plan.padding}",
        f"objective {plan.objective}",
        f"optimizer {plan.optimizer}",
        f"allocator {plan.expandable_segments}",
        f"limit {case.limit is not None}",
    )


def by_information(cases: Sequence[Case], seconds: Callable[[Case], float]) -> list[Case]:
    """The cases in an order that is useful wherever it is cut off.

    Greedy: next comes the case that tells most a second, where a feature that n cases before it have
    is worth 1 / (1 + n). Ties are broken by the given order.
    """
    left, told, ordered = list(cases), Counter(), []
    while left:
        best = max(left, key=lambda c: sum(1 / (1 + told[f]) for f in features(c)) / seconds(c))
        left.remove(best)
        ordered.append(best)
        told.update(features(best))
    return ordered
