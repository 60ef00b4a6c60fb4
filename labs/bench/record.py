"""A measurement as a file: what was measured, and with what, so that it can be judged later.

The format of `book/measurements/*.json`: command, commit, seed, the code measured and its digest,
hardware, versions, date, results.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from labs.bench.children import ROOT
from labs.errors import InputError

VERSIONS = ("torch", "transformers", "peft", "accelerate", "trl", "datasets")
IGNORED = {"__pycache__", ".ipynb_checkpoints"}
# What makes batches of conversations: the part of labs/data that a measurement of training depends on.
ENCODING = tuple(
    f"labs/data/{name}.py"
    for name in ("collate", "dataset", "encode", "labels", "packing", "skips", "template")
)
# The part of labs/formats that the data doctor reads with.
READING = tuple(
    f"labs/formats/{name}.py"
    for name in (
        "coco", "conversation", "dialects", "fields", "files", "fingerprints", "images", "json_cut",
        "json_faults", "json_rows", "llava", "mmbench", "mme", "near", "pairs", "pope", "preference",
        "qilin", "row", "rows", "shard_fields", "shard_names", "sniff", "sniff_file", "sniff_root",
        "tables", "tar_members", "text_signs", "webdataset",
    )
)  # fmt: skip


def make_record(command: str, seed: int, code: Iterable[str], results: dict) -> dict:
    """The record of results just measured. `code`: files and folders, from the repository's root."""
    code = list(code)
    return {
        "command": command,
        "commit": _output("git", "rev-parse", "HEAD"),
        "seed": seed,
        "code": code,
        "code_digest": digest([ROOT / path for path in code]),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
    }


def write_record(path: Path, record: dict) -> None:
    """Write it whole or not at all. Raises InputError where it cannot be written."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"The record cannot be written to {path}: {error.strerror}.",
            "Give --output a file in a folder that exists and has room.",
        ) from None


def digest(paths: Iterable[Path], root: Path = ROOT) -> str:
    """A hash of the names and contents of all files at and below `paths`, as the book's."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and not IGNORED & set(file.parts):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{file.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


def hardware() -> dict:
    """The processor in words, its cores, and the GPUs."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    query = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    gpus = _output(*query).splitlines() if shutil.which("nvidia-smi") else []
    cpu = models[0] if models else platform.processor() or platform.machine()
    load = [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else []
    return {"cpu": cpu, "cores": os.cpu_count(), "gpus": gpus, "load_average": load}


def versions() -> dict[str, str]:
    """The installed versions of what the numbers may depend on."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
