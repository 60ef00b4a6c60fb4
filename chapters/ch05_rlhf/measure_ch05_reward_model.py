"""What a reward model learns from its pairs, and what a policy learns from the reward model.

Prints one JSON object for `python -m book.measure ch05_reward_model` (about 20 minutes on two cores).

Reward models, by the recipe tiny_rm with the changes of `MODELS`:

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
rewards and scores on held-out questions, before and after.
"""

import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

SAMPLED = {"pairs.corrected": 0.0, "pairs.world.lessons": [], "pairs.world.length": 6000}
MODELS = {
    "balanced/0": {},
    "balanced/1": {"train.seed": 1},
    "balanced/2": {"train.seed": 2},
    "sampled": SAMPLED,
    "long": {"pairs.length_bias": 2.0},
    "facts": {"facts": True},
}
SETTINGS = {"pairs.held_out": 0, "train.report_to": "none", "train.progress": False}
NOISE = 0.3  # of the recipe's annotators
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
    "chapters/ch05_rlhf/runs.py",
    "labs/recipes/tiny_rm.yaml",
    "labs/recipes/pairs.py",
    "labs/data/preference",
    "labs/train/preferences.py",
    "labs/train/reward.py",
    "labs/train/reward_run.py",
    "labs/train/facts.py",
    "labs/train/policy",
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

    from labs.models.scalar_head import RewardModel
    from labs.zoo.pairs import held_out_pairs, score_row

    torch.set_num_threads(1)
    rated, facts, asked = RewardModel.load(folder), name == "facts", _start()
    rows = {}
    for task in TASKS:
        rows |= held_out_pairs(asked, task, "en", 1000)
    found = {"pairs": {row: score_row(rated, pairs, facts) for row, pairs in rows.items()}}
    found["calibration"] = _calibration(rated, facts, rows)
    found["length"] = _length(rated, facts, asked)
    found["faults"] = _faults(rated, facts)
    return found


def _differences(rated, pairs, facts: bool):
    """Raw reward(chosen) - reward(rejected), whose sigmoid is a probability."""
    import numpy as np

    from labs.train.reward_run import score_pairs

    found = score_pairs(rated, rated.processor, pairs, facts=facts, batch_size=128)
    return np.array(found.differences)


def _calibration(rated, facts: bool, rows: dict) -> dict:
    """Of 70 %, do 70 % come true? Pairs turned at random; annotators nobody asked before."""
    import numpy as np

    from labs.data.preference import Judged, panel, vote
    from labs.evaluation.calibration import expected_calibration_error, reliability

    pairs = [p for task in TASKS for p in rows[task]] + rows["caption, corrected"]
    difference = _differences(rated, pairs, facts)
    turned = np.random.default_rng(0).random(len(pairs)) < 0.5
    probability = 1 / (1 + np.exp(-np.where(turned, -difference, difference)))
    found = {}
    for size in (1, 3):
        people = panel(size, seed=77, noise=NOISE)  # the recipe's have other seeds
        outcomes = []
        for pair, other_way in zip(pairs, turned, strict=True):
            a, b = (
                Judged(text, quality)
                for text, quality in zip(
                    (pair.chosen, pair.rejected), pair.meta["quality"], strict=True
                )
            )
            outcomes.append(vote(people, a, b, pair.id).majority != bool(other_way))
        found[f"{size} asked"] = {
            "n": len(pairs), "ece": expected_calibration_error(probability, outcomes),
            "curve": [b._asdict() for b in reliability(probability, outcomes)],
        }  # fmt: skip
    return found


