"""What makes policy training unstable, and what repairs it: curves of every arm, three seeds.

Prints one JSON object for `python -m book.measure ch05_unstable` (about 15 minutes on two cores).

captions    paid only for inventing nothing: without KL, and with 0.1 and 0.3
narrow      existence questions alone, all weights, 100 steps: without KL, with it, by LoRA, all tasks asked
whitening   a reward that is 10 too high everywhere: advantages whitened or not
values      a reward a hundred times as large: value loss clipped or not
explore     a start that always says yes: as it is, hotter, and after 20 steps of supervised sparks
"""

import copy
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from labs.bench.record import POLICY

SEEDS = (0, 1, 2)
CURVES = (
    "reward", "hallucination_rate", "objects_named", "response_length", "kl_per_sequence",
    "approx_kl", "value_loss", "no_signal",
)  # fmt: skip
CODE = [
    "chapters/ch05_rlhf/measure_ch05_unstable.py",
    "chapters/ch05_rlhf/runs.py",
    *POLICY,
    "labs/suites/alignment.py",
    "labs/losses/advantages.py",
    "labs/losses/policy.py",
    "labs/losses/logprobs.py",
    "labs/models/decoding.py",
    "labs/models/rollout.py",
    "labs/zoo/weights/tiny-sft",
]


def arms() -> dict[str, dict]:
    """group/arm -> how it is trained."""
    from runs import EVERYTHING, Affine

    from labs.shapes import Mix
    from labs.train.policy.rewards import HallucinationPenalty

    captions = {
        "mix": Mix(tasks={"caption": 1.0}, digits=0.0, chinese=0.0), "learning_rate": 2e-3,
        "reward": HallucinationPenalty(), "steps": 40, "prompts_per_step": 8,
    }  # fmt: skip
    narrow = {"steps": 100, "method": "full", "max_new_tokens": 8}
    ppo = {"algorithm": "ppo", "num_generations": 4, "steps": 8, "max_new_tokens": 8}
    whiten = ppo | {"num_epochs": 2, "minibatch_size": 32, "reward": Affine(1, 10)}
    values = ppo | {"num_epochs": 4, "minibatch_size": 32, "reward": Affine(100, 0), "kl_coef": 0.0}
    values |= {"value_learning_rate": 1e-3}
    explore = {"start": "always yes", "steps": 30, "kl_coef": 0.0, "max_new_tokens": 8}
    return {
        "captions/no KL": captions | {"kl_coef": 0.0},
        "captions/KL 0.1": captions | {"kl_coef": 0.1},
        "captions/KL 0.3": captions | {"kl_coef": 0.3},
        "narrow/no KL": narrow | {"kl_coef": 0.0},
        "narrow/KL 0.1": narrow | {"kl_coef": 0.1},
        "narrow/LoRA, no KL": narrow | {"kl_coef": 0.0, "method": "lora"},
        "narrow/all tasks asked": narrow | {"kl_coef": 0.1, "mix": EVERYTHING, "max_new_tokens": 112},
        "whitening/not whitened": whiten | {"whiten_advantages": False},
        "whitening/whitened": whiten,
        "values/not clipped": values | {"clip_value": None},
        "values/clipped": values,
        "explore/as it is": explore,
        "explore/hotter": explore | {"temperature": 2.0},
        "explore/sparked": explore | {"start": "sparked"},
    }  # fmt: skip


def run(name: str, seed: int) -> dict:
    """One arm with one seed: its curves and its scores on 300 held-out questions a type."""
    import torch
    from runs import always_yes, scores, spark, trainer

    torch.set_num_threads(1)
    settings = dict(arms()[name])
    start = settings.pop("start", "tiny-sft")
    if start != "tiny-sft":
        made = always_yes(seed)
        start = spark(copy.deepcopy(made), seed) if start == "sparked" else made
    made = trainer(settings.pop("steps"), start=start, seed=seed, **settings)
    before = scores(made.model, made.processor, 300)
    result = made.train()
    curves = {
        key: [None if e.get(key) is None else round(e[key], 5) for e in result.history]
        for key in CURVES
        if any(key in e for e in result.history)
    }
    after = scores(made.model, made.processor, 300)
    return {"seed": seed, "before": before, "after": after, "curves": curves}


def main() -> None:
    found: dict[str, list] = {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run, name, s): name for s in SEEDS for name in arms()}
        for number, done in enumerate(as_completed(waiting), 1):
            name = waiting[done]
            found.setdefault(name, []).append(done.result())
            after = {k: round(v, 3) for k, v in found[name][-1]["after"].items()}
            print(f"{number} of {len(waiting)}: {name} {after}", file=sys.stderr, flush=True)
    for runs in found.values():
        runs.sort(key=lambda r: r["seed"])
    results = {name: found[name] for name in arms()}
    print(json.dumps({"seed": SEEDS[0], "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
