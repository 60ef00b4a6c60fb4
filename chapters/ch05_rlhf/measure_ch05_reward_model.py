"""What a reward model learns from its pairs, and what a policy learns from the reward model.

Prints one JSON object for `python -m book.measure ch05_reward_model` (about 20 minutes on two cores).

Reward models, by the recipe tiny_rm at three fifths of its length, with the changes of `MODELS`:

sampled       pairs of tiny-sft's own answers alone
balanced      the recipe's pairs, seeds 0, 1 and 2
long          the recipe's pairs, from annotators who like long answers
facts         the recipe's pairs; the model reads the picture's true caption too

Each has: pairs (accuracy by task and by truth, with Wilson's interval), calibration (reliability curve
under annotators who were not asked before, one or three, and its ECE), length (reward a character at
equal quality, and the accuracy on pairs of captions whose better one is the longer and the shorter),
faults (how often the true caption beats one with a fault of each kind). `ensemble` is of the balanced
seeds: how far they disagree where their mean is right and where it is wrong.

Policies: tiny-sft after GRPO on a reward model, the oracle watching (`POLICIES`); curves of both
rewards and scores on held-out questions, before and after. Asked in English: that is what the reward
models learn best.
"""

import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from labs.bench.record import POLICY

SAMPLED = {"pairs.corrected": 0.0, "pairs.world.lessons": [], "pairs.world.length": 6000}
MODELS = {
    "balanced/0": {},
    "balanced/1": {"train.seed": 1},
    "balanced/2": {"train.seed": 2},
    "sampled": SAMPLED,
    "long": {"pairs.length_bias": 2.0},
    "facts": {"facts": True},
}
SETTINGS = {
    "pairs.held_out": 0,
    "pairs.world.length": 10_000,
    "train.report_to": "none",
    "train.progress": False,
}
NOISE = 0.3  # of the recipe's annotators
QUESTIONS = 600  # held out, of each task
TASKS = ("caption", "existence", "conjunction", "count", "colour", "position", "reasoning")
POLICIES = {  # which reward model, and fields of `runs.trainer`
    "sampled": ("sampled", {"mix": "existence", "max_new_tokens": 8, "kl_coef": 0.0}),
    "balanced, KL 0.1": ("balanced/0", {"mix": "everything", "kl_coef": 0.1}),
    "balanced, no KL": ("balanced/0", {"mix": "everything", "kl_coef": 0.0}),
    "long, no KL": ("long", {"mix": "everything", "kl_coef": 0.0}),
}
STEPS = 60
CURVES = (
    "reward", "rewards/rm", "rewards/oracle", "kl_per_sequence", "response_length", "entropy",
    "hallucination_rate", "objects_invented", "objects_named",
)  # fmt: skip
CODE = [
    "chapters/ch05_rlhf/measure_ch05_reward_model.py",
    "chapters/ch05_rlhf/reward_measures.py",
    "chapters/ch05_rlhf/runs.py",
    "labs/recipes/tiny_rm.yaml",
    "labs/recipes/pairs.py",
    "labs/data/preference",
    "labs/train/preferences.py",
    "labs/train/reward.py",
    "labs/train/reward_run.py",
    "labs/train/facts.py",
    *POLICY,
    "labs/models/scalar_head.py",
    "labs/losses/reward.py",
    "labs/evaluation/calibration.py",
    "labs/suites/alignment.py",
    "labs/zoo/pairs.py",
    "labs/zoo/weights/tiny-sft",
]


def train_model(name: str, folder: str) -> dict:
    """Trains one reward model, writes it to `folder`, and returns how."""
    import torch

    from labs.recipes import load
    from labs.recipes.pairs import build_pairs
    from labs.shapes import parse_yes_no
    from labs.train.reward_run import train_reward

    torch.set_num_threads(1)
    changes = [f"{k}={json.dumps(v)}" for k, v in (SETTINGS | MODELS[name]).items()]
    recipe, start, chosen = load("tiny_rm", changes), _start(), Counter()
    spec = recipe.pairs
    pairs, _ = build_pairs(spec, *start, recipe.train.seed)
    for pair in pairs:
        if pair.meta["task"] == "existence":
            chosen[parse_yes_no(pair.chosen)] += 1
    model, result = train_reward(
        *start, pairs, None, recipe.train, centring=spec.centring, facts=recipe.facts,
        base_model=recipe.model.name,
    )  # fmt: skip
    model.save(folder)
    losses = [[e["step"], round(e["loss"], 4)] for e in result.history if "loss" in e]
    return {"pairs": len(pairs), "steps": result.steps, "existence, chosen": chosen, "loss": losses}


def _start():
    from labs.models import load_vlm

    return load_vlm("tiny-sft")