def _length(rated, facts: bool, asked) -> dict:
    """Rewards of tiny-sft's captions against their length, at equal quality of one prompt."""
    from labs.data.preference import answer_quality
    from labs.evaluation import wilson_ci
    from labs.evaluation.calibration import length_bias
    from labs.models.rollout import sample_completions
    from labs.shapes import Mix
    from labs.train.policy.completion import Completion
    from labs.train.policy.rewards_model import ModelReward
    from labs.train.policy.world import WorldPrompts
    from labs.zoo.pairs import held_out_pairs

    mix = Mix(tasks={"caption": 1.0}, chinese=0.0, digits=0.0)
    prompts = list(WorldPrompts(300, mix, "test", seed=9))
    said = sample_completions(
        *asked, [p.messages for p in prompts], [p.images for p in prompts], num_generations=8,
        max_new_tokens=112, seed=9,
    )  # fmt: skip
    again = [p for p in prompts for _ in range(8)]
    completions = [
        Completion(t, int(n), bool(f))
        for t, n, f in zip(said.texts, said.mask.sum(1), said.finished, strict=True)
    ]
    rewards = ModelReward(rated, rated.processor, 128, facts)(again, completions)
    strata = [
        f"{p.id} {answer_quality(p.about['qa'], p.about['scene'], c.text)}"
        for p, c in zip(again, completions, strict=True)
    ]
    found = {"sampled": length_bias(rewards, [len(t) for t in said.texts], strata)._asdict()}
    pairs = held_out_pairs(asked, "caption", "en", 1000)
    pairs = [p for some in pairs.values() for p in some if len(p.chosen) != len(p.rejected)]
    right = _differences(rated, pairs, facts) > 0
    for row, longer in (("better is longer", True), ("better is shorter", False)):
        own = [r for r, p in zip(right, pairs, strict=True)
               if (len(p.chosen) > len(p.rejected)) == longer]  # fmt: skip
        found[row] = {"n": len(own), "accuracy": sum(own) / len(own)}
        found[row]["ci"] = list(wilson_ci(int(sum(own)), len(own)))
    return found


def _faults(rated, facts: bool) -> dict:
    """How often the true caption is preferred, by the fault of the other."""
    from labs.shapes import Mix, judge
    from labs.train.policy.world import WorldPrompts
    from labs.zoo.pairs import held_out_pairs, score_row

    kinds: dict[str, list] = {"invented": [], "left out": [], "misdescribed": []}
    mix = Mix(tasks={"caption": 1.0}, chinese=0.0, digits=0.0, adversarial=0.5)
    scenes = {p.id: p.about["scene"] for p in WorldPrompts(1000, mix, "test", seed=0)}
    for pair in held_out_pairs(None, "caption", "en", 1000)["caption, corrected"]:
        found = judge(scenes[pair.id.rsplit("-", 2)[0]], pair.rejected)
        fault = (
            "invented" if found.hallucinated else "left out" if found.missing else "misdescribed"
        )
        kinds[fault].append(pair)
    return {fault: score_row(rated, pairs, facts) for fault, pairs in kinds.items()}


def measure_ensemble(folders: list[str]) -> dict:
    """Disagreement of the balanced seeds about pairs that their mean judges right and wrong."""
    import numpy as np
    import torch
    from scipy import stats

    from labs.evaluation import wilson_ci
    from labs.models.scalar_head import RewardModel
    from labs.zoo.pairs import held_out_pairs

    torch.set_num_threads(1)
    members, asked = [RewardModel.load(folder) for folder in folders], _start()
    found = {}
    for task in TASKS:
        pairs = held_out_pairs(asked, task, "en", 1000)[task]
        each = np.stack(
            [_differences(m, pairs, False) / float(m.reward_std) for m in members]
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
    mix = {"existence": EXISTENCE, "everything": EVERYTHING}[settings.pop("mix")]
    start, rated = _start(), RewardModel.load(folder)
    reward = {"rm": (ModelReward(rated, start[1], 128), 1.0), "oracle": (WorldReward(), 0.0)}
    made = trainer(STEPS, mix=mix, reward=MixedReward(reward), start=start, **settings)
    types = ("existence_adversarial", "caption", "count")
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
