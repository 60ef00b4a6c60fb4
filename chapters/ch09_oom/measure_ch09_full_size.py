"""LLaVA-1.5-7B as the doctor predicts it, for several ways to train it. No GPU is involved."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from labs.doctors.memory.forecast.predict import Predictor  # noqa: E402
from labs.doctors.memory.plan import Plan  # noqa: E402
from labs.doctors.memory.trace.pool import Pool  # noqa: E402

MODEL = "tests/doctors/configs/llava-1.5-7b"
WAYS = {
    "LoRA": {"method": "lora"},
    "LoRA, checkpointing": {"method": "lora", "checkpointing": "full"},
    "LoRA, checkpointing, chunked loss": {
        "method": "lora",
        "checkpointing": "full",
        "loss": "chunked",
    },
    "QLoRA, checkpointing, chunked loss": {
        "method": "qlora",
        "checkpointing": "full",
        "loss": "chunked",
    },
    "DPO on LoRA, checkpointing": {
        "method": "lora",
        "checkpointing": "full",
        "objective": "dpo",
    },
}


def main() -> None:
    plans = {}
    with Pool() as pool:
        for name, changes in WAYS.items():
            plan = Plan(str(ROOT / MODEL), batch=4, sequence_length=1024, **changes)
            found = Predictor(plan, pool).shallow()
            fits = [one.card for one in found.fits if one.verdict == "yes"]
            plans[name] = {
                "bytes": found.gpu.bytes,
                "low": found.gpu.low,
                "high": found.gpu.high,
                "step": max(size for phase, size in found.phases.items() if phase != "load"),
                "phase": found.peak_phase,
                "card": fits[0] if fits else "none",
                "breakdown": found.breakdown,
            }
            print(name, found.gpu.bytes / 2**30, fits[:1], file=sys.stderr)
    code = ["labs/doctors/memory", MODEL, "chapters/ch09_oom/measure_ch09_full_size.py"]
    print(json.dumps({"seed": 0, "code": code, "results": {"plans": plans}}))


if __name__ == "__main__":
    main()
