"""Connectors at equal training compute: what a vector, a parameter and a step buy.

All start from tiny-base's vision tower and language model, with a new connector. The tower is
frozen, so that every connector reads the same features. Connector and language model train
together: a frozen language model reads only what looks like the tokens it was trained on, which
would decide for connectors that imitate those before the first step, and against those that bring
layers of their own. Even so the start leans to 36 tokens in raster order, which is what this
language model saw before; the page says so. Optimiser and rates are the same for all.

Compute is counted, not timed: operations of forward and backward of a step (`step_flops`), in the
mean over the first batches. The MLP's steps are the budget, and every other connector takes
as many steps as fit it. So a cheaper step means more steps, on more of the same data in the same
order, with its schedule stretched to them.

Three seeds, each with its own connector, its own conversations and its own questions, so that no
question is asked twice and the answers of all seeds can be pooled. Intervals are Wilson's at 95 %
over the pooled questions; they cover the choice of questions, not that of seeds, so each seed's
accuracy is shown too. Against the MLP the same questions are compared in pairs.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from labs.bench.children import Child, Progress, interleave, medians, order, ratio, spread
from labs.bench.connectors_models import MIX, OPTIMIZER, OPTIONS, START
from labs.bench.connectors_score import score
from labs.bench.record import ENCODING
from labs.errors import InputError

WAYS = tuple(OPTIONS)
BASELINE = "mlp"
TYPES = (
    "caption",
    "existence_adversarial",
    "conjunction",
    "count",
    "colour",
    "position",
    "reasoning",
    "ocr",
)
FULL = {
    "steps": 240,
    "batch": 16,
    "questions": 200,
    "types": TYPES,
    "cost_batches": 4,
    "turns": 6,
}
QUICK = {
    "steps": 3,
    "batch": 4,
    "questions": 4,
    "types": ("existence_adversarial", "count", "colour"),
    "cost_batches": 1,
    "turns": 1,
}
CHILD = "labs.bench.connectors_child"
SEED = 0
CODE = (
    "labs/bench/connectors.py",
    "labs/bench/connectors_child.py",
    "labs/bench/connectors_models.py",
    "labs/bench/connectors_score.py",
    "labs/bench/children.py",
    "labs/train",
    *ENCODING,
    "labs/data/world.py",
    "labs/losses",
    "labs/models",
    "labs/shapes",
    "labs/suites",
    "labs/zoo/weights/tiny-base",
)


def run(
    repeats: int | None = None,
    progress: Progress | None = None,
    quick: bool = False,
    ways: Iterable[str] | None = None,
    workers: int | None = None,
    **changes,
) -> dict:
    """Measure the cost of each connector's step, then train and question each `repeats` times.

    repeats: seeds, 3 by default. quick: a few steps and questions of one seed in this process: it
    shows that everything runs and what a step costs, and its accuracies mean nothing. workers: runs
    at a time, by default one a core. `changes` overrides what is in FULL or QUICK. Returns

        {"setting": {…}, "budget_flops": x,
         "connectors": {way: {"parameters", "trainable", "visual_tokens", "placeholders",
                              "tokens_per_sample", "step_flops", "steps", "total_flops",
                              "step_time", "step_time_quartiles", "seconds", "loss": [a seed],
                              "types": {type: {"n", "correct", "accuracy", "ci", "by_seed"}},
                              "overall": {…, "against_mlp": {"difference", "ci", "p_value"}}}}}

    `step_time` is the connector's over the MLP's. Raises InputError without the MLP, or for a
    connector or setting that there is not.
    """
    ways, plan = tuple(ways or WAYS), QUICK if quick else FULL
    if unknown := [way for way in ways if way not in WAYS] + [k for k in changes if k not in plan]:
        raise InputError(
            f"There is no connector or setting `{unknown[0]}`.",
            f"Connectors: {', '.join(WAYS)}; settings: {', '.join(plan)}.",
        )
    if BASELINE not in ways:
        raise InputError(f"`{BASELINE}` is missing.", "Name it too: the others are held to it.")
    plan = plan | changes
    seeds = range(SEED, SEED + (repeats or (1 if quick else 3)))
    say, here = progress or (lambda _: None), _here if quick else _in_children
    setups, rounds = _costs(ways, plan, say, quick)
    budget = plan["steps"] * setups[BASELINE]["step_flops"]
    steps = {way: max(1, round(budget / setups[way]["step_flops"])) for way in ways}
    # The longest first: the last to end then ends soonest.
    jobs = [
        {"way": way, "seed": seed, "steps": steps[way], "batch": plan["batch"],
         "questions": plan["questions"], "types": list(plan["types"])}
        for seed in seeds for way in sorted(ways, key=steps.get, reverse=True)
    ]  # fmt: skip
    runs = here(jobs, say, workers or os.cpu_count() or 1)
    by_way = {way: [r for j, r in zip(jobs, runs, strict=True) if j["way"] == way] for way in ways}
    baseline = [r["right"] for r in by_way[BASELINE]]
    seconds = medians(rounds, "cpu_seconds_per_step")
    return {
        "setting": {
            "quick": quick, **plan, "seeds": list(seeds), "start": START, "options": OPTIONS,
            "mix": MIX, "optimizer": OPTIMIZER, "frozen": ["vision_tower"], "dtype": "float32",
            "threads": 1,
        },
        "budget_flops": budget,
        "connectors": {
            way: {
                **setups[way],
                "steps": steps[way],
                "total_flops": steps[way] * setups[way]["step_flops"],
                "cpu_seconds_per_step": seconds[way],
                "step_time": ratio(rounds, "cpu_seconds_per_step", way, BASELINE),
                "step_time_quartiles": list(spread(rounds, "cpu_seconds_per_step", way, BASELINE)),
                "seconds": [r["seconds"] for r in by_way[way]],
                "loss": [r["history"] for r in by_way[way]],
                **score([r["right"] for r in by_way[way]], None if way == BASELINE else baseline),
            }
            for way in ways
        },
    }  # fmt: skip


def _costs(ways: tuple[str, ...], plan: dict, say: Progress, quick: bool):
    """What each connector's step costs: set-ups and rounds, in children or here."""
    settings = {"batch": plan["batch"], "batches": plan["cost_batches"], "seed": SEED}
    turns = plan["turns"] + 1  # the first warms up
    if not quick:
        setups, rounds = interleave(
            CHILD, ways, settings | {"task": "cost"}, turns, name="cost", progress=say
        )
        return setups, rounds[1:]
    from labs.bench.connectors_child import Cost

    costs = {}
    for way in ways:
        say(f"cost: {way}")
        costs[way] = Cost(way, **settings)
    rounds = [{way: costs[way].turn() for way in order(ways, k)} for k in range(turns)]
    return {way: cost.setup for way, cost in costs.items()}, rounds[1:]


