"""A prediction as lines for the terminal: the answer first, then where it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from labs.doctors.finding import size
from labs.doctors.memory.forecast.data import Worst
from labs.doctors.memory.forecast.observed import Compared
from labs.doctors.memory.forecast.prediction import Fit, Prediction

VERDICT = {"yes": "fits", "perhaps": "uncertain", "no": "does not fit"}


def plan_line(answer: Prediction) -> str:
    """The plan in one line, by what matters for memory."""
    plan = answer.plan
    words = [plan.method, plan.optimizer, plan.precision, f"batch {plan.batch}"]
    if plan.samples:
        words.append(f"rows up to {max(row['length'] for row in plan.samples):,} tokens")
    else:
        words.append(f"{plan.sequence_length:,} tokens a row")
        words += [f"image {w}x{h}" for w, h in plan.images[:2]]
        words += [f"and {len(plan.images) - 2} more images"] if len(plan.images) > 2 else []
        words += [f"video {w}x{h}x{f}" for w, h, f in plan.videos[:2]]
    words += [
        plan.attention,
        "checkpointing" if plan.checkpointing == "full" else "no checkpointing",
    ]
    if plan.objective != "sft":
        words.append(plan.objective)
    if plan.sharding != "none":
        words.append(f"{plan.sharding} on {plan.world_size}")
    return ", ".join(words)


def fit_words(fit: Fit) -> str:
    return VERDICT[fit.verdict]


def headline_lines(answer: Prediction, worst: Worst | None, width: int) -> Iterator[str]:
    """What comes first: the peak, the band, and what fits."""
    yield f"{answer.plan.model}: {plan_line(answer)}"
    yield ""
    gpu = answer.gpu
    yield f"GPU peak  {size(gpu.bytes)}   (band {size(gpu.low)} to {size(gpu.high)}; not calibrated)"
    if answer.target and answer.target.card not in [fit.card for fit in answer.fits]:
        yield f"  {answer.target.card}: {fit_words(answer.target)}"
    yield "  " + "; ".join(f"{fit.card} {fit_words(fit)}" for fit in answer.fits)
    if worst:
        yield ""
        yield from data_lines(worst, width)


def lines_of(answer: Prediction, compared: Sequence[Compared], width: int) -> Iterator[str]:
    """Everything else."""
    gpu = answer.gpu
    yield ""
    yield f"All layers: GPU peak {size(gpu.bytes)} in {answer.peak_phase} ({answer.basis})"
    yield f"Host memory of the process: about {size(answer.host.bytes)}"
    yield ""
    yield "At the peak"
    for name, count in answer.breakdown.items():
        if count >= 2**20:
            yield f"  {name:<14} {size(count):>12}  {count / gpu.bytes:5.1%}"
    if answer.modules:
        yield ""
        yield "Activations by module (* = all layers)"
        for name, count in answer.modules.items():
            yield f"  {size(count):>12}  {name}"
    yield ""
    yield "Card          offers  verdict        largest batch"
    for fit in [*answer.fits, *([answer.target] if answer.target not in answer.fits else [])]:
        batch = "" if fit.largest_batch is None else f"{fit.largest_batch:,}"
        yield f"  {fit.card:<9} {size(fit.usable):>9}  {fit_words(fit):<13} {batch:>8}"
    if answer.remedies:
        yield ""
        yield f"Remedies, each predicted by itself (goal: {answer.target.card})"
        for number, tried in enumerate(answer.remedies, 1):
            mark = "  fits" if tried.fits else ""
            yield f"  {number:2}. {tried.title}: {size(tried.gpu)} (saves {size(tried.saves)}){mark}"
            yield from textwrap.wrap(tried.costs, width - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)  # fmt: skip
    if answer.together:
        one = answer.together
        words = "fits" if one.fits else "still does not fit"
        yield f"  Together ({one.id}): {size(one.gpu)}, {words} {answer.target.card}"
    if compared:
        yield ""
        yield "Beside what was measured      predicted      measured     error"
        for line in compared:
            yield f"  {line.name:<24} {size(line.predicted):>13} {size(line.observed):>13}  {line.error:+8.1%}"
    yield ""
    yield "How sure"
    for reason in [*gpu.reasons, *answer.notes]:
        yield from textwrap.wrap(reason, width - 4, initial_indent="  - ", subsequent_indent="    ")


def data_lines(worst: Worst, width: int) -> Iterator[str]:
    """The data set's worst batch."""
    counted = "counted by the model's tokenizer" if worst.exact else "estimated from characters"
    lengths = ", ".join(f"{name} {count:,}" for name, count in worst.lengths.items())
    yield f"{worst.count:,} samples; tokens a row ({counted}): {lengths}"
    yield "Worst batch (any shuffled epoch can draw it):"
    for row in worst.rows[:8]:
        pictures = ", ".join(f"{w}x{h}" for w, h in row.images[:3]) or "no picture"
        more = f" and {len(row.images) - 3} more" if len(row.images) > 3 else ""
        yield f"  {row.id} (record {row.number}): {row.length:,} tokens, {row.visual_tokens:,} of them visual, {pictures}{more}"
    if len(worst.rows) > 8:
        yield f"  and {len(worst.rows) - 8} more"
    if worst.cut:
        yield f"  {worst.cut:,} samples are longer than the sequence length and were cut"
    for reason, (count, example) in worst.skipped.items():
        yield from textwrap.wrap(f"{count:,} samples skipped for {reason}, the first: {example}", width, initial_indent="  ", subsequent_indent="  ")  # fmt: skip
