"""A step of GRPO: our trainer against TRL's GRPOTrainer, with the same features on.

Same weights, adapter, prompts, pictures, reward, generations a prompt, longest answer, temperature,
micro-batch, fp32, fused AdamW, clipping and penalty for the distance to the reference, which is the
same model with its adapter off; one thread each. A step is a rollout, its scoring and one update, and
both log loss, reward, KL, entropy, clip fraction, lengths and groups without a signal after it. The
learning rate is tiny, so that the policy, and with it the length of its answers, stays as it is.

Sampled answers differ, so losses of two runs cannot be compared. Before anything is timed each side
puts the same given answers through all of its own code after the rollout: prompts, log-probabilities,
reference, advantages, loss and the adapter's gradient must agree to 1e-4. Mean lengths of the timed
answers must agree too, for they decide the work.

tiny    the zoo's tiny-sft, whose answers end by themselves: a word or a sentence
fixed   its architecture with random weights, which never stop: all answers equally long
100m    about 100M random weights, a vocabulary of 32,000; never stops either

`trl as it comes` leaves two of its defaults on: activations are computed again in the backward pass,
and the KL's gradient is corrected for stale samples. It trains in fp32 like the others, where its
default is bf16.

Seconds a completion are wall-clock seconds; CPU seconds are beside them, for a machine that others
use too. Peak memory is the child's high-water mark over all its steps less its level after imports.
"""

import importlib.util
import tempfile
from pathlib import Path

from labs.bench.children import BenchError, Progress, interleave, medians, ratio, spread
from labs.errors import InputError

WAYS = ("labs", "trl", "trl as it comes")
TOLERANCE = 1e-4
LENGTHS_AGREE = 0.1  # relative: within the noise of sampling, over the rounds of a size
# Steps in a turn are chosen so that a turn takes a second or more: shorter ones measure the switch.
# Micro-batches are the whole step at once: TRL's fastest at the tiny size, while 8 would suit us better.
SIZES = {
    "tiny": {
        "model": "tiny-sft", "prompts": 8, "generations": 8, "max_new_tokens": 64,
        "micro_batch": 64, "steps": 3, "turns": 8, "resolution": 48,
    },
    "fixed": {
        "model": "tiny", "prompts": 8, "generations": 8, "max_new_tokens": 32,
        "micro_batch": 64, "steps": 3, "turns": 8, "resolution": 48,
    },
    "100m": {
        "model": "100m", "prompts": 2, "generations": 8, "max_new_tokens": 24,
        "micro_batch": 16, "steps": 1, "turns": 5, "resolution": 96,
    },
}  # fmt: skip
TARGETS = {"tiny": 1.5, "fixed": 1.5, "100m": 1.0}  # completions a second, ours / TRL's
GRPO = {
    "beta": 0.05,
    "epsilon": 0.2,
    "temperature": 1.0,
    "loss_type": "dapo",  # TRL's default: the mean over all tokens of the step
    "scale_rewards": "group",
}
OPTIMIZER = {
    "learning_rate": 1e-6,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "constant",
}
SEED = 0
CODE = (
    "labs/bench/grpo.py",
    "labs/bench/grpo_child.py",
    "labs/bench/grpo_check.py",
    "labs/bench/grpo_models.py",
    "labs/bench/sft_models.py",
    "labs/bench/children.py",
    "labs/bench/memory.py",
    "labs/train",
    "labs/losses",
    "labs/models",
    "labs/shapes",
    "labs/zoo/weights/tiny-sft",
)
# What the gradient of `trl as it comes` adds is not in ours: equal in value, not in gradient.
OTHER_GRADIENT = ("trl as it comes",)


class NotComparable(BenchError):
    """The children do not do the same thing, so that a ratio of their speeds means nothing."""


def run(
    repeats: int = 1,
    progress: Progress | None = None,
    sizes: tuple[str, ...] = tuple(SIZES),
    ways: tuple[str, ...] = WAYS,
    **changes: int,
) -> dict:
    """Measure each size with `repeats` fresh sets of children; medians over all their rounds.

    `changes` overrides settings of every size, such as steps (in a turn) and turns. Returns

        {"setting": {...},
         "sizes": {size: {"difference": {way: {"logprobs": x, ...}},
                          "completions_per_second": {way: x}, "peak_mb": {way: x},
                          "logged": {way: {"response_length": x, ...}},
                          "against": {other: {"speed": x, "speed_quartiles": [x, x],
                                              "cpu": x, "memory": x}}, ...}}}

    Speed ratios are ours / TRL's (above 1: ours is faster), memory too (below 1: ours is smaller).
    Raises InputError without TRL, NotComparable where what is computed, or how much, differs.
    """
    if importlib.util.find_spec("trl") is None:
        raise InputError("TRL is not installed.", 'Install it with: pip install -e ".[trl]"')
    setting = {"repeats": repeats, "dtype": "float32", "threads": 1}
    result: dict = {"setting": setting | {"grpo": GRPO, "optimizer": OPTIMIZER}, "sizes": {}}
    for size in sizes:
        plan = SIZES[size] | changes
        with tempfile.TemporaryDirectory() as folder:
            result["sizes"][size] = _measure(size, plan, Path(folder), repeats, ways, progress)
    return result


