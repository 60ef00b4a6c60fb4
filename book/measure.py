"""Records what takes too long for a page: `python -m book.measure [NAME ...]`.

A measurement is a script `chapters/*/measure_NAME.py` that prints one JSON object: `seed`, `code`
(the files and folders it measures, from the repository's root) and `results`. This runs each and
writes `book/measurements/NAME.json` with command, commit, hardware, versions and date, so that a
page can plot the record and say when the code has changed since. A record lists the files that a
folder of `code` held when it was made: one added later changes nothing about it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from book.builder.contents import ROOT
from labs.bench.record import digest, make_record, write_record

RECORDS = ROOT / "book" / "measurements"

console = Console(stderr=True)


def find_scripts(root: Path = ROOT) -> dict[str, Path]:
    scripts = sorted((root / "chapters").glob("*/measure_*.py"))
    return {script.stem.removeprefix("measure_"): script for script in scripts}


def record(name: str, script: Path, root: Path = ROOT, records: Path = RECORDS) -> Path:
    """Runs one script and writes its record; raises ValueError where it prints something else.

    Raises InputError where code that it names is not there.
    """
    command = [sys.executable, str(script.relative_to(root))]
    result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    try:
        measured = json.loads(result.stdout)
        seed, code, results = measured["seed"], measured["code"], measured["results"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        wanted = "one JSON object with seed, code and results"
        raise ValueError(f"{script.name} did not print {wanted}: {error!r}") from None
    content = make_record(f"python {script.relative_to(root)}", seed, code, results, root)
    records.mkdir(parents=True, exist_ok=True)
    path = records / f"{name}.json"
    write_record(path, content)
    return path


def is_current(path: Path, root: Path = ROOT) -> bool:
    """Whether the code that a record measured is still the code that is here."""
    content = json.loads(path.read_text())
    return content["code_digest"] == digest([root / code for code in content["code"]], root)


def state(path: Path, root: Path = ROOT) -> str:
    """What `--check` says of a record: missing, current, older, or older with the file that is gone."""
    if not path.exists():
        return "missing"
    if is_current(path, root):
        return "current"
    gone = [name for name in json.loads(path.read_text())["code"] if not (root / name).exists()]
    return f"older ({', '.join(gone)} no longer there)" if gone else "older"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m book.measure", description=__doc__)
    parser.add_argument("names", nargs="*", help="which measurements; all when none is named")
    parser.add_argument("--check", action="store_true", help="only list which records are older")
    options = parser.parse_args(arguments)
    scripts = find_scripts()
    if unknown := sorted(set(options.names) - set(scripts)):
        known = ", ".join(scripts) or "none yet"
        console.print(f"There is no measurement {unknown[0]}. Known: {known}.")
        return 2
    if not scripts:
        console.print("No chapter has a measurement to record yet (chapters/*/measure_NAME.py).")
    older = 0
    for name in options.names or scripts:
        path = RECORDS / f"{name}.json"
        if options.check:
            found = state(path)
            older += found != "current"
            console.print(f"{name}: {found}")
        else:
            console.print(f"Measuring {name}")
            record(name, scripts[name])
    return 1 if older else 0


if __name__ == "__main__":
    sys.exit(main())
