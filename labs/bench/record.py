"""A measurement as a file: what was measured, and with what, so that it can be judged later.

The format of `book/measurements/*.json`: command, commit, seed, the files of code measured and
their digest, hardware, versions, date, results.
"""

import ast
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

VERSIONS = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "bitsandbytes")
IGNORED = {"__pycache__", ".ipynb_checkpoints"}
# What makes batches of conversations: the part of labs/data that a measurement of training depends on.
ENCODING = tuple(
    f"labs/data/{name}.py"
    for name in ("collate", "dataset", "encode", "labels", "packing", "skips", "template")
)
# What decides a policy run's numbers: not its diary, nor its report.
POLICY = tuple(
    f"labs/train/policy/{name}.py"
    for name in (
        "completion", "config", "control", "experience", "forward", "learn", "lengths", "packed",
        "prompts", "recompute", "reference", "rewards/check", "rewards/checkable",
        "rewards/hallucination", "rewards/mix", "rewards/shape", "score", "sequences", "targets",
        "trainer", "update", "world",
    )
)  # fmt: skip
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


def make_record(
    command: str, seed: int | list[int], code: Iterable[str], results: dict, root: Path = ROOT
) -> dict:
    """The record of results just measured. `code`: files and folders, from the root, as `listed`.

    Raises InputError where a part of `code` is not there.
    """
    files = listed(code, root)
    return {
        "command": command,
        "commit": _output("git", "rev-parse", "HEAD", cwd=root),
        "seed": seed,
        "code": files,
        "code_digest": digest([root / file for file in files], root),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
    }


def listed(code: Iterable[str], root: Path = ROOT) -> list[str]:
    """`code` with every folder replaced by the files in it, sorted; from `root`, each once.

    A record lists files, so that one added beside them leaves it current: a new file matters only
    once a listed one imports it, and that changes the listed one. For the same reason an
    `__init__.py` that only re-exports is left out; named itself, it stays.
    """
    found = {}
    for name in code:
        path = root / name
        files = [path]
        if path.is_dir():
            files = [f for f in _files(path) if f.name != "__init__.py" or not only_exports(f)]
        if not files or not path.exists():
            raise InputError(
                f"There is no code to measure at {name}.",
                "Name files and folders from the repository's root.",
            )
        found |= dict.fromkeys(file.relative_to(root).as_posix() for file in files)
    return list(found)


def only_exports(file: Path) -> bool:
    """Whether a module holds nothing but docstring, imports, `__all__` and set-up of `logging`."""
    try:
        statements = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return False
    return all(_decides_nothing(statement) for statement in statements)


def _decides_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    if isinstance(statement, ast.Assign):
        return [ast.unparse(target) for target in statement.targets] == ["__all__"]
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    if isinstance(value, ast.Call):  # logging.getLogger("name").setLevel(...)
        while isinstance(value, ast.Call | ast.Attribute):
            value = value.func if isinstance(value, ast.Call) else value.value
        return isinstance(value, ast.Name) and value.id == "logging"
    return isinstance(value, ast.Constant)


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
    """A hash of the names and contents of all files at and below `paths`, as the book's.

    What is not there adds nothing, so a deleted file changes the hash as a changed one does.
    """
    total = hashlib.sha256()
    for path in paths:
        for file in [path] if path.is_file() else _files(path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [file for file in found if file.is_file() and not IGNORED & set(file.parts)]


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


def _output(*command: str, cwd: Path = ROOT) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