def _measure(size, plan, folder, repeats, ways, progress) -> dict:
    from labs.bench.grpo_models import write_prompts

    turns = plan["turns"] + 1  # the first warms up
    max_steps = turns * plan["steps"]
    # A step more than is run: TRL reads one batch ahead, and in the last step it shall too.
    data = write_prompts(folder, (max_steps + 1) * plan["prompts"], plan["resolution"], SEED)
    settings = plan | {
        "data": str(data),
        "folder": str(folder),
        "max_steps": max_steps,
        "grpo": GRPO,
        "optimizer": OPTIMIZER,
    }
    rounds, peaks = [], []
    for repeat in range(repeats):
        name = f"{size}, children {repeat + 1} of {repeats}"
        setups, new = interleave(
            "labs.bench.grpo_child", ways, settings, turns,
            first=repeat, name=name, progress=progress,
        )  # fmt: skip
        difference = _check_same(setups, size)
        rounds += new[1:]
        peaks.append(new[-1])
    seconds = medians(rounds, "seconds_per_completion")
    logged = {way: _logged(rounds, way) for way in ways}
    _check_lengths({way: entry["response_length"] for way, entry in logged.items()}, size)
    return {
        "plan": plan,
        "parameters": setups["labs"]["parameters"],
        "trained": setups["labs"]["trained"],
        "difference": difference,
        "completions_per_second": {way: 1 / seconds[way] for way in ways},
        "cpu_seconds_per_completion": medians(rounds, "cpu_seconds_per_completion"),
        "peak_mb": medians(peaks, "peak_mb"),
        "logged": logged,
        "against": {other: _against(other, rounds, peaks) for other in ways if other != "labs"},
    }


def _against(other: str, rounds: list[dict], peaks: list[dict]) -> dict:
    return {
        "speed": ratio(rounds, "seconds_per_completion", other, "labs"),
        "speed_quartiles": list(spread(rounds, "seconds_per_completion", other, "labs")),
        "cpu": ratio(rounds, "cpu_seconds_per_completion", other, "labs"),
        "memory": ratio(peaks, "peak_mb", "labs", other),
    }


def _logged(rounds: list[dict], way: str) -> dict[str, float]:
    """What a way logged, as means over the rounds."""
    entries = [r[way]["logged"] for r in rounds]
    return {name: sum(entry[name] for entry in entries) / len(entries) for name in entries[0]}


def _check_same(setups: dict[str, dict], size: str) -> dict[str, dict[str, float]]:
    """{way: {what: largest difference to ours on the given answers}}; NotComparable above 1e-4."""
    from safetensors.torch import load_file

    mine = setups["labs"]
    given = load_file(mine["check"])
    difference: dict[str, dict[str, float]] = {}
    for way, setup in setups.items():
        for what in ("weights", "adapter"):
            if setup[what] != mine[what]:
                raise NotComparable(f"{size}: {way} starts from another {what} than we do.")
        theirs = load_file(setup["check"])
        skipped = ("gradient",) if way in OTHER_GRADIENT else ()
        difference[way] = _differences(
            {name: given[name] for name in given if name not in skipped}, theirs, f"{size}: {way}"
        )
    del difference["labs"]
    return difference


def _differences(ours: dict, theirs: dict, who: str) -> dict[str, float]:
    """The largest difference of each tensor; NotComparable where it is above the tolerance."""
    found = {}
    for name, tensor in ours.items():
        other = theirs[name]
        if tensor.shape != other.shape:
            raise NotComparable(
                f"{who} has {name} of shape {list(other.shape)} for the given answers, we "
                f"{list(tensor.shape)}."
            )
        found[name] = float((tensor - other).abs().max())
        if not found[name] <= TOLERANCE:  # so that a NaN differs too
            raise NotComparable(f"{who} differs in {name} of the given answers by {found[name]}.")
    return found


def _check_lengths(lengths: dict[str, float], size: str) -> None:
    """Answers of other lengths are other work."""
    for way, length in lengths.items():
        if not abs(length - lengths["labs"]) <= LENGTHS_AGREE * lengths["labs"]:
            raise NotComparable(
                f"{size}: answers of {way} have {length:.2f} tokens, ours {lengths['labs']:.2f}: "
                "that is another amount of work. Measure more rounds."
            )


def tables(result: dict) -> list:
    """The differences on given answers, and the speeds and memory, as rich tables."""
    from rich.table import Table

    made = []
    for size, row in result["sizes"].items():
        same = Table(title=f"{size}: largest difference to ours for the same given answers")
        same.add_column("way")
        names = next(iter(row["difference"].values()))
        for name in names:
            same.add_column(name, justify="right")
        for way, found in row["difference"].items():
            same.add_row(way, *(f"{found[n]:.1e}" if n in found else "" for n in names))
        made.append(same)

        plan = row["plan"]
        table = Table(
            title=f"{size}: {row['parameters'] / 1e6:.1f}M parameters, {plan['prompts']} prompts x "
            f"{plan['generations']} answers a step, float32, one thread, "
            f"{result['setting']['repeats']} x {plan['turns']} rounds",
            caption=f"Target against trl: {TARGETS[size]} times as fast, memory no higher.",
        )
        columns = ("way", "completions/s", "CPU ms/completion", "tokens", "peak MB")
        for column in columns:
            table.add_column(column, justify="left" if column == "way" else "right")
        for column in ("labs is faster by (quartiles)", "by CPU time", "memory"):
            table.add_column(column, justify="right")
        for way, speed in row["completions_per_second"].items():
            cells = [way, f"{speed:.3g}", f"{1000 * row['cpu_seconds_per_completion'][way]:.1f}"]
            cells.append(f"{row['logged'][way]['response_length']:.2f}")
            cells.append(f"{row['peak_mb'][way]:.0f}")
            if against := row["against"].get(way):
                low, high = against["speed_quartiles"]
                cells += [
                    f"{against['speed']:.2f} ({low:.2f} to {high:.2f})",
                    f"{against['cpu']:.2f}",
                    f"{against['memory']:.2f}",
                ]
            table.add_row(*cells)
        made.append(table)
    return made
