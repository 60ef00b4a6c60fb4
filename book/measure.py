"""Records what takes too long for a page: `python -m book.measure [NAME ...]`.

A measurement is a script `chapters/*/measure_NAME.py` that prints one JSON object: `seed`, `code`
(the files and folders it measures, from the repository's root) and `results`. This runs each and
writes `book/measurements/NAME.json` with command, commit, hardware, versions and date, so that a
page can plot the record and say when the code has changed since.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from book.builder.cache import digest
from book.builder.contents import ROOT

RECORDS = ROOT / "book" / "measurements"
VERSIONS = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes")

console = Console(stderr=True)


def find_scripts(root: Path = ROOT) -> dict[str, Path]:
    scripts = sorted((root / "chapters").glob("*/measure_*.py"))
    return {script.stem.removeprefix("measure_"): script for script in scripts}


def record(name: str, script: Path, root: Path = ROOT, records: Path = RECORDS) -> Path:
    """Runs one script and writes its record; raises ValueError where it prints something else."""
    command = [sys.executable, str(script.relative_to(root))]
    result = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    try:
        measured = json.loads(result.stdout)
        seed, code, results = measured["seed"], measured["code"], measured["results"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        wanted = "one JSON object with seed, code and results"
        raise ValueError(f"{script.name} did not print {wanted}: {error!r}") from None
    content = {
        "command": f"python {script.relative_to(root)}",
        "commit": output("git", "rev-parse", "HEAD", cwd=root),
        "seed": seed,
        "code": code,
        "code_digest": digest([root / path for path in code], root),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
    }
    records.mkdir(parents=True, exist_ok=True)
    path = records / f"{name}.json"
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
    return path


def is_current(path: Path, root: Path = ROOT) -> bool:
    """Whether the code that a record measured is still the code that is here."""
    content = json.loads(path.read_text())
    return content["code_digest"] == digest([root / code for code in content["code"]], root)


def hardware() -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    query = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    gpus = output(*query).splitlines() if shutil.which("nvidia-smi") else []
    cpu = models[0] if models else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count(), "gpus": gpus}


def versions() -> dict[str, str]:
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in VERSIONS if name in installed}


def output(*command: str, cwd: Path = ROOT) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


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
            state = "missing" if not path.exists() else "current" if is_current(path) else "older"
            older += state != "current"
            console.print(f"{name}: {state}")
        else:
            console.print(f"Measuring {name}")
            record(name, scripts[name])
    return 1 if older else 0


if __name__ == "__main__":
    sys.exit(main())
