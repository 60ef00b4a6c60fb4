"""`labs pairs`: preference pairs from a model's own answers, and what is in a file of pairs (`show`)."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from labs.errors import InputError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    trl = "trl"
    llava_rlhf = "llava-rlhf"


@app.callback(invoke_without_command=True)
def pairs(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Zoo name, model folder or hub id.")] = "tiny-sft",
    prompts: Annotated[
        str,
        typer.Option(help="world:N, or a file of conversations or pairs.", metavar="world:N|FILE"),
    ] = "world:400",
    generations: Annotated[int, typer.Option(min=2, help="Answers sampled a prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of the sampling, above 0.")] = 1.0,
    noise: Annotated[float, typer.Option(min=0, help="Of the annotators; 0: never wrong.")] = 0.5,
    length_bias: Annotated[float, typer.Option(help="What longer answers gain.")] = 0.0,
    position_bias: Annotated[float, typer.Option(help="What the first shown gains.")] = 0.0,
    yes_bias: Annotated[float, typer.Option(help="What answers that say yes gain.")] = 0.0,
    annotators: Annotated[int, typer.Option(min=1, help="How many vote on each pair.")] = 1,
    corrected: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of world prompts: true against wrong answers."),
    ] = 0.0,
    tasks: Annotated[
        str | None, typer.Option(help="Of world prompts, such as caption,existence.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of world prompts: train, val or test.")] = "train",
    per_prompt: Annotated[
        int | None, typer.Option(min=1, help="At most so many pairs a prompt; default: all.")
    ] = None,
    keep_equal: Annotated[
        bool, typer.Option("--keep-equal", help="Keep pairs of equally good answers.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Drop pairs that are equal when cut to so many.")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of a file's images; default: that of the file.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; images/ is put beside it.")
    ] = None,
    layout: Annotated[
        Format, typer.Option("--format", help="TRL's messages or LLaVA-RLHF's outputs.")
    ] = Format.trl,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers sampled at once.")] = 256,
    device: Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")] = None,
    dtype: Annotated[str, typer.Option()] = "float32",
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
):
    """Sample answers, let simulated annotators compare them, write preference pairs.

    A share --corrected of the world's prompts is not asked: their pair is the true answer and a plausible
    wrong one. The world's answers are judged by its oracle, a file's by its right answers; the annotators see
    that through their noise and their biases. Ties, duplicates and equally good answers are left out
    and counted.

    Examples:  labs pairs --model tiny-sft --prompts world:400 --generations 4 --output pairs.jsonl
               labs pairs --noise 0.2 --length-bias 1 --annotators 3 --output pairs.jsonl
               labs pairs --corrected 0.8 --output pairs.jsonl
               labs pairs show pairs.jsonl
    """
    if context.invoked_subcommand is not None:
        return
    if output is None:
        raise InputError("No file to write was named.", "Add --output pairs.jsonl.")

    if corrected and not prompts.startswith("world:"):
        raise InputError(
            "--corrected needs to know what a picture shows, and a file does not say.",
            "Leave it out, or use --prompts world:400.",
        )

    from rich.console import Console

    from labs.data.preference import (
        panel,
        preference_statistics,
        with_saved_pictures,
        write_llava_rlhf,
    )
    from labs.formats import write_preferences
    from labs.models import load_vlm
    from labs.train.preferences import sample_pairs

    asked = _prompts(prompts, tasks, split, seed, image_root)
    people = panel(
        annotators, seed, noise=noise, length_bias=length_bias, position_bias=position_bias,
        yes_bias=yes_bias,
    )  # fmt: skip
    console = Console(stderr=True)
    loaded, processor = load_vlm(model, device=device, dtype=dtype)
    with console.status("sampling") as status:
        made, report = sample_pairs(
            loaded, processor, asked, generations, temperature, people, seed,
            lambda done: status.update(f"sampling: {done} of {len(asked)} prompts"),
            corrected=corrected, max_new_tokens=max_new_tokens, keep_equal=keep_equal, per_prompt=per_prompt,
            max_tokens=max_tokens, batch_size=batch_size,
        )  # fmt: skip
    if not made:
        reasons = _reasons(report) or "no answer was judged"
        raise InputError(
            f"No pair came of {report.prompts + report.unjudged} prompts: {reasons}.",
            "Sample more answers, at a higher temperature, or give prompts with right answers.",
        )
    write = write_preferences if layout is Format.trl else write_llava_rlhf
    # The pictures of a file stay where they are; those of the world are put beside the output.
    root = output.parent
    if not prompts.startswith("world:"):
        root = image_root or Path(prompts).parent
    written = write(with_saved_pictures(made, root), output, root)
    statistics = preference_statistics(made)
    if as_json:
        told = {
            "output": str(output), "written": written, "report": report.to_dict(),
            "statistics": statistics.to_dict(),
        }  # fmt: skip
        print(json.dumps(told, ensure_ascii=False))
        return
    console = Console(highlight=False)
    line = f"{written} pairs of {report.prompts} prompts written to {output}"
    console.print(f"{line}; left out: {_reasons(report) or 'none'}.", markup=False, soft_wrap=True)
    if root.resolve() != output.parent.resolve():
        line = f"Their pictures are under {root}: give that as --image-root."
        console.print(line, markup=False, soft_wrap=True)
    if report.unjudged:
        line = f"{report.unjudged} prompts left out: nothing says how good their answers are."
        console.print(line, markup=False, soft_wrap=True)
    _show(statistics, console)


@app.command(short_help="Statistics of a preference file.")
def show(
    file: Annotated[Path, typer.Argument(help="Pairs of TRL, LLaVA-RLHF, RLHF-V or RLAIF-V.")],
    image_root: Annotated[
        Path | None, typer.Option(help="Folder of the images; default: that of FILE.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokens --max-tokens counts; default: tiny-sft.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Count pairs that are equal when cut to so many.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
):
    """Count what is in a preference file: useless pairs, margins, lengths, agreement.

    Example:  labs pairs show pairs.jsonl --max-tokens 64
    """
    from rich.console import Console

    from labs.data.preference import preference_statistics
    from labs.formats import read_preferences

    tokenize = None
    if max_tokens is not None:
        from labs.cli.data import _processor

        processor = _processor(model or "tiny-sft")
        tokenizer = getattr(processor, "tokenizer", processor)
        tokenize = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    elif model is not None:
        raise InputError("--model counts tokens, and no length was given.", "Add --max-tokens.")
    found = preference_statistics(read_preferences(file, image_root), tokenize, max_tokens)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    _show(found, Console(highlight=False))


def _prompts(given: str, tasks: str | None, split: str, seed: int, image_root: Path | None):
    from labs.shapes import TASKS, Mix
    from labs.shapes.scene import SPLITS
    from labs.train.policy.world import FilePrompts, WorldPrompts

    kind, _, number = given.partition(":")
    if kind != "world":
        if tasks is not None:
            raise InputError("--tasks are of the world's prompts.", "Leave it out for a file.")
        return FilePrompts(given, image_root)
    if not number.isdecimal() or int(number) == 0:
        raise InputError(f"{given!r} names no number of prompts.", "Write --prompts world:400.")
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}.", f"Use {', '.join(SPLITS)}.")
    mix = Mix()
    if tasks is not None:
        names = [name.strip() for name in tasks.split(",")]
        wrong = [name for name in names if name not in TASKS]
        if wrong:
            raise InputError(f"There is no task {wrong[0]!r}.", f"Use {', '.join(TASKS)}.")
        asked = {name: 1.0 for name in names if name != "ocr"}
        share = names.count("ocr") / len(names)
        mix = Mix(tasks=asked or {"caption": 1.0}, digits=share)
    return WorldPrompts(int(number), mix, split, seed)


def _reasons(report) -> str:
    from labs.data.preference import DROPPED

    return ", ".join(f"{n} {DROPPED[reason]}" for reason, n in report.dropped.most_common())


ROWS = {
    "n": "pairs",
    "tied": "both answers the same",
    "duplicates": "the same pair again",
    "contradicted": "of them with the other label",
    "truncated": "equal after truncation",
    "useless_share": "share that teaches nothing",
    "margin": "mean margin of quality",
    "mislabelled": "worse answer preferred",
    "agreement": "votes for the majority",
    "first": "votes for the answer shown first",
    "chosen_length": "characters, chosen",
    "rejected_length": "characters, rejected",
    "chosen_longer": "chosen is the longer one",
}


def _show(statistics, console) -> None:
    from rich.table import Table

    told = statistics.to_dict()
    table = Table("measure", "value")
    for name, title in ROWS.items():
        value = told[name]
        if value is not None:
            table.add_row(title, f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    console.print(table)
