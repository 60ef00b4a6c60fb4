"""`labs judge`: which of two models answers better, by a judge whose price is told before it starts."""

import contextlib
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from labs.errors import InputError


class Kind(StrEnum):
    prompt = "prompt"
    likelihood = "likelihood"
    claims = "claims"
    oracle = "oracle"


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Two results folders of one suite, A and B.", metavar="A B")
    ],
    judge: Annotated[
        str, typer.Option(help="The judging model: zoo name, local folder or hub id.")
    ] = "tiny-base",
    kind: Annotated[Kind, typer.Option(help="How it judges; oracle needs no model.")] = Kind.claims,
    by: Annotated[
        str | None,
        typer.Option(
            help="prompt: text or logits; claims: precision or f1; likelihood: sum or average."
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="The prompt's language, en or zh; default: the question's.")
    ] = None,
    n: Annotated[
        int | None, typer.Option(min=1, help="So many pairs, drawn by --seed; default: all.")
    ] = None,
    swap: Annotated[
        bool, typer.Option("--swap/--no-swap", help="Ask each pair in both orders.")
    ] = True,
    estimate_only: Annotated[
        bool, typer.Option("--estimate", help="Tell what it will cost, and stop.")
    ] = False,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Dollars for a million tokens read.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Dollars for a million tokens said.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Refuse to start where it may cost more dollars.")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(min=0, help="Refuse to start where it takes more calls.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before money without --budget is spent.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    device: Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")] = None,
    dtype: Annotated[str, typer.Option()] = "float32",
    seed: Annotated[int, typer.Option()] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Write every verdict to this file, JSONL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
):
    """Let a model judge which of two others answers better, and measure how far to trust it.

    Every pair is asked in both orders; verdicts that contradict each other are ties. Where the suite
    is the world's captions the oracle judges beside it: agreement, length bias and self-preference
    are told.

    Examples:  labs judge runs/eval/tiny-base/captions runs/eval/tiny-sft/captions
               labs judge A B --judge tiny-base --kind prompt --by logits --n 100 --output verdicts.jsonl
               labs judge A B --judge org/model --kind prompt --estimate --price-in 3 --price-out 15
    """
    from rich.console import Console

    from labs.suites.judge import (
        OracleJudge,
        check_budget,
        estimate,
        judge_pairs,
        report,
        side_by_side,
        write_judgements,
    )

    if len(runs) != 2:
        raise InputError(f"Two runs are judged, not {len(runs)}.", "Give two results folders.")
    console = Console(stderr=True)
    together = side_by_side(runs)
    pairs = together.pairs(n, seed)
    judging = make_judge(kind, judge, by, language, device, dtype)
    with console.status("estimating"):
        found = estimate(
            judging, pairs, swap=swap, batch_size=batch_size, price_in=price_in, price_out=price_out
        )
    if not (as_json and estimate_only):
        console.print(_cost(found, judging.name), highlight=False, markup=False, soft_wrap=True)
    if estimate_only:
        if as_json:
            print(json.dumps({"judge": judging.describe(), "estimate": found.to_dict()}))
        return
    check_budget(found, budget=budget, max_calls=max_calls)
    if found.dollars and budget is None and not yes:
        if not sys.stdin.isatty():
            raise InputError(
                f"Judging may cost ${found.dollars:,.2f}, and nobody is there to agree.",
                "Add --yes, or a limit with --budget.",
            )
        typer.confirm(f"Spend up to ${found.dollars:,.2f}?", abort=True)

    with _bar(console, found.calls) as advance:
        judgements = judge_pairs(judging, pairs, swap=swap, batch_size=batch_size, progress=advance)
    truth = None
    if all(pair.scene is not None for pair in pairs):
        truth = judgements if kind is Kind.oracle else judge_pairs(OracleJudge(), pairs)
    result = report(judgements, truth, authors=together.models[:2], seed=seed)
    if output:
        write_judgements(output, judgements, truth)
    if as_json:
        print(json.dumps({**result.to_dict(), "estimate": found.to_dict()}, ensure_ascii=False))
        return
    _show(result, Console())
    if output:
        console.print(f"written to {output}", highlight=False, markup=False, soft_wrap=True)


WAYS = {
    Kind.prompt: ("text", "logits"),
    Kind.likelihood: ("sum", "average"),
    Kind.claims: ("precision", "f1"),
    Kind.oracle: (),
}


def make_judge(
    kind: Kind, name: str, by: str | None, language: str | None, device: str | None, dtype: str
):
    """The judge that the options name. InputError for a --by that the kind does not have."""
    from labs.suites.judge import ClaimJudge, LikelihoodJudge, OracleJudge, PromptJudge

    ways = WAYS[kind]
    if by is not None and by not in ways:
        there = f"It has {' and '.join(ways)}." if ways else "Leave --by out."
        raise InputError(f"A judge of the kind {kind} has no --by {by}.", there)
    if language is not None and kind is not Kind.prompt:
        raise InputError(f"A judge of the kind {kind} has no prompt.", "Leave --language out.")
    if kind is Kind.oracle:
        return OracleJudge()
    import torch

    from labs.models import load_vlm
    from labs.suites.answerers import kind_of

    if (found := kind_of(name)) != "vlm":
        what = {
            "lm": "is a text-only model and sees no picture",
            "clip": "is a dual encoder and writes nothing",
        }[found]
        raise InputError(
            f"{name} {what}: it cannot judge.",
            "Give --judge a vision-language model, such as tiny-base.",
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = load_vlm(name, device=device, dtype=dtype)
    title = Path(name).name or name
    by = by or ways[0]
    if kind is Kind.prompt:
        return PromptJudge(model, processor, title, by=by, language=language)
    if kind is Kind.likelihood:
        return LikelihoodJudge(model, processor, title, average=by == "average")
    return ClaimJudge(model, processor, title, by=by)


def _cost(found, name: str) -> str:
    """The estimate in a sentence or two."""
    orders = "both orders" if found.orders == 2 else "one order"
    text = f"{name}: {found.pairs} pairs, {orders}"
    if found.identical:
        text += f", {found.identical} of two equal answers, which are ties and cost nothing"
    text += f". {found.calls:,} calls"
    if found.calls:
        text += f", about {found.prompt_tokens:,} tokens to read"
        if found.answer_tokens:
            text += f", at most {found.answer_tokens:,} to write"
    if found.seconds is not None:
        text += f", about {_duration(found.seconds)}"
    if found.dollars is not None:
        text += f", at most ${found.dollars:,.2f}"
    return text + "."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _bar(console, calls: int):
    """A bar on a terminal; yields what advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Elsewhere than on a terminal nothing of it would show but an empty line.
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("judging", total=calls)
        yield lambda done: bar.advance(task, done)


def _show(result, console) -> None:
    from rich.table import Table

    from labs.suites.judge import TITLES

    a, b = result.authors
    console.print(
        f"A is {a}, B is {b}; the judge: {result.judge['name']}", markup=False, soft_wrap=True
    )
    counts = ", ".join(f"{count} {name}" for name, count in result.counts.items())
    console.print(counts, highlight=False, markup=False, soft_wrap=True)
    table = Table("measure", "value", "95 %", "n")
    for name, m in result.measures.items():
        interval = "" if m.low is None else f"{m.low:.3f} to {m.high:.3f}"
        table.add_row(TITLES[name], f"{m.value:.3f}", interval, str(m.n))
    console.print(table)
