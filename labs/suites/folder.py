"""A results folder while a run writes to it.

    config.json   what is asked of whom, and how; written before anything is asked
    items.jsonl   one row a question; during the run in the order of the batches, each batch one write
    log.jsonl     when the run was started, on what; seconds a batch; what went wrong and was mended
    scores.json   written last: where it is, the run is complete

A process that dies leaves a folder that the next one can go on with: config.json and scores.json are
renamed into place, items.jsonl may end in half a batch, which is cut off. `flock` keeps a second
process out and is let go by death.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats.files import atomic_write
from labs.suites.contract import Row
from labs.suites.suspicious import CONFIG, ITEMS, SCORES, read_lines, read_object

LOG, LOCK = "log.jsonl", ".lock"
# What of config.json must be the same for a run to go on; the rest (hardware, …) is told only.
COMPARED = ("format", "suite", "model", "generation", "batch_size", "questions", "versions")


def dumps(value: Any, indent: int | None = None) -> bytes:
    """JSON as UTF-8; half a surrogate pair, which UTF-8 has no bytes for, is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent).encode()


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    with atomic_write(path, "wb") as file:
        file.write(dumps(value, indent=1) + b"\n")


def lines(rows: Sequence[Row]) -> bytes:
    """Rows as lines of items.jsonl."""
    # Not row.to_dict(): a deep copy of every row costs more than writing it.
    return b"".join(dumps(vars(row)) + b"\n" for row in rows)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process writes to `folder`. InputError where one does already."""
    import fcntl  # Linux, macOS, WSL

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")  # noqa: SIM115  closed below
    except OSError as error:
        raise InputError(
            f"The results folder {folder} cannot be written: {error.strerror}.",
            "Give --output a folder that you may write to.",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process is writing to {folder}.",
                "Wait until it has ended, or give another --output.",
            ) from None
        except OSError as error:
            raise InputError(
                f"{folder} cannot be locked: {error.strerror}.",
                "Give --output a folder on a disk that knows file locks.",
            ) from None
        try:
            yield
        finally:
            # Not by closing alone: a process forked meanwhile has the file open as well.
            fcntl.flock(file, fcntl.LOCK_UN)


def settle(folder: Path, config: dict) -> None:
    """Write config.json, or, where there is one, find that it asks the same.

    Raises InputError that says what differs.
    """
    path = folder / CONFIG
    if not path.exists():
        if (folder / ITEMS).exists() or (folder / SCORES).exists():
            raise InputError(
                f"{folder} holds results, but no {CONFIG} that says what they are of.",
                "Remove that folder, or give another --output.",
            )
        write_json(path, config)
        return
    found = read_object(path)
    if differ := differences(found, config):
        raise InputError(
            f"{folder} holds another run: {'; '.join(differ[:4])}.",
            "Give another --output, or remove that folder.",
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of two configurations differs, in words: "batch_size was 64 and now is 32"."""
    before, now = (_flat({k: c.get(k) for k in COMPARED}) for c in (old, json.loads(dumps(new))))
    return [
        f"{key} was {_short(before.get(key))} and now is {_short(now.get(key))}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
        # How a suite was named, to the command line and to people, is no part of what it asks.
        and not key.startswith(("suite.loaded", "suite.title"))
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "not set" if value is None else text if len(text) <= 40 else f"{text[:37]}…"


def answered(folder: Path, batches: Sequence[Sequence[str]]) -> dict[str, dict]:
    """id -> line of what earlier runs answered, a whole batch or nothing of it.

    What does not belong to a whole batch (a line that a kill cut off, the lines before it of the
    same batch) is cut off the file too, so that the batch can be asked again and stand there once.
    Raises InputError for lines that no run of this suite has written.
    """
    path = folder / ITEMS
    if not path.exists():
        return {}
    found: dict[str, dict] = {}
    known = {id for batch in batches for id in batch}
    records, torn = read_lines(path, torn=True)
    for number, record in records:
        id = record.get("id")
        if not isinstance(id, str) or id not in known or id in found:
            again = "a second answer to" if id in found else "an answer to"
            raise InputError(
                f"{path}, line {number} holds {again} {id!r}, which this run did not write.",
                "Remove that folder, or give another --output.",
            )
        found[id] = record
    whole = {id for batch in batches if all(id in found for id in batch) for id in batch}
    if torn or len(whole) < len(found):
        with atomic_write(path, "wb") as file:
            file.writelines(dumps(r) + b"\n" for _, r in records if r["id"] in whole)
    return {id: record for id, record in found.items() if id in whole}


def append(folder: Path, data: bytes, what: str) -> None:
    """Add `data` to items.jsonl in one write, and wait until it is on the disk.

    Raises InputError where it does not fit; what was written of it is taken back. `what` says in
    words what the file holds already.
    """
    path = folder / ITEMS
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(handle).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, before)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            reason = "The disk is full" if full else f"{path} cannot be written ({error.strerror})"
            raise InputError(
                f"{reason}: {what}.", "Free some space and run the same command again: it goes on."
            ) from None
    finally:
        os.close(handle)


def note(folder: Path, **event: Any) -> None:
    """A line in log.jsonl. What cannot be noted is not worth ending a run for."""
    with contextlib.suppress(OSError), open(folder / LOG, "ab") as file:
        file.write(dumps(event) + b"\n")


def seconds(folder: Path) -> float:
    """The seconds that all batches took, over all processes that worked on the run."""
    taken: dict[int, float] = {}
    try:
        text = (folder / LOG).read_bytes()
    except OSError:
        return 0.0
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            event = json.loads(line)
            taken[int(event["batch"])] = float(event["seconds"])
    return sum(taken.values())


def finish(folder: Path, rows: Sequence[Row], scores: dict) -> None:
    """items.jsonl in the order of the questions, then scores.json, each whole or not at all."""
    data = lines(rows)
    with atomic_write(folder / ITEMS, "wb") as file:
        file.write(data)
    write_json(folder / SCORES, scores | {"items": hashlib.sha256(data).hexdigest()})


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
