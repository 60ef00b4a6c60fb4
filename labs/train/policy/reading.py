"""Reading a run's diary back: whole lines count, broken ones are named and left out. Chapter 5."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats import resolve_image
from labs.formats.files import check_file
from labs.formats.row import printable
from labs.train.policy.findings import Finding, findings
from labs.train.policy.series import number

__all__ = ["Finding", "RunDiary", "Sample", "findings", "read_diary"]

DIARY, SAMPLES, RUN, PICTURES, REPORT = (
    "diary.jsonl", "samples.jsonl", "run.json", "samples", "report.html",
)  # fmt: skip
NAME_LENGTH, TEXT_LENGTH = 120, 4000
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Sample:
    """One answer that was kept. picture: its file; same_picture: equal for equal pictures."""

    step: int
    prompt: str
    said: str
    answer: str | None = None
    reward: float | None = None
    task: str = ""
    picture: Path | None = None
    same_picture: str = ""


@dataclass
class RunDiary:
    """entries: by rising step, numbers only. faults: one sentence a line that could not be used."""

    folder: Path
    entries: list[dict[str, float]]
    samples: list[Sample] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def read_diary(folder: str | Path) -> RunDiary:
    """The diary of a run folder: `diary.jsonl`, and `samples.jsonl` and `run.json` where they are.

    A last line that a kill cut off is passed over; any other line that is no entry goes into `faults`.
    Of two lines for one step the later counts. Pictures outside the folder are not looked at.
    Raises InputError where there is no folder, no diary, or no entry in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is {'no folder' if folder.exists() else 'not there'}.",
            "Give the output folder of a policy run.",
        )
    path = folder / DIARY
    if not path.exists():
        raise InputError(
            f"{folder} holds no {DIARY}.", "Give the output folder of a run that wrote a diary."
        )
    faults: list[str] = []
    entries: dict[int, dict[str, float]] = {}
    for where, step, record in _records(path, faults):
        if step in entries:
            faults.append(f"{where}: step {step} again; the later line counts.")
        entries[step] = {"step": step, **_numbers(record)}
    if not entries:
        told = f"; {faults[0]}" if faults else "."
        raise InputError(
            f"{path} holds no entry that can be read{told}", "Let the run make its first step."
        )
    return RunDiary(
        folder,
        [entries[step] for step in sorted(entries)],
        _samples(folder, faults),
        _run(folder / RUN, faults),
        faults,
    )


def whole_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(number from 1, bytes, whether a newline ends it) of each line that is not blank."""
    if not path.exists() or not path.is_file() or path.stat().st_size == 0:
        return
    check_file(path, "diary")
    with open(path, "rb") as file:
        for count, line in enumerate(file, 1):
            if line.strip():
                yield count, line, line.endswith(b"\n")


def parse(line: bytes) -> tuple[int, dict]:
    """The step and the record of a line; raises ValueError saying what is wrong."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos + 1})") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    step = record.get("step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**53:
        raise ValueError("no step")
    return step, record


def _records(path: Path, faults: list[str]) -> Iterator[tuple[str, int, dict]]:
    for count, line, ended in whole_lines(path):
        where = f"{path.name}, line {count}"
        try:
            step, record = parse(line)
        except ValueError as error:
            if ended:  # else the run was killed while it wrote
                faults.append(f"{where}: {error}.")
            continue
        yield where, step, record


def _numbers(record: dict) -> dict[str, float]:
    found = {printable(key, NAME_LENGTH): number(value) for key, value in record.items()}
    return {key: value for key, value in found.items() if value is not None and key != "step"}


def _samples(folder: Path, faults: list[str]) -> list[Sample]:
    found = []
    for where, step, record in _records(folder / SAMPLES, faults):
        picture, image = None, record.get("image")
        if isinstance(image, str):
            try:
                if image.startswith("data:") or "\0" in image:
                    raise InputError(f"{where}: the image is no file.", "")
                picture = Path(resolve_image(image, folder, where))
            except (InputError, OSError, ValueError) as error:
                faults.append(getattr(error, "what", f"{where}: {error}"))
        answer = record.get("answer")
        found.append(
            Sample(
                step, clean(record.get("prompt")), clean(record.get("said")),
                None if answer is None else clean(answer), number(record.get("reward")),
                printable(clean(record.get("task"))), picture, clean(record.get("same_picture")),
            )
        )  # fmt: skip
    return sorted(found, key=lambda sample: sample.step)


def clean(text: Any) -> str:
    """Text that any page or terminal can take, cut to 4,000 characters; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    cut = text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"
    return _UNSHOWN.sub("\ufffd", cut)


def _run(path: Path, faults: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_bytes())
        if isinstance(run, dict):
            return run
        faults.append(f"{path.name}: no JSON object.")
    except (ValueError, RecursionError):
        faults.append(f"{path.name}: no JSON.")
    return {}
