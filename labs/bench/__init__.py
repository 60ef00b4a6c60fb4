"""Measurements against other people's code, as ratios within one run: `labs bench`."""

import importlib
from types import ModuleType

from labs.errors import InputError

# name -> (module with run(repeats, progress) -> dict and tables(result), what it measures)
BENCHES = {
    "sft": ("labs.bench.sft", "A step of supervised fine-tuning against TRL's SFTTrainer."),
    "losses": ("labs.bench.losses", "Head and loss in one against the plain way and TRL's."),
    "infonce": (
        "labs.bench.infonce",
        "InfoNCE in blocks against the whole matrix of similarities.",
    ),
    "connectors": (
        "labs.bench.connectors",
        "Connectors of a VLM at equal training compute, by type of question (25 minutes).",
    ),
    "data": (
        "labs.bench.data",
        "The data doctor at full size: 665,000 samples, and pictures against a bare decode loop.",
    ),
    "data_faults": (
        "labs.bench.data_faults",
        "The data doctor against planted faults: precision and recall of each kind.",
    ),
    "loader": (
        "labs.bench.loader",
        "Streaming loader beside webdataset and a plain DataLoader; how full packing gets rows.",
    ),
    "evaluate": (
        "labs.bench.evaluate",
        "`labs eval` against Transformers' own batched generate, on the same questions.",
    ),
    "intervals": (
        "labs.bench.intervals",
        "How often 95 % intervals hold the truth, over 1,000 simulated data sets a case.",
    ),
    "peeking": (
        "labs.bench.peeking",
        "False alarms of A/B tests that are looked at all the time, and what an effect costs to find.",
    ),
    "interleaving": (
        "labs.bench.interleaving",
        "Requests that interleaving and A/B tests need for the same preference.",
    ),
    "grpo": (
        "labs.bench.grpo",
        "A step of GRPO against TRL's GRPOTrainer, at the same log-probabilities, loss and gradient.",
    ),
    "rlhf": (
        "labs.bench.rlhf",
        "PPO and GRPO from tiny-sft, three seeds: what they mend, what they cost (15 minutes).",
    ),
    "memory": ("labs.bench.followed", "The OOM doctor's bytes against PyTorch's profiler's."),
    "memory_gpu": (
        "labs.bench.memory_gpu",
        "The OOM doctor's predictions against a GPU (37 cases; resumable).",
    ),
    "explain_log": ("labs.bench.explain_log", "The OOM doctor's `explain` on a log of 1 GB."),
    "run_overhead": ("labs.bench.run_overhead", "What the OOM doctor's `run` costs a step."),
}


def load_bench(name: str) -> ModuleType:
    """The module of a bench by name; InputError with the nearest name for one that there is not."""
    if name not in BENCHES:
        from labs.settings import nearest

        guess = nearest(name, BENCHES)
        raise InputError(
            f"There is no bench `{name}`.",
            f"Did you mean `{guess}`?" if guess else f"Benches: {', '.join(BENCHES)}.",
        )
    return importlib.import_module(BENCHES[name][0])
