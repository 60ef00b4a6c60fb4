"""`labs data`: the doctor (`check`), a sample as the model sees it (`show`), what a picture costs (`tokens`)."""

import re

import typer

from labs.cli.data_check import SETTINGS, check
from labs.cli.data_tokens import tokens

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check a training set, look at samples as the model sees them, count tokens of pictures.",
)
app.command(context_settings=SETTINGS)(check)
app.command()(tokens)


@app.callback()
def data():
    """Look at samples as the model sees them."""


@app.command()
def show(
    sample: str = typer.Argument(
        help="FILE or FILE:INDEX (JSON, JSONL), one record as JSON, or TASK:INDEX of the world."
    ),
    model: str = typer.Option("tiny-sft", help="Zoo name, model folder or hub id; its processor."),
    image_root: str = typer.Option(None, help="Folder of the images; default: that of FILE."),
    count: int = typer.Option(1, min=1, help="How many samples, from INDEX on."),
    max_length: int = typer.Option(None, min=1, help="Cut as training would."),
    html: str = typer.Option(None, metavar="FILE", help="Also write a static page."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of colours."),
):
    """Decode a sample: which tokens are read, which carry loss, which are image.

    Example:  labs data show train.json:7 --model tiny-sft
              labs data show count:0 --model tiny-sft
    """
    import json
    import sys

    from rich.console import Console

    from labs.data.encode import Skip
    from labs.data.show import KINDS, as_html, as_text, describe, summary
    from labs.errors import InputError
    from labs.formats import atomic_write

    conversations = _conversations(sample, count, image_root)
    processor = _processor(model)
    described = []
    for conversation in conversations:
        try:
            described.append(describe(conversation, processor, max_length))
        except Skip as skip:
            raise InputError(f"{skip}", "Raise max_length, or look at another sample.") from None
    if html:
        with atomic_write(html) as file:
            file.write(as_html(described))
    if as_json:
        json.dump(described if count > 1 else described[0], sys.stdout, ensure_ascii=False)
        print()
        return
    console = Console(highlight=False)
    for one in described:
        console.print(summary(one), style="bold", markup=False)
        console.print(as_text(one))
    legend = "  ".join(f"[{style}]{name}[/]" for name, style in KINDS.values())
    console.print(f"\n{legend}")


def _conversations(sample: str, count: int, image_root: str | None) -> list:
    """The argument as conversations: inline JSON, TASK:INDEX of the world, or a file."""
    import itertools
    import json
    import os
    from pathlib import Path

    from labs.errors import InputError
    from labs.formats import parse_conversation, read_conversations
    from labs.formats.llava import resolve_image

    if sample.lstrip().startswith("{"):
        try:
            record = json.loads(sample)
        except json.JSONDecodeError as error:
            raise InputError(
                f"The sample on the command line is bad JSON: {error}.", "Quote it for the shell."
            ) from None
        conversation = parse_conversation(record, "the sample on the command line")
        root = Path(image_root or ".")
        if any(isinstance(image, str) for image in conversation.images):
            import dataclasses

            paths = [resolve_image(i, root, "the command line") for i in conversation.images]
            conversation = dataclasses.replace(conversation, images=tuple(paths))
        return [conversation]
    match = re.fullmatch(r"(.*):(\d+)", sample)
    path, index = (match[1], int(match[2])) if match and not os.path.exists(sample) else (sample, 0)
    if match and re.fullmatch(r"[a-z]+", path) and not os.path.exists(path):
        from labs.shapes import TASKS, make_record

        if path in TASKS:
            records = (make_record(path, i, "train") for i in range(index, index + count))
            return [parse_conversation(record, sample) for record in records]
    found = list(itertools.islice(read_conversations(path, image_root), index, index + count))
    if not found:
        raise InputError(
            f"{path} has no sample number {index}.", "Count from 0, or leave the index out."
        )
    return found


def _processor(name: str):
    """The processor alone: the weights of a big model are not needed to look at its tokens."""
    from transformers import AutoProcessor

    from labs.errors import InputError
    from labs.models.loading import resolve
    from labs.models.places import NAMES, ZOO

    if name in NAMES and not (ZOO / name / "config.json").exists():
        from labs.models.tiny import tiny_processor

        return tiny_processor()  # the one that all tiny models share, for a zoo not built yet
    try:
        return AutoProcessor.from_pretrained(resolve(name))
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"The processor of {name} cannot be loaded: {str(error).splitlines()[0].rstrip('.')}.",
            "Give a zoo name, a folder written by save_pretrained, or a hub id that can be reached.",
        ) from None
