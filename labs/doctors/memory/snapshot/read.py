"""Reads a memory snapshot without a GPU, without torch, and without trusting it.

A snapshot is a pickle, and a pickle can run anything when it is loaded. So it is loaded by an
unpickler that knows containers, numbers and strings only, in a child process with a limit on
memory and time; what comes back is JSON. Standard library only.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from labs.doctors.finding import size
from labs.errors import InputError

LARGEST = 512 * 2**20  # a file beyond this is refused unless asked for
MEMORY = 4 * 2**30  # for the child: a pickle becomes about ten times its size
SECONDS = 300
ACTION_HINT = "Record it with torch.cuda.memory._record_memory_history() and _dump_snapshot(FILE)."


class Refused(Exception):
    """The pickle wants something that is neither a container nor a number nor a string."""


class ContainersOnly(pickle.Unpickler):
    """Loads dicts, lists, tuples, sets, strings, bytes and numbers; refuses everything else."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise Refused("a persistent object")


def load(path: str) -> Any:
    """The containers in a pickle. Raises Refused, and what pickle raises for a damaged one."""
    with open(path, "rb") as file:
        return ContainersOnly(file).load()


def normal(content: Any) -> dict[str, Any] | None:
    """The snapshot in today's layout; None if it is none. Before 2.0 it was the list of segments."""
    if isinstance(content, list) and content and all(isinstance(s, dict) for s in content):
        content = {"segments": content}
    if not isinstance(content, dict) or not isinstance(content.get("segments"), list):
        return None
    if not all(isinstance(s, dict) and isinstance(s.get("blocks", []), list)
               for s in content["segments"]):  # fmt: skip
        return None
    content.setdefault("device_traces", [])
    return content


def child(path: str, memory: int, most: int) -> None:
    """In the child: limit itself, load, analyse, print JSON {"ok": …} or {"error": kind, …}."""
    from labs.doctors.memory.snapshot import allocations

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (ImportError, ValueError, OSError):
        pass  # Windows, or a limit that is lower already
    try:
        snapshot = normal(load(path))
        if snapshot is None:
            answer = {"error": "other"}
        else:
            devices = allocations.devices(snapshot)
            answer = {
                "ok": [allocations.analyse(snapshot, device, most) for device in devices],
                "keys": sorted(map(str, snapshot)),
            }
    except Refused as error:
        answer = {"error": "refused", "what": str(error)}
    except MemoryError:
        answer = {"error": "memory"}
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError, KeyError, OverflowError,
            UnicodeDecodeError, struct_error()) as error:  # fmt: skip
        answer = {"error": "damaged", "what": f"{type(error).__name__}: {error}"[:200]}
    except (TypeError, AttributeError) as error:
        answer = {"error": "other", "what": f"{type(error).__name__}: {error}"[:200]}
    json.dump(answer, sys.stdout)


def struct_error() -> type[Exception]:
    import struct

    return struct.error


def analyse_file(
    path: str | Path, largest: int = LARGEST, memory: int = MEMORY, most: int = 12
) -> list[dict[str, Any]]:
    """`allocations.analyse` of every device in the snapshot. Raises InputError."""
    path = Path(path)
    check_file(path, largest)
    answer = ask_child(path, memory, most)
    if "ok" in answer:
        if not answer["ok"]:
            raise InputError(f"{path} is a snapshot of no allocation at all.", ACTION_HINT)
        return answer["ok"]
    what = answer.get("what", "")
    kind = answer["error"]
    if kind == "refused":
        raise InputError(
            f"{path} is no plain snapshot: reading it would have to import {what}; nothing was run.",
            "Do not load it with pickle or torch.load; ask where it comes from, and record it anew.",
        )
    if kind == "memory":
        raise InputError(
            f"{path} needs more than {size(memory)} of memory to be read.",
            "Give --memory more, or record with a smaller max_entries.",
        )
    if kind == "damaged":
        raise InputError(
            f"{path} is truncated or damaged ({what.partition(':')[0]}).",
            "Copy it again; a process killed while dumping leaves half a file.",
        )
    raise InputError(
        f"{path} is a pickle, but not a memory snapshot of any PyTorch version known here.",
        ACTION_HINT,
    )


def check_file(path: Path, largest: int) -> None:
    """Refuse what cannot be a snapshot before anything reads it whole."""
    if not path.exists():
        raise InputError(f"There is no file {path}.", "Check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file.", "Give the .pickle that _dump_snapshot wrote.")
    try:
        bytes_in_file = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check its rights.") from None
    if not head:
        raise InputError(f"{path} is empty.", "The process was killed before it dumped; run again.")
    if bytes_in_file > largest:
        raise InputError(
            f"{path} has {size(bytes_in_file)}, above the {size(largest)} that are read.",
            "Record with a smaller max_entries, or allow it: --largest "
            f"{bytes_in_file // 2**20 + 1}MiB --memory {bytes_in_file * 12 // 2**30 + 1}GiB.",
        )
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is a zip file, as torch.save writes.", ACTION_HINT)
    if head.startswith(b"\x1f\x8b"):
        raise InputError(f"{path} is compressed.", f"Unpack it: gunzip -k {path.name}")
    if head[:1] not in (b"\x80", b"(", b"}", b"]", b"c"):  # the last four: before protocol 2
        raise InputError(f"{path} is not a pickle.", ACTION_HINT)


def ask_child(path: Path, memory: int, most: int) -> dict[str, Any]:
    import labs

    root = os.path.dirname(os.path.dirname(labs.__file__))  # a folder, or the zipapp itself
    code = (
        f"import sys; sys.path.insert(0, {root!r}); from labs.doctors.memory.snapshot.read "
        f"import child; child({str(path)!r}, {memory}, {most})"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{path} took more than {SECONDS} seconds to read.",
            "Record with a smaller max_entries.",
        ) from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        if "MemoryError" in done.stderr or done.returncode in (-9, -6, -11):
            return {"error": "memory"}
        return {"error": "damaged", "what": f"exit code {done.returncode}: {done.stderr[-200:]}"}
