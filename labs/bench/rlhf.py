"""PPO and GRPO from tiny-sft by the shipped recipes: what they mend and what they cost.

Each algorithm is trained with each seed, in a process of its own on one thread, and answers the same
held-out questions as tiny-sft did. Asked of each: adversarial existence at least 80 % at a yes-rate of
40 to 60 %; at most half the invented objects a caption at no lower recall; for every other type at
most 2 points lost, at the upper 95 % bound of the paired drop.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from labs.bench.record import POLICY
from labs.errors import InputError

START = "tiny-sft"
RECIPES = {"ppo": "tiny_ppo", "grpo": "tiny_grpo"}
SEEDS = 3
QUESTIONS = 2000
WORKERS = 2
SEED = 0
CODE = (
    "labs/bench/rlhf.py",
    "labs/suites/alignment.py",
    *POLICY,
    "labs/train/methods.py",
    "labs/recipes/tiny_ppo.yaml",
    "labs/recipes/tiny_grpo.yaml",
    "labs/losses/advantages.py",
    "labs/losses/logprobs.py",
    "labs/losses/masked.py",
    "labs/losses/policy.py",
    "labs/models/decoding.py",
    "labs/models/generation.py",
    "labs/models/lora.py",
    "labs/models/rollout.py",
    "labs/shapes",
    "labs/zoo/weights/tiny-sft",
)
TARGETS = {
    "adversarial_accuracy": 0.80,
    "yes_rate": (0.40, 0.60),
    "invented_ratio": 0.5,
    "drop_bound": 0.02,
}


def run(
    repeats: int = 1,
    progress: Callable[[str], None] | None = None,
    recipes: dict[str, str] = RECIPES,
    seeds: int = SEEDS,
    questions: int = QUESTIONS,
    overrides: Sequence[str] = (),
    workers: int = WORKERS,
) -> dict:
    """Train and ask. `repeats` multiplies the seeds; `overrides` change every recipe (for a quick look).

    Returns {"setting", "before": summary, "after": {algorithm: {"summary", "change", "seeds": [...],
    "verdict"}}}; see labs.suites.alignment for the rows.
    """
    from labs.suites.alignment import change, pooled, summary

    if questions < 2 or seeds < 1:
        raise InputError(f"{questions} questions and {seeds} seeds.", "Ask 2, train 1 at least.")
    say = progress or (lambda text: None)
    jobs = [(None, None, 0)]
    jobs += [(n, r, seed) for seed in range(seeds * repeats) for n, r in recipes.items()]
    answers: dict = {}
    runs: dict = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {
            pool.submit(_job, recipe, seed, questions, tuple(overrides)): (name, seed)
            for name, recipe, seed in jobs
        }
        for done in as_completed(waiting):
            name, seed = waiting[done]
            answers[name, seed], runs[name, seed] = done.result()
            right = answers[name, seed]["existence_adversarial"].right.mean()
            say(f"{name or START}, seed {seed}: adversarial existence {100 * right:.1f} %")
    before = answers[None, 0]
    after = {}
    for name in recipes:
        trained = [answers[name, seed] for seed in range(seeds * repeats)]
        together = pooled(trained)
        after[name] = {
            "summary": _pooled_summary(trained),
            "change": change(before, together),
            "seeds": [
                {"summary": summary(t), "change": change(before, t), **runs[name, seed]}
                for seed, t in enumerate(trained)
            ],
        }
        after[name]["verdict"] = verdict(after[name])
    return {
        "setting": {
            "start": START, "recipes": dict(recipes), "seeds": seeds * repeats,
            "questions": questions, "overrides": list(overrides), "targets": TARGETS,
        },
        "before": summary(before),
        "after": after,
    }  # fmt: skip


def _job(recipe: str | None, seed: int, questions: int, overrides: tuple[str, ...]):
    """Train (or only load the start) and answer, on one thread."""
    import torch

    from labs.models import load_vlm
    from labs.recipes import load
    from labs.recipes.run import run_recipe
    from labs.suites.alignment import answer_all

    torch.set_num_threads(1)
    about: dict = {}
    if recipe is None:
        model, processor = load_vlm(START)
    else:
        started = time.perf_counter()
        loaded = load(recipe, [f"seed={seed}", "progress=false", "report_to=none", *overrides])
        model, processor, result = run_recipe(loaded)
        seconds = time.perf_counter() - started
        about = {"seconds": seconds, "steps": result.steps, "history": _thin(result.history)}
    model.eval()
    return answer_all(model, processor, questions), about


def _thin(history: list[dict]) -> dict[str, list]:
    """The curves that a page draws."""
    keys = ("step", "reward", "kl_per_sequence", "entropy", "hallucination_rate", "response_length",
            "clip_fraction", "no_signal", "value_explained_variance", "task/existence")  # fmt: skip
    return {k: [round(e[k], 5) if k in e else None for e in history] for k in keys}


def _pooled_summary(trained: list[dict]) -> dict:
    """Rates over all seeds' answers; the interval is that of the questions' means over the seeds."""
    from labs.evaluation import bootstrap_ci
    from labs.suites.alignment import pooled

    found: dict = {}
    for name, a in pooled(trained).items():
        row = {"n": len(a.right), "accuracy": float(a.right.mean())}
        row["ci"] = list(bootstrap_ci(a.right, resamples=2000, method="percentile"))
        if a.yes is not None:
            row["yes_rate"] = float(a.yes.mean())
        if a.invented is not None:
            row |= {"invented": float(a.invented.mean()), "recall": float(a.named.mean())}
            row["hallucinating"] = float(sum((t[name].invented > 0).mean() for t in trained))
            row["hallucinating"] /= len(trained)
        found[name] = row
    return found


def verdict(after: dict) -> dict[str, bool]:
    """Which of the targets the pooled seeds reach."""
    from labs.suites.alignment import OTHERS

    found, changed = after["summary"], after["change"]
    adversarial, captions = found["existence_adversarial"], changed["caption"]
    low, high = TARGETS["yes_rate"]
    ratio = captions["invented_ratio"]
    return {
        "adversarial_accuracy": adversarial["accuracy"] >= TARGETS["adversarial_accuracy"],
        "yes_rate": low <= adversarial["yes_rate"] <= high,
        "invented": ratio is not None and ratio <= TARGETS["invented_ratio"],
        "recall": captions["recall_gain"] >= 0 or captions["recall_ci"][1] >= 0,
        "others": all(changed[name]["drop_bound"] <= TARGETS["drop_bound"] for name in OTHERS),
    }


def tables(result: dict):
    """What each algorithm changed, type by type."""
    from rich.table import Table

    setting, before = result["setting"], result["before"]
    table = Table(
        title=f"{setting['questions']:,} held-out questions a type, {setting['seeds']} seeds",
        caption="Points gained on the same questions, 95 % interval. Invented: objects a caption.",
    )
    table.add_column("questions")
    table.add_column(setting["start"], justify="right")
    for name in result["after"]:
        table.add_column(name, justify="right")
        table.add_column("gain", justify="right")
    for kind, row in before.items():
        cells = [kind, _cell(row)]
        for after in result["after"].values():
            low, high = after["change"][kind]["ci"]
            cells += [_cell(after["summary"][kind]), f"{100 * low:+.1f} to {100 * high:+.1f}"]
        table.add_row(*cells)
    captions = [f"{before['caption']['invented']:.3f}"]
    recalls = [f"{100 * before['caption']['recall']:.1f}"]
    for after in result["after"].values():
        row, changed = after["summary"]["caption"], after["change"]["caption"]
        ratio = changed["invented_ratio"]
        captions += [f"{row['invented']:.3f}", "" if ratio is None else f"x {ratio:.2f}"]
        low, high = changed["recall_ci"]
        recalls += [f"{100 * row['recall']:.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
    table.add_section()
    table.add_row("invented", *captions)
    table.add_row("objects named", *recalls)
    goals = Table(title="Targets, all seeds together")
    goals.add_column("algorithm")
    names = list(next(iter(result["after"].values()))["verdict"])
    for name in names:
        goals.add_column(name.replace("_", " "))
    for name, after in result["after"].items():
        goals.add_row(name, *("reached" if after["verdict"][v] else "missed" for v in names))
    return [table, goals]


def _cell(row: dict) -> str:
    cell = f"{100 * row['accuracy']:.1f}"
    return cell + f" (yes {100 * row['yes_rate']:.0f})" if "yes_rate" in row else cell
