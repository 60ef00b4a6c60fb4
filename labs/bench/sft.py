"""A step of supervised fine-tuning: our loop against TRL's SFTTrainer, at the same loss.

Same files, weights, order, batches, labels, fp32, fused AdamW, schedule, clipping and frozen tower,
one thread each. Both decode every image and tokenise every conversation as they go, and both log
the loss after each step. Before anything is timed, hashes of the weights and of the first batch are
compared; the losses of the first ten steps must agree to 1e-4.

TRL also computes entropy, token accuracy and a token count, in every step, and offers no switch. The
targets hold against TRL with those taken out (`trl`); `trl with metrics` is TRL as it comes. On a CPU
TRL's head scores every position, on a GPU only those with a label, as ours does everywhere: with a
large vocabulary part of the difference on a CPU is this.

Seconds a sample are wall-clock seconds; CPU seconds are beside them, for a machine that others use
too. Peak memory is the child's high-water mark over all its steps less its level after imports.
"""

import importlib.util
import tempfile
from pathlib import Path

from labs.bench.children import BenchError, Progress, interleave, medians, ratio, spread
from labs.bench.record import ENCODING
from labs.errors import InputError

WAYS = ("labs", "trl", "trl with metrics")
TOLERANCE = 1e-4
LOSS_STEPS = 10
# Steps in a turn are chosen so that a turn takes a second or more: shorter ones measure the switch.
SIZES = {
    "tiny": {"batch": 16, "steps": 5, "turns": 8, "resolution": 48},
    "100m": {"batch": 4, "steps": 1, "turns": 9, "resolution": 96},
}
TARGETS = {"tiny": 1.2, "100m": 1.0}  # samples a second, ours / TRL's
OPTIMIZER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
}
SEED = 0
CODE = (
    "labs/bench/sft.py",
    "labs/bench/sft_child.py",
    "labs/bench/sft_models.py",
    "labs/bench/children.py",
    "labs/bench/memory.py",
    "labs/train",
    *ENCODING,
    "labs/losses",
    "labs/models",
)


class NotComparable(BenchError):
    """The children do not train the same thing, so that a ratio of their speeds means nothing."""


def run(
    repeats: int = 1,
    progress: Progress | None = None,
    sizes: tuple[str, ...] = tuple(SIZES),
    ways: tuple[str, ...] = WAYS,
    **changes: int,
) -> dict:
    """Measure each size with `repeats` fresh sets of children; medians over all their rounds.

    `changes` overrides batch, steps (in a turn) and turns of every size. Returns

        {"setting": {...},
         "sizes": {size: {"loss": {way: [first ten]}, "loss_difference": x,
                          "samples_per_second": {way: x}, "peak_mb": {way: x},
                          "against": {other: {"speed": x, "speed_quartiles": [x, x],
                                              "cpu": x, "memory": x}}, ...}}}

    Speed ratios are ours / TRL's (above 1: ours is faster), memory too (below 1: ours is smaller).
    Raises InputError without TRL, NotComparable where the losses or what is trained differ.
    """
    if importlib.util.find_spec("trl") is None:
        raise InputError("TRL is not installed.", 'Install it with: pip install -e ".[trl]"')
    result = {
        "setting": {"repeats": repeats, "dtype": "float32", "threads": 1, "optimizer": OPTIMIZER},
        "sizes": {},
    }
    for size in sizes:
        plan = SIZES[size] | changes
        with tempfile.TemporaryDirectory() as folder:
            result["sizes"][size] = _measure(size, plan, Path(folder), repeats, ways, progress)
    return result


