"""Answers of all seeds as accuracies with intervals, and the tables of `labs bench connectors`."""

from labs.evaluation import paired_bootstrap, wilson_ci

Right = dict[str, list[int]]  # question type -> 1 where the answer was right, 0 where not


def score(seeds: list[Right], baseline: list[Right] | None) -> dict:
    """{"types": {type: accuracy}, "overall": accuracy}, each pooled over the seeds.

    An accuracy is {"n", "correct", "accuracy", "ci", "by_seed"}. The overall one counts every
    question alike. With `baseline`, the same seeds' answers of another connector, it also has
    "against_mlp": the mean difference over the same questions, its bootstrap interval and p-value.
    """
    overall = _accuracy([[x for answers in right.values() for x in answers] for right in seeds])
    if baseline is not None:
        mine, theirs = (
            [x for right in runs for answers in right.values() for x in answers]
            for runs in (seeds, baseline)
        )
        found = paired_bootstrap(mine, theirs, resamples=2_000)
        overall["against_mlp"] = {
            "difference": found.difference,
            "ci": [found.low, found.high],
            "p_value": found.p_value,
        }
    types = {name: _accuracy([right[name] for right in seeds]) for name in seeds[0]}
    return {"types": types, "overall": overall}


def _accuracy(seeds: list[list[int]]) -> dict:
    n, correct = sum(map(len, seeds)), sum(map(sum, seeds))
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "ci": list(wilson_ci(correct, n)),
        "by_seed": [sum(answers) / len(answers) for answers in seeds],
    }


def cost_table(result: dict):
    """Parameters, tokens, operations and time of each connector."""
    from rich.table import Table

    setting = result["setting"]
    table = Table(
        title=f"{result['budget_flops'] / 1e12:.3g} TFLOP of training each, "
        f"batch {setting['batch']}, {setting['start']}'s tower (frozen) and language model",
        caption="Step time: CPU time of a step, over the MLP's. Quartiles over the rounds.",
    )
    table.add_column("connector")
    for heading in ("parameters", "vectors", "in sequence", "GFLOP a step", "steps", "step time"):
        table.add_column(heading, justify="right")
    for way, row in result["connectors"].items():
        low, high = row["step_time_quartiles"]
        table.add_row(
            way,
            f"{row['parameters']:,}",
            str(row["visual_tokens"]),
            str(row["placeholders"]),
            f"{row['step_flops'] / 1e9:.2f}",
            str(row["steps"]),
            f"{row['step_time']:.2f} ({low:.2f} to {high:.2f})",
        )
    return table


def accuracy_table(result: dict):
    """Accuracy by question type in %, with intervals; a column a connector."""
    from rich.table import Table

    rows, seeds = result["connectors"], len(result["setting"]["seeds"])
    first = next(iter(rows.values()))
    table = Table(
        title=f"Accuracy in % with 95 % interval, {seeds} seed(s) pooled, "
        f"{next(iter(first['types'].values()))['n']} questions a type",
        caption="A quick run: these accuracies mean nothing." if result["setting"]["quick"] else "",
    )
    table.add_column("question")
    for way in rows:
        table.add_column(way, justify="right")
    for name in first["types"]:
        table.add_row(name, *(_percent(row["types"][name]) for row in rows.values()))
    table.add_section()
    table.add_row("all", *(_percent(row["overall"]) for row in rows.values()))
    table.add_row(
        "seed by seed",
        *(" ".join(f"{100 * a:.1f}" for a in row["overall"]["by_seed"]) for row in rows.values()),
    )
    table.add_row("less the MLP", *(_difference(row["overall"]) for row in rows.values()))
    return table


def _percent(accuracy: dict) -> str:
    low, high = accuracy["ci"]
    return f"{100 * accuracy['accuracy']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def _difference(overall: dict) -> str:
    if "against_mlp" not in overall:
        return ""
    against = overall["against_mlp"]
    low, high = against["ci"]
    return f"{100 * against['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
