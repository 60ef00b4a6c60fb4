"""The OOM doctor's predictions against a GPU: 24 cases and more, with random weights.

    labs bench memory_gpu                      predicts, measures what this machine can, reports
    python -m labs.bench.memory_gpu predict    on any machine, beforehand (minutes)
    python -m labs.bench.memory_gpu measure --seconds 480
                                               on a machine with a GPU, as often as it takes
    python -m labs.bench.memory_gpu report     constants from the calibration cases, errors on the others

All three share a folder (--folder, default work/memory_gpu) with two files a case. A case that is
there, made by the same code, is not done again; copy the folders of several machines together. The
order is by information a second, so that a run that was cut off is still of use. `--tiny` does it all
on tiny models on the CPU.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labs.bench.children import ROOT, BenchError, Progress
from labs.bench.memory_gpu_cases import CASES, CONFIGS, TINY, Case
from labs.bench.memory_gpu_measure import CASE_SECONDS, measure
from labs.bench.memory_gpu_results import CODE as RESULT_CODE
from labs.bench.memory_gpu_results import FINAL, Results
from labs.errors import InputError

SEED = 0
CODE = (
    "labs/bench/memory_gpu.py",
    "labs/bench/memory_gpu_cases.py",
    "labs/bench/memory_gpu_fit.py",
    "labs/bench/memory_gpu_measure.py",
    "labs/bench/memory_gpu_results.py",
    "tests/doctors/configs",
    *RESULT_CODE["predicted"],
    *(path for path in RESULT_CODE["measured"] if path != "labs/doctors/memory/setup"),
)
FOLDER = ROOT / "work" / "memory_gpu"


def run(
    repeats: int = 1,
    quick: bool = False,
    progress: Progress | None = None,
    folder: Path | None = None,
    seconds: float | None = None,
) -> dict:
    """Predict, measure where there is a GPU, report; `quick`: tiny models on the CPU.

    A peak does not vary from run to run, so `repeats` changes nothing. Raises BenchError where there
    is no GPU and nothing was measured before.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or (Path(temporary) if quick else FOLDER)
        results, cases = open_folder(place, quick)
        predict(results, cases, progress)
        if quick or has_gpu():
            measure(results, cases, "cpu" if quick else "cuda", seconds, progress=progress)
        return report(results, cases)


def open_folder(folder: Path, tiny: bool) -> tuple[Results, tuple[Case, ...]]:
    """The results in a folder, and the cases that belong there; tiny models are written beside them."""
    if not tiny:
        return Results(folder, CONFIGS), CASES
    from labs.bench.memory_cases import write_models

    models = folder / "models"
    if not models.exists():
        models.mkdir(parents=True)
        write_models(models)
    return Results(folder, models), TINY


def has_gpu() -> bool:
    """Whether there is a CUDA device. Asking makes no context on it; asking the driver takes no time."""
    from labs.doctors.memory.live.nvml import Nvml, NvmlError

    try:
        return bool(Nvml().gpus())
    except NvmlError:
        import torch

        return torch.cuda.is_available()


def predict(
    results: Results, cases: Sequence[Case], progress: Progress | None = None
) -> dict[str, str]:
    """Predict the cases that lack a prediction by this code; those that could not be, and why."""
    from labs.bench.memory_gpu_predict import predict_cases

    return predict_cases(results, cases, progress)


def report(results: Results, cases: Sequence[Case]) -> dict[str, Any]:
    """Everything that is known so far; see `memory_gpu_fit.compare`. Raises BenchError for nothing."""
    from labs.bench.memory_gpu_fit import Pair, compare, verdicts

    pairs, missing, failed, stale = [], [], [], []
    machines, versions = set(), {}
    for case in cases:
        predicted, found = results.read("predicted", case), results.read("measured", case)
        if predicted is None or found is None:
            missing.append(
                f"{case.name} ({'not predicted' if predicted is None else 'not measured'})"
            )
        elif found["outcome"] not in FINAL:
            failed.append({"case": case.name, "outcome": found["outcome"], "said": found["said"]})
        else:
            pairs.append(
                Pair(case.name, case.split, case.plan(results.models).method, predicted, found)
            )
            machines.add(found["memory"]["name"])
            versions |= {"predicted": predicted["versions"], "measured": found["versions"]}
            if not all(
                results.current(kind, case, value)
                for kind, value in (("predicted", predicted), ("measured", found))
            ):
                stale.append(case.name)
    if not pairs:
        raise BenchError(
            f"No case in {results.folder} is both predicted and measured yet; "
            f"{len(missing)} wait, the first: {missing[0] if missing else failed[0]['case']}."
        )
    return {
        **compare(pairs),
        "verdicts": verdicts(pairs),
        "missing": missing,
        "failed": failed,
        "of other code": stale,
        "machines": sorted(machines),
        "versions": versions,
    }


def tables(result: dict) -> list:
    """The cases, the errors, the constants and the verdicts, as tables for the terminal."""
    from labs.bench.memory_gpu_show import tables as made

    return made(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m labs.bench.memory_gpu`; exit code 2 for bad input, 1 where there is no result."""
    parser = argparse.ArgumentParser(
        prog="python -m labs.bench.memory_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("predict", "measure", "report"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=float, help="measure: stop when they are over")
    parser.add_argument("--case-seconds", type=float, default=CASE_SECONDS, help="measure: limit of one case (default: %(default)s)")  # fmt: skip
    parser.add_argument("--only", metavar="NAMES", help="comma-separated names of cases, or parts of names")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--json", action="store_true", help="report: print it as JSON")
    args = parser.parse_args(arguments)
    try:
        return act(args)
    except InputError as error:
        print(f"error: {error.what} {error.do}", file=sys.stderr)
        return 2
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def act(args: argparse.Namespace) -> int:
    """Do what the options say."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:4.0f} s  {line}", file=sys.stderr, flush=True)

    results, cases = open_folder(args.folder, args.tiny)
    cases = chosen(cases, args.only)
    if args.what == "predict":
        failed = predict(results, cases, say)
        if failed:
            raise BenchError(f"Without a prediction: {', '.join(failed)}.")
    elif args.what == "measure":
        if not args.tiny and not has_gpu():
            raise InputError(
                "PyTorch sees no GPU here.", "Measure on a machine with one, or try --tiny."
            )
        measure(
            results, cases, "cpu" if args.tiny else "cuda", args.seconds, args.case_seconds, say
        )
        say(f"{len(results.left('measured', cases))} of {len(cases)} cases are left")
    else:
        show(report(results, cases), args.json)
    return 0


def chosen(cases: Sequence[Case], only: str | None) -> tuple[Case, ...]:
    """The cases whose names hold one of the parts. Raises InputError where a part is in none."""
    if only is None:
        return tuple(cases)
    parts = [part.strip() for part in only.split(",") if part.strip()]
    for part in parts:
        if not any(part in case.name for case in cases):
            raise InputError(
                f"No case has `{part}` in its name.",
                f"Cases: {', '.join(case.name for case in cases)}.",
            )
    return tuple(case for case in cases if any(part in case.name for part in parts))


def show(result: dict, as_json: bool) -> None:
    """Print a report."""
    import json

    if as_json:
        print(json.dumps(result, indent=1))
        return
    from rich.console import Console

    for table in tables(result):
        Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