def _measure(size, plan, folder, repeats, ways, progress) -> dict:
    turns = plan["turns"] + 1  # the first warms up
    max_steps = turns * plan["steps"]
    settings = {
        "size": size,
        # A step more than is run: TRL reads one batch ahead, and in the last step it shall too.
        "data": str(_write_data(folder, (max_steps + 1) * plan["batch"], plan["resolution"])),
        "batch": plan["batch"],
        "steps": plan["steps"],
        "max_steps": max_steps,
        "max_length": 1024,
        "optimizer": OPTIMIZER,
    }
    rounds, peaks = [], []
    for repeat in range(repeats):
        name = f"{size}, children {repeat + 1} of {repeats}"
        setups, new = interleave(
            "labs.bench.sft_child",
            ways,
            settings,
            turns,
            first=repeat,
            name=name,
            progress=progress,
        )
        _check_same(setups, size)
        losses = {way: [loss for r in new for loss in r[way]["losses"]] for way in ways}
        difference = _check_losses(losses, size)
        rounds += new[1:]
        peaks.append(new[-1])
    seconds = medians(rounds, "seconds_per_sample")
    return {
        "plan": plan,
        "parameters": setups["labs"]["parameters"],
        "first_batch": {key: setups["labs"][key] for key in ("shape", "labelled")},
        "loss": {way: losses[way][:LOSS_STEPS] for way in ways},
        "loss_difference": difference,
        "samples_per_second": {way: 1 / seconds[way] for way in ways},
        "cpu_seconds_per_sample": medians(rounds, "cpu_seconds_per_sample"),
        "peak_mb": medians(peaks, "peak_mb"),
        "against": {other: _against(other, rounds, peaks) for other in ways if other != "labs"},
    }


def _against(other: str, rounds: list[dict], peaks: list[dict]) -> dict:
    return {
        "speed": ratio(rounds, "seconds_per_sample", other, "labs"),
        "speed_quartiles": list(spread(rounds, "seconds_per_sample", other, "labs")),
        "cpu": ratio(rounds, "cpu_seconds_per_sample", other, "labs"),
        "memory": ratio(peaks, "peak_mb", "labs", other),
    }


def _write_data(folder: Path, samples: int, resolution: int) -> Path:
    """The world's conversations as LLaVA JSON with PNG files."""
    from labs.shapes import Mix, render, stream_record, write_dataset

    def records():
        for index in range(samples):
            record = stream_record(Mix(), index, "train", SEED)
            yield record | {"image": render(record["meta"]["scene"], resolution)}

    return write_dataset(folder, records())


def _check_same(setups: dict[str, dict], size: str) -> None:
    """Every child starts from the same weights and sees the same first batch."""
    mine = setups["labs"]
    for way, setup in setups.items():
        if setup["weights"] != mine["weights"]:
            raise NotComparable(f"{size}: {way} starts from other weights, or trains other parts.")
        names = mine["batch"].keys() | setup["batch"].keys()
        if differ := sorted(n for n in names if setup["batch"].get(n) != mine["batch"].get(n)):
            raise NotComparable(
                f"{size}: the first batch of {way} differs in {', '.join(differ)}: {setup['shape']} "
                f"with {setup['labelled']} labels, ours {mine['shape']} with {mine['labelled']}."
            )


def _check_losses(losses: dict[str, list[float]], size: str) -> float:
    """The largest difference of the first ten losses to ours; NotComparable above the tolerance."""
    mine = losses["labs"][:LOSS_STEPS]
    for way, values in losses.items():
        for step, (a, b) in enumerate(zip(mine, values, strict=False), 1):
            if not abs(a - b) <= TOLERANCE:  # so that a NaN differs too
                raise NotComparable(f"{size}: at step {step} our loss is {a}, that of {way} {b}.")
    return max(abs(a - b) for values in losses.values() for a, b in zip(mine, values, strict=False))


def tables(result: dict) -> list:
    """The losses side by side, and the speeds and memory, as rich tables."""
    from rich.table import Table

    made = []
    for size, row in result["sizes"].items():
        losses = Table(title=f"{size}: loss, step by step (differ by {row['loss_difference']:.1e})")
        losses.add_column("step", justify="right")
        for way in row["loss"]:
            losses.add_column(way, justify="right")
        for step, values in enumerate(zip(*row["loss"].values(), strict=True), 1):
            losses.add_row(str(step), *(f"{value:.6f}" for value in values))
        made.append(losses)

        plan = row["plan"]
        table = Table(
            title=f"{size}: {row['parameters'] / 1e6:.1f}M parameters, batch {plan['batch']}, "
            f"float32, one thread, {result['setting']['repeats']} x {plan['turns']} rounds",
            caption=f"Target against trl: {TARGETS[size]} times as fast, memory no higher.",
        )
        for column in ("way", "samples/s", "CPU ms/sample", "peak MB"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for column in ("labs is faster by (quartiles)", "by CPU time", "memory"):
            table.add_column(column, justify="right")
        for way, speed in row["samples_per_second"].items():
            cells = [way, f"{speed:.3g}", f"{1000 * row['cpu_seconds_per_sample'][way]:.1f}"]
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