def _here(jobs: list[dict], say: Progress, workers: int) -> list[dict]:
    """The runs one after the other in this process."""
    from labs.bench.connectors_child import run as run_one

    return [run_one(**job) for job in _telling(jobs, say)]


def _telling(jobs: list[dict], say: Progress) -> Iterable[dict]:
    for number, job in enumerate(jobs, 1):
        say(f"run {number} of {len(jobs)}: {job['way']}, seed {job['seed']}, {job['steps']} steps")
        yield job


def _in_children(jobs: list[dict], say: Progress, workers: int) -> list[dict]:
    """Each run in a process of its own on one thread, `workers` at a time. Raises ChildFailed."""
    lock, done = threading.Lock(), []

    def one(job: dict) -> dict:
        with Child(CHILD, job["way"], job | {"task": "run"}) as child:
            child.read()
            result = child.turn()
        with lock:
            done.append(job)
            say(f"run {len(done)} of {len(jobs)} done: {job['way']}, seed {job['seed']}")
        return result

    say(f"{len(jobs)} runs, {workers} at a time")
    return _all(one, jobs, workers)


def _all(one: Callable[[dict], dict], jobs: list[dict], workers: int) -> list[dict]:
    """`one` of every job, in their order; after a failure no new one is begun."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def tables(result: dict) -> list:
    """What each connector is and costs, and how it answers, as rich tables."""
    from labs.bench.connectors_score import accuracy_table, cost_table

    return [cost_table(result), accuracy_table(result)]
