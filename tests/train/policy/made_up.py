"""Made-up diaries: a healthy run with its noise, and what the tests change about it."""

import json
import math
import random
from pathlib import Path

RUN = {"algorithm": "ppo", "model": "tiny-sft", "policy": {"max_new_tokens": 32, "kl_target": None}}


def healthy(steps: int = 120, seed: int = 0) -> list[dict]:
    """A PPO run that learns: complete, noisy, and nothing wrong with it."""
    random_ = random.Random(seed)

    def noise(width):
        return random_.gauss(0, width)

    entries = []
    for step in range(1, steps + 1):
        done = step / steps
        learnt = 1 - math.exp(-3 * done)
        entries.append(
            {
                "step": step,
                "reward": 0.4 + 0.4 * learnt + noise(0.05),
                "reward_std": 0.4 - 0.1 * learnt + noise(0.02),
                "rewards/answer": 0.5 + 0.4 * learnt + noise(0.05),
                "rewards/length": -0.1 + noise(0.01),
                "task/existence": 0.4 + 0.5 * learnt + noise(0.08),
                "task/count": 0.8 + 0.05 * learnt + noise(0.08),
                "task/caption": 0.6 + 0.1 * learnt + noise(0.08),
                "kl": 0.05 * learnt + abs(noise(0.005)),
                "kl_per_sequence": 0.6 * learnt + abs(noise(0.05)),
                "kl_coef": 0.05,
                "entropy": 0.5 - 0.2 * learnt + noise(0.02),
                "loss": 0.02 + noise(0.02),
                "policy_loss": noise(0.02),
                "value_loss": 0.2 * math.exp(-3 * done) + 0.02,
                "clip_fraction": 0.05 + abs(noise(0.02)),
                "approx_kl": 0.004 + abs(noise(0.002)),
                "value_explained_variance": 0.7 * learnt - 0.1 * (1 - learnt) + noise(0.05),
                "response_length": 9 + noise(0.6),
                "finished": min(1.0, 0.97 + noise(0.01)),
                "no_signal": min(max(0.25 + 0.1 * learnt + noise(0.05), 0), 1),
                "hallucination_rate": max(0.15 - 0.1 * learnt + noise(0.03), 0),
                "mismatch": 0.002 + abs(noise(0.0005)),
                "mismatch_max": 0.05 + abs(noise(0.02)),
                "learning_rate": 1e-4 * (1 - done),
                "grad_norm": 0.8 + abs(noise(0.2)),
                "updates": 4,
                "stopped_early": 0,
                "seconds_rollout": 0.9 + abs(noise(0.05)),
                "seconds_score": 0.05,
                "seconds_update": 0.6 + abs(noise(0.05)),
                "completions_per_second": 80 + noise(3),
                "tokens_per_second": 800 + noise(30),
            }
        )
    return entries


def changed(entries: list[dict], **curves) -> list[dict]:
    """The same entries with some quantities replaced; a curve takes 0 (start) to 1 (end). None: absent.

    "__" in a name stands for "/".
    """
    found = []
    for place, entry in enumerate(entries):
        entry = dict(entry)
        for name, curve in curves.items():
            name = name.replace("__", "/")
            if curve is None:
                entry.pop(name, None)
            else:
                entry[name] = curve(place / (len(entries) - 1))
        found.append(entry)
    return found


def write(folder: Path, entries: list[dict], samples=(), run=RUN) -> Path:
    """The three files of a diary, written by other code than the diary's own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diary.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    if samples:
        (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder
