"""`labs train`: run a recipe."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

LAST = ("reward", "eval_accuracy")  # said at the end, where a run has them


def command(
    stage: Annotated[
        str | None,
        typer.Argument(
            help="contrastive, fused, align, sft, reward, ppo or grpo; must be the recipe's."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings as key=value: learning_rate=1e-4 data.path=my.json policy.kl_coef=0.1"
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name or a YAML file.")] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="The same code on the tiny model, offline, in seconds.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, logs and the trained model.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")
    ] = False,
    resume_from: Annotated[
        Path | None, typer.Option(help="Go on from this checkpoint-N folder.")
    ] = None,
    auto_batch: Annotated[
        bool,
        typer.Option(
            "--auto-batch",
            help="Out of memory: go on with half the micro-batch and twice the accumulation.",
        ),
    ] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="List the recipes and stop.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
):
    """Train a model by a recipe.

    Examples:  labs train --list
               labs train sft --recipe llava_v1.5_sft --tiny
               labs train sft --recipe tiny_sft --output runs/first learning_rate=5e-4
               labs train sft --recipe tiny_sft --output runs/first --resume
               labs train grpo --recipe tiny_grpo --output runs/grpo policy.kl_coef=0.02
    """
    from labs.errors import InputError
    from labs.recipes import load, recipe_names
    from labs.train.config import STAGES

    if list_recipes:
        return _list(as_json)
    if stage is None or recipe is None:
        raise InputError(
            "A stage and a recipe are needed.",
            f"For example: labs train sft --recipe tiny_sft. Recipes: {', '.join(recipe_names())}.",
        )
    if stage not in STAGES:
        raise InputError(f"Unknown stage `{stage}`.", f"Stages: {', '.join(STAGES)}.")
    if resume and output is None:
        raise InputError("--resume needs the run's folder.", "Add --output DIR.")
    settings = [*(settings or []), *(["auto_batch=true"] if auto_batch else [])]
    loaded = load(recipe, settings, tiny)
    if loaded.stage != stage:
        raise InputError(
            f"The recipe {loaded.name} is for the stage {loaded.stage}, not {stage}.",
            f"Run: labs train {loaded.stage} --recipe {recipe}",
        )
    return _run(loaded, output, resume_from or (True if resume else None), as_json)


def _list(as_json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from labs.recipes import load, recipe_names

    recipes = [load(name) for name in recipe_names()]
    if as_json:
        rows = [{"name": r.name, "stage": r.stage, "description": r.description} for r in recipes]
        print(json.dumps(rows))
        return 0
    table = Table()
    for heading in ("recipe", "stage", "what it is"):
        table.add_column(heading)
    for r in recipes:
        table.add_row(r.name, r.stage, r.description)
    Console().print(table)
    return 0


def _run(recipe, output: Path | None, resume, as_json: bool) -> int:
    from rich.console import Console

    from labs.models.parts import part_of
    from labs.recipes.run import run_recipe
    from labs.train import TrainingInterrupted, count_parts, parts_table

    console = Console(stderr=True)  # standard output is for --json

    def ready(trainer) -> None:
        if trainer.main:
            console.print(f"[bold]{recipe.name}[/bold]: {recipe.description}")
            console.print(parts_table(trainer.model))
            frozen = {part_of(n) for n in trainer.names}
            later = [c for c in trainer.config.unfreeze if set(c.trainable) & frozen]
            for change in later:
                console.print(f"from step {change.step}: {change.trainable}")
            asked = "prompts" if recipe.policy else "samples"
            console.print(f"{trainer.total_steps} steps of {trainer.sampler.step_size} {asked}")

    try:
        model, _, result = run_recipe(recipe, output, resume, on_ready=ready)
    except TrainingInterrupted as stop:
        print(f"Interrupted after step {stop.step}.", file=sys.stderr)
        if stop.checkpoint:
            arguments = [a for a in sys.argv[1:] if a != "--resume"]
            print(
                f"Saved in {stop.checkpoint}. Go on with:\n  labs {' '.join(arguments)} --resume",
                file=sys.stderr,
            )
        else:
            print("Nothing was saved: the run had no --output.", file=sys.stderr)
        return 130
    losses = result.losses()[1]
    if as_json:
        summary = {
            "recipe": recipe.name,
            "stage": recipe.stage,
            "steps": result.steps,
            "stopped": result.stopped,
            "loss": losses[-1] if losses else None,
            "best_eval_loss": result.best_eval_loss,
            **{k: result.losses(k)[1][-1] for k in LAST if result.losses(k)[1]},
            "output": str(output) if output else None,
            "parts": {c.part: [c.trainable, c.total] for c in count_parts(model)},
            "history": result.history,
        }
        print(json.dumps(summary))
    else:
        final = f", loss {losses[-1]:.4f}" if losses else ""
        final += "".join(
            f", {key.replace('_', ' ')} {values[-1]:.3f}"
            for key in LAST
            if (values := result.losses(key)[1])
        )
        console.print(f"{result.stopped} after {result.steps} steps{final}")
        if output:
            console.print(f"written to {output}")
    return 0