def measure_model(name: str, folder: str) -> dict:
    """What the docstring above lists, of one reward model."""
    import torch
    from reward_measures import calibration_of, faults_of, length_of

    from labs.models.scalar_head import RewardModel
    from labs.zoo.pairs import held_out_pairs, score_row

    torch.set_num_threads(1)
    rated, facts, asked = RewardModel.load(folder), name == "facts", _start()
    rows = {}
    for task in TASKS:
        rows |= held_out_pairs(asked, task, "en", QUESTIONS)
    found = {"pairs": {row: score_row(rated, pairs, facts) for row, pairs in rows.items()}}
    pairs = [p for task in TASKS for p in rows[task]] + rows["caption, corrected"]
    found["calibration"] = calibration_of(rated, facts, pairs, NOISE)
    captions = rows["caption"] + rows["caption, corrected"]
    found["length"] = length_of(rated, facts, asked, captions)
    found["faults"] = faults_of(rated, facts, rows["caption, corrected"], QUESTIONS)
    return found


def measure_ensemble(folders: list[str]) -> dict:
    """Disagreement of the balanced seeds about pairs that their mean judges right and wrong."""
    import numpy as np
    import torch
    from reward_measures import differences
    from scipy import stats

    from labs.evaluation import wilson_ci
    from labs.models.scalar_head import RewardModel
    from labs.zoo.pairs import held_out_pairs

    torch.set_num_threads(1)
    members, asked = [RewardModel.load(folder) for folder in folders], _start()
    found = {}
    for task in TASKS:
        pairs = held_out_pairs(asked, task, "en", QUESTIONS)[task]
        each = np.stack(
            [differences(m, pairs, False) / float(m.reward_std) for m in members]
        )  # [members, pairs]
        mean, spread = each.mean(0), each.std(0)
        right, agree = mean > 0, np.abs(np.sign(each).sum(0)) == len(members)
        row = {
            "n": len(pairs), "members": [float((e > 0).mean()) for e in each],
            "accuracy": float(right.mean()),
            "spread where right": float(spread[right].mean()),
            "spread where wrong": float(spread[~right].mean()) if (~right).any() else None,
        }  # fmt: skip
        for name, chosen in (("all agree", agree), ("not all agree", ~agree)):
            if chosen.any():
                k, n = int(right[chosen].sum()), int(chosen.sum())
                row[name] = {"n": n, "accuracy": k / n, "ci": list(wilson_ci(k, n))}
        if (~right).any():  # how well |mean| / spread tells wrong judgements from right ones
            u = stats.mannwhitneyu(np.abs(mean)[right], np.abs(mean)[~right])
            s = stats.mannwhitneyu(spread[~right], spread[right])
            row["auc of margin"] = float(u.statistic / (right.sum() * (~right).sum()))
            row["auc of spread"] = float(s.statistic / (right.sum() * (~right).sum()))
        found[task] = row
    return found


def run_policy(name: str, folder: str) -> dict:
    """GRPO on one reward model; the oracle watches with weight 0."""
    import torch
    from runs import EVERYTHING, EXISTENCE, scores, trainer

    from labs.models.scalar_head import RewardModel
    from labs.train.policy.rewards import MixedReward, WorldReward
    from labs.train.policy.rewards_model import ModelReward

    torch.set_num_threads(1)
    settings = dict(POLICIES[name][1])
    mixes = {"existence": EXISTENCE, "everything": replace(EVERYTHING, chinese=0.0)}
    mix = mixes[settings.pop("mix")]
    start, rated = _start(), RewardModel.load(folder)
    reward = {"rm": (ModelReward(rated, start[1], 128), 1.0), "oracle": (WorldReward(), 0.0)}
    made = trainer(STEPS, mix=mix, reward=MixedReward(reward), start=start, **settings)
    types = ("existence_adversarial", "caption", "count", "reasoning", "colour", "position")
    before = scores(made.model, made.processor, 300, types)
    history = made.train().history
    after = scores(made.model, made.processor, 300, types)
    curves = {
        key: [None if e.get(key) is None else round(e[key], 5) for e in history]
        for key in CURVES
        if any(key in e for e in history)
    }
    return {"reward_model": POLICIES[name][0], "before": before, "after": after, "curves": curves}


def main() -> None:
    results: dict[str, dict] = {"models": {name: {} for name in MODELS}, "policies": {}}
    with (
        tempfile.TemporaryDirectory() as root,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        folders = {name: str(Path(root) / name.replace("/", "-")) for name in MODELS}
        waiting = {pool.submit(train_model, n, folders[n]): ("trained", n) for n in MODELS}
        done_models: set[str] = set()
        while waiting:
            done = next(as_completed(waiting))
            (what, name), found = waiting.pop(done), done.result()
            if what == "trained":
                results["models"][name]["training"] = found
                done_models.add(name)
                waiting[pool.submit(measure_model, name, folders[name])] = ("measured", name)
                for policy, (model, _) in POLICIES.items():
                    if model == name:
                        job = pool.submit(run_policy, policy, folders[name])
                        waiting[job] = ("policy", policy)
                balanced = [n for n in MODELS if n.startswith("balanced")]
                if name in balanced and done_models >= set(balanced):
                    job = pool.submit(measure_ensemble, [folders[n] for n in balanced])
                    waiting[job] = ("ensemble", "")
            elif what == "measured":
                results["models"][name] |= found
            elif what == "policy":
                results["policies"][name] = found
            else:
                results["ensemble"] = found
            print(f"{what} {name}, {len(waiting)} left", file=sys.stderr, flush=True)
    results["policies"] = {name: results["policies"][name] for name in POLICIES}
    print(json.dumps({"seed": 0, "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
