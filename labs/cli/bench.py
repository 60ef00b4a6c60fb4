"""`labs bench`: measure against other people's code."""

import inspect
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="Which bench; see --list.")] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Fresh sets of children; more tell more and take longer."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The short form, in seconds, of a bench that has one.")
    ] = False,
    list_benches: Annotated[
        bool, typer.Option("--list", help="List the benches and stop.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the record as JSON on standard output.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the record, as in book/measurements, to this file.")
    ] = None,
):
    """Measure speed and memory: processes that take turns, medians, ratios within one run.

    Examples:  labs bench --list
               labs bench sft
               labs bench connectors --quick
               labs bench losses --repeats 5 --output book/measurements/bench_losses.json
    """
    from labs.bench import BENCHES, load_bench
    from labs.bench.children import BenchError
    from labs.errors import InputError

    if list_benches:
        _list(BENCHES, as_json)
        return
    if name is None:
        raise InputError("Which bench?", f"Name one of: {', '.join(BENCHES)}.")
    if output is not None and not output.resolve().parent.is_dir():
        # Told now, not after minutes of measuring.
        raise InputError(f"There is no folder {output.parent}.", "Create it, or write elsewhere.")
    bench = load_bench(name)
    settings = {} if repeats is None else {"repeats": repeats}
    if quick:
        if "quick" not in inspect.signature(bench.run).parameters:
            raise InputError(f"The bench `{name}` has no short form.", "Run it without --quick.")
        settings["quick"] = True
    try:
        with _Status() as status:
            result = bench.run(**settings, progress=status.say)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None

    from labs.bench.record import make_record, write_record

    line = f"labs bench {name}" + (f" --repeats {repeats}" if repeats else "")
    line += " --quick" if quick else ""
    record = make_record(line, bench.SEED, bench.CODE, result)
    if output is not None:
        write_record(output, record)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    from rich.console import Console

    console = Console()
    for table in bench.tables(result):
        console.print(table)
    hardware = record["hardware"]
    console.print(
        f"{hardware['cpu']}, {hardware['cores']} cores, load {hardware['load_average']}; "
        + ", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        highlight=False,
        style="dim",
    )


def _list(benches: dict, as_json: bool) -> None:
    rows = [{"name": name, "description": text} for name, (_, text) in benches.items()]
    if as_json:
        print(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("bench", "what it measures")
    for row in rows:
        table.add_row(row["name"], row["description"])
    Console().print(table)


class _Status:
    """A spinner with the current sentence and the time on a terminal, one line each elsewhere."""

    def __enter__(self) -> "_Status":
        from rich.console import Console

        console = Console(stderr=True)
        self.start = time.monotonic()
        self.spinner = console.status("starting") if console.is_terminal else None
        if self.spinner:
            self.spinner.start()
        return self

    def say(self, sentence: str) -> None:
        line = f"{time.monotonic() - self.start:4.0f} s  {sentence}"
        if self.spinner:
            self.spinner.update(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *_) -> None:
        if self.spinner:
            self.spinner.stop()
