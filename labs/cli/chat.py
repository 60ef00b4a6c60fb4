"""`labs chat`: talk to a model about pictures, several turns."""

from pathlib import Path
from typing import Annotated

import typer

from labs.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def command(
    model: Annotated[str, typer.Option(help="Zoo name, local folder or hub id.")] = "tiny-sft",
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture, or a folder: each of its pictures is asked. Repeatable."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A question; repeat it for several turns. Without it you type them."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="A PEFT adapter folder to put on top.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option()] = 128,
    seed: Annotated[int, typer.Option()] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
):
    """Ask a model about a picture, about every picture of a folder, or about none.

    Examples:  labs chat --image scene.png --prompt "How many objects are there?"
               labs chat --model tiny-base --image photos/ --prompt "Describe the image." --json
               labs chat --image scene.png          (then type; an empty line ends it)
    """
    import json

    from rich.console import Console

    from labs.formats import load_image

    console = Console()
    groups = _groups(image or [])
    if not prompt and (json_output or len(groups) > 1):
        raise InputError("There is no question to ask.", 'Give one with --prompt "…".')
    # Pictures first: a broken file should not cost the time it takes to load a model.
    pictures = [[load_image(path) for path in group] for group in groups]
    with console.status(f"loading {model}"):
        from labs.models import load_vlm

        network, processor = load_vlm(model, adapter=adapter)
    for group, loaded in zip(groups, pictures, strict=True):
        names = [str(p) for p in group]
        chat = Chat(network, processor, loaded, temperature, max_new_tokens, seed)
        if not json_output and names:
            console.print(f"[dim]{', '.join(names)}[/dim]")
        turns = []
        for question in prompt or _typed(console):
            answer = chat.ask(question)
            turns.append({"prompt": question, "answer": answer})
            if not json_output:
                if prompt:
                    console.print(f"[bold cyan]you[/]    {question}")
                console.print(f"[bold green]model[/]  {answer}", highlight=False)
        if json_output:
            record = {"model": model, "images": names, "turns": turns}
            print(json.dumps(record, ensure_ascii=False))


class Chat:
    """A conversation about the same pictures: each answer becomes part of the next prompt."""

    def __init__(self, model, processor, images, temperature=0.0, max_new_tokens=128, seed=0):
        self.model, self.processor, self.images = model, processor, list(images)
        self.options = {"temperature": temperature, "max_new_tokens": max_new_tokens}
        self.seed = seed
        self.messages: list[dict] = []

    def ask(self, question: str) -> str:
        """The model's answer to the next turn."""
        from labs.models import assistant_message, generate, user_message

        first = len(self.images) if not self.messages else 0
        self.messages.append(user_message(question, images=first))
        [answer] = generate(
            self.model, self.processor, [self.messages], [self.images],
            seed=self.seed + len(self.messages), **self.options,
        )  # fmt: skip
        self.messages.append(assistant_message(answer))
        return answer


def _groups(paths: list[Path]) -> list[list[Path]]:
    """Files are one conversation about all of them; a folder is one conversation a picture."""
    if not paths:
        return [[]]
    missing = [p for p in paths if not p.exists()]
    if missing:
        raise InputError(f"There is no picture {missing[0]}.", "Check the path given to --image.")
    folders = [p for p in paths if p.is_dir()]
    files = [p for p in paths if not p.is_dir()]
    groups = [files] if files else []
    for folder in folders:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"The folder {folder} holds no pictures.",
                f"Pictures end in {', '.join(sorted(SUFFIXES))}.",
            )
        groups += [[p] for p in found]
    return groups


def _typed(console):
    """Questions from the keyboard until an empty line or the end of input."""
    while True:
        try:
            line = console.input("[bold cyan]you[/]    ").strip()
        except EOFError:
            return
        if not line:
            return
        yield line
