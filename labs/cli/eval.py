"""`labs eval`: ask a model a suite, compare runs, draw the leaderboard."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from labs.errors import InputError


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL | RUN…",
            help="Zoo name, local folder or hub id. With --compare, --leaderboard or --rescore: "
            "results folders, of one suite or of a model with all its suites.",
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="NAME, or NAME:PATH for a benchmark's files. Repeatable; see --list."),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Questions of each suite.")] = None,
    language: Annotated[str | None, typer.Option(help="en or zh.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    instruction: Annotated[
        str | None,
        typer.Option(help="The sentence after each question of a benchmark; '' for none."),
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Where a benchmark's pictures are, if not with its files.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions asked at once.")] = 64,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="For all questions, in place of the suite's own limits.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Results folder; by default runs/eval/MODEL.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter to put on top.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="By default a GPU where there is one.")] = None,
    quantization: Annotated[str | None, typer.Option(help="nf4 or int8.")] = None,
    described: Annotated[
        bool, typer.Option("--described", help="A description in words in place of the picture.")
    ] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="No picture: what does the model say without it?")
    ] = False,
    likelihood: Annotated[
        bool,
        typer.Option("--likelihood", help="Write nothing: the likeliest candidate is the answer."),
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="Print so many answers that are wrong or unreadable.")
    ] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare runs, question by question.")
    ] = False,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="Rate all models of the runs given.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the leaderboard as a page.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the leaderboard (PNG, SVG, PDF).")] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Read and score the answers of runs again.")
    ] = False,
    list_suites: Annotated[bool, typer.Option("--list", help="List the suites and stop.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
):
    """Ask a model a suite of questions; compare models; rate them.

    A run that was stopped, by whatever, goes on when the same command is given again.

    Examples:  labs eval --list
               labs eval tiny-sft --suite existence --suite captions --n 200
               labs eval tiny-base --suite mmbench:MMBench_DEV_EN.tsv --output runs/mmbench
               labs eval tiny-base --suite pope:coco_pope_random.json --image-root val2014 --instruction ""
               labs eval tiny-lm --described --suite counting --examples 5
               labs eval --compare runs/eval/tiny-sft runs/eval/tiny-sft-clean
               labs eval --leaderboard runs/eval/* --html board.html
               labs eval --rescore runs/eval/tiny-sft/existence
    """
    if list_suites:
        return _list(as_json)
    chosen = {"--compare": compare, "--leaderboard": leaderboard, "--rescore": rescore}
    modes = [option for option, given in chosen.items() if given]
    if len(modes) > 1:
        raise InputError(f"{' and '.join(modes)} exclude each other.", "Give one of them.")
    if (html or plot) and not leaderboard:
        raise InputError("--html and --plot draw the leaderboard.", "Add --leaderboard.")
    if modes:
        if not models:
            raise InputError(
                f"{modes[0]} needs results.", f"labs eval {modes[0]} runs/eval/MODEL …"
            )
        if suite:
            raise InputError(f"{modes[0]} asks no suite.", "Leave --suite out.")
        if compare:
            return _compare(models, examples, as_json)
        if leaderboard:
            return _leaderboard(models, html, plot, as_json)
        return _rescore(models, examples, as_json)
    if not models or len(models) > 1:
        raise InputError(
            f"One model is asked at a time, not {len(models or [])}.",
            "For example: labs eval tiny-sft --suite existence",
        )
    if not suite:
        raise InputError("Which suite?", "Name one with --suite; `labs eval --list` lists them.")
    options = {
        "adapter": adapter, "dtype": dtype, "device": device, "quantization": quantization,
        "described": described, "blind": blind, "likelihood": likelihood,
    }  # fmt: skip
    asked = {"n": n, "language": language, "split": split}
    of_files = {
        "instruction": instruction, "image_root": str(image_root) if image_root else None,
    }  # fmt: skip
    limits = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    return _evaluate(models[0], suite, options, asked, of_files, limits, output, examples, as_json)


def _evaluate(model, specs, options, asked, of_files, limits, output, examples, as_json) -> int:
    from rich.console import Console

    from labs.cli.eval_show import Progress
    from labs.suites.registry import from_files, load_suite

    unused = [key.replace("_", "-") for key, value in of_files.items() if value is not None]
    if unused and not any(map(from_files, specs)):
        raise InputError(
            f"--{unused[0]} is for benchmarks that are read from files.",
            "Leave it out, or ask one of those: `labs eval --list`.",
        )
    # Suites first: a wrong name should not cost the time that it takes to load a model.
    suites = {}
    for spec in specs:
        place = folder_name(spec, asked["language"])
        if place in suites:
            raise InputError(
                f"Two of the suites would write to one folder, {place}.",
                "Give each suite once, or each in a command of its own with another --output.",
            )
        suites[place] = load_suite(spec, **asked, **(of_files if from_files(spec) else {}))
    console = Console(stderr=True)  # standard output is for --json
    with console.status(f"loading {model}"):
        from labs.suites.answerers import load_answerer
        from labs.suites.exports.vlmevalkit import file_name
        from labs.suites.runner import Interrupted, run

        answerer = load_answerer(model, **options)
    root = output or Path("runs/eval") / file_name(answerer.name)
    runs = []
    try:
        with Progress(console) as progress:
            for place, suite in suites.items():
                progress.start(place)
                done = run(answerer, suite, root / place, **limits, progress=progress.update)
                _export(done, suite)
                runs.append(done)
    except Interrupted as stop:
        print(
            f"Interrupted: {stop.done} of {stop.total} answers are kept in {stop.folder}. "
            f"Go on with:\n  labs {shlex.join(sys.argv[1:])}",
            file=sys.stderr,
        )
        return 130
    return _show(runs, examples, as_json, root)


def folder_name(spec: str, language: str | None = None) -> str:
    """Where a suite's results go: its name, its file's where it has one, and a language not English."""
    from labs.suites.exports.vlmevalkit import file_name

    name, _, path = spec.partition(":")
    parts = [
        name,
        Path(path).stem if path else "",
        language if language not in (None, "en") else "",
    ]
    return file_name("_".join(part for part in parts if part))


def _export(done, suite) -> None:
    """The layouts of other kits, and for a benchmark the files that its own script reads."""
    from labs.suites.exports import write_lmms_eval, write_vlmevalkit

    write_vlmevalkit(done)
    write_lmms_eval(done)
    if write_answers := getattr(suite, "write_answers", None):
        folder = done.folder / "answers"
        folder.mkdir(exist_ok=True)
        write_answers(done.rows, folder)


def _show(runs, examples: int, as_json: bool, root: Path | None = None) -> int:
    from labs.cli.eval_show import run_json, tables, wrong

    if as_json:
        told = {"model": runs[0].model, "runs": [run_json(done, examples) for done in runs]}
        print(json.dumps(told, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    for table in tables(runs):
        console.print(table)
    for done in runs:
        for line in wrong(done, examples):
            console.print(line)
    if root is not None:
        console.print(f"written to {root}", highlight=False, style="dim", markup=False)
    return 0


def _rescore(folders: list[str], examples: int, as_json: bool) -> int:
    from labs.suites.registry import load_again
    from labs.suites.results import find_runs, read_config
    from labs.suites.runner import rescore

    runs = []
    for folder in find_runs(folders):
        suite = load_again(read_config(folder))
        done = rescore(folder, suite)
        _export(done, suite)
        runs.append(done)
    return _show(runs, examples, as_json)


def _compare(folders: list[str], examples: int, as_json: bool) -> int:
    from labs.cli.eval_show import differing
    from labs.suites.compare import compare
    from labs.suites.results import find_runs, read_run

    found = compare([read_run(folder) for folder in find_runs(folders)])
    if as_json:
        pairs = [
            found.examples(pair.suite, pair.first, pair.second, examples) for pair in found.pairs
        ]
        told = found.to_dict()
        for pair, differ in zip(told["pairs"], pairs, strict=True):
            pair["examples"] = [example._asdict() for example in differ]
        print(json.dumps(told, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    for table in found.tables():
        console.print(table)
    for suite, label in found.alone.items():
        console.print(f"Only {label} has a run of {suite}.", markup=False, highlight=False)
    for pair in found.pairs:
        for line in differing(found, pair, examples):
            console.print(line)
    return 0


def _leaderboard(folders: list[str], html: Path | None, plot: Path | None, as_json: bool) -> int:
    from labs.suites.leaderboard import leaderboard
    from labs.suites.results import find_runs, read_run

    for path in filter(None, (html, plot)):
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Give the name of a file to write.")
    board = leaderboard([read_run(folder) for folder in find_runs(folders)])
    figure = _figure(board, plot) if plot else None  # first, for it may refuse the file's ending
    if html:
        from labs.suites.leaderboard_page import write_html

        write_html(board, html)
    if plot:
        _draw(figure, plot)
    if as_json:
        print(json.dumps(board.to_dict(), ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    console.print(board.table())
    for path in filter(None, (html, plot)):
        console.print(f"written to {path}", highlight=False, style="dim", markup=False)
    return 0


def _figure(board, path: Path):
    """The figure; InputError where matplotlib does not write files that end like `path`."""
    figure = board.figure()
    kinds = figure.canvas.get_supported_filetypes()
    if _format(path) not in kinds:
        raise InputError(
            f"The leaderboard cannot be drawn as {path.name}.",
            f"End the name in one of {', '.join(sorted(kinds))}.",
        )
    return figure


def _draw(figure, path: Path) -> None:
    """Write the figure in the format of the file's ending, whole or not at all."""
    from labs.formats.files import atomic_write

    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=_format(path), dpi=150)


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def _list(as_json: bool) -> int:
    from labs.suites.registry import SUITES

    rows = [
        {"name": name, "description": entry.line, "files": entry.files}
        for name, entry in SUITES.items()
    ]
    if as_json:
        print(json.dumps(rows))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("--suite", "what it asks", "PATH")
    for row in rows:
        spec = f"{row['name']}:PATH" if row["files"] else row["name"]
        table.add_row(spec, row["description"], row["files"] or "")
    Console().print(table)
    return 0
