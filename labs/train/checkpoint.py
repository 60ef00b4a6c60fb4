"""Checkpoints that are whole or not there: written beside, synced, renamed, verified when read.

A checkpoint folder holds the trainable weights (safetensors), the optimiser and the other tensors of
the run (torch, read with weights_only), the rest as JSON, and a manifest with every file's size and
SHA-256. The manifest is written last and the folder takes its name only when all of it is on disk:
a process killed at any moment leaves either the complete new folder or none.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labs.errors import InputError
from labs.models.weights import name_impostor, read_weights

MANIFEST = "manifest.json"
WEIGHTS, STATE, META = "trainable.safetensors", "state.pt", "state.json"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Make `folder` appear whole: `write(temporary)` fills it, then it is synced and renamed.

    Raises InputError when the disk is full or refuses; what was at `folder` before is then intact
    and the half-written copy is gone.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary.mkdir()
        write(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = {
            str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": _digest(p)}
            for p in files
        }
        (temporary / MANIFEST).write_text(json.dumps({"version": 1, "files": manifest}, indent=1))
        for path in [*files, temporary / MANIFEST, temporary]:
            _sync(path)
        if folder.exists():
            aside = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
            folder.rename(aside)
            temporary.rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(_existing(folder)).free
        raise InputError(
            f"{folder} could not be written and nothing of it was kept: {error} "
            f"({free / 1e6:.0f} MB are free there).",
            "Make room or choose another output folder; earlier checkpoints are intact.",
        ) from error
    except BaseException:  # Ctrl-C twice: leave nothing half written either
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _remove_leftovers(folder: Path) -> None:
    """Temporary folders that a killed process left behind."""
    for old in folder.parent.glob(".*.tmp"):
        match = re.fullmatch(r"\..+?\.(\d+)(\.old)?\.tmp", old.name)
        if not match or (os.path.exists(f"/proc/{match[1]}") and int(match[1]) != os.getpid()):
            continue
        name = old.name[1:].split(f".{match[1]}.")[0]
        if match[2] and not (folder.parent / name).exists():
            old.rename(folder.parent / name)  # killed between the two renames: put it back
        else:
            shutil.rmtree(old, ignore_errors=True)


def verify(folder: str | Path) -> None:
    """Raise InputError where `folder` is no whole checkpoint: files missing, cut or changed."""
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"There is no checkpoint folder {folder}.", "Check the path.")
    if not manifest.is_file():
        raise InputError(
            f"{folder} is no checkpoint of this program: it has no {MANIFEST}.",
            "Give a checkpoint-N folder that `labs train` wrote.",
        )
    try:
        files = json.loads(manifest.read_text())["files"]
    except (ValueError, KeyError):
        raise InputError(
            f"{manifest} is damaged.", "Resume from an earlier checkpoint with --resume FOLDER."
        ) from None
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            problem = f"{path} is missing"
        elif impostor := name_impostor(path):
            problem = f"{path} is {impostor}"
        elif path.stat().st_size != wanted["bytes"]:
            problem = f"{path} is truncated: {path.stat().st_size} of {wanted['bytes']} bytes"
        elif _digest(path) != wanted["sha256"]:
            problem = f"{path} has changed since it was written (SHA-256 differs)"
        else:
            continue
        raise InputError(f"{problem}.", "Resume from an earlier checkpoint with --resume FOLDER.")


def fingerprint(model: torch.nn.Module, trainable: set[str]) -> dict[str, str]:
    """Name -> shape and, for frozen weights, a hash of sixteen of their values.

    Trainable weights are in the checkpoint; frozen ones are not, so that a checkpoint of an adapter
    could silently be put on another base model of the same shape. The hash tells.
    """
    marks = {}
    for name, parameter in model.named_parameters():
        marks[name] = "x".join(map(str, parameter.shape))
        if name not in trainable and parameter.numel():
            flat = parameter.detach().flatten()
            picks = flat[:: max(1, flat.numel() // 16)][:16].cpu().contiguous()
            marks[name] += ":" + hashlib.sha256(picks.view(torch.uint8).numpy()).hexdigest()[:16]
    return marks


def check_same_model(saved: dict[str, str], here: dict[str, str], folder: Path) -> None:
    """Raise InputError at the first parameter that differs between checkpoint and model."""
    for name in [*saved, *here]:
        a, b = saved.get(name), here.get(name)
        if a == b:
            continue
        if a is None or b is None:
            what = f"`{name}` is only in the {'model' if a is None else 'checkpoint'}"
        elif a.split(":")[0] != b.split(":")[0]:
            what = f"`{name}` is {a.split(':')[0]} there and {b.split(':')[0]} here"
        else:
            what = f"the frozen weights `{name}` differ, so its base model is another"
        raise InputError(
            f"{folder} is a checkpoint of another model or set-up: {what}.",
            "Resume with the recipe, model and options of the run that wrote it.",
        )


def save(folder: Path, weights: dict[str, Tensor], state: dict[str, Any], meta: dict) -> Path:
    """Write one checkpoint: trainable weights, other tensors of the run, and what fits in JSON."""
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        # clone: tied or sliced tensors may share storage, which safetensors refuses
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary / WEIGHTS
        )
        torch.save(state, temporary / STATE)
        (temporary / META).write_text(json.dumps(meta))

    return write_folder(folder, write)


def load(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], dict]:
    """What `save` wrote, verified: weights, state, meta."""
    folder = Path(folder)
    verify(folder)
    weights = read_weights(folder / WEIGHTS)
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return weights, state, json.loads((folder / META).read_text())


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoint-N folders of a run, oldest first."""
    found = []
    for path in Path(output_dir).glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def latest(output_dir: str | Path) -> Path:
    """The newest checkpoint of a run; raises InputError where there is none."""
    found = checkpoints(output_dir)
    if not found:
        raise InputError(
            f"{output_dir} holds no checkpoint to resume from.",
            "Start without --resume, or give the folder of the run.",
        )
    return found[-1]


def prune(output_dir: str | Path, limit: int | None, keep: Path | None = None) -> None:
    """Delete the oldest checkpoints over `limit`, never `keep` (the best one)."""
    if limit is None:
        return
    found = checkpoints(output_dir)
    for path in [p for p in found[:-limit] if p != keep]:
        # Without its manifest it is no checkpoint: a kill half-way leaves nothing that looks whole.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


# Settings under which "the same step" means the same samples and the same update.
SAME = (
    "seed num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps "
    "group_by_length shuffle learning_rate learning_rates weight_decay lr_scheduler_type "
    "warmup_ratio warmup_steps method"
).split()


def check_same_run(meta: dict, config: dict, samples: int, folder: Path) -> None:
    """Raise InputError where the settings or the data that decide the order of samples changed."""
    if meta["samples"] != samples:
        raise InputError(
            f"{folder} was written in a run on {meta['samples']} samples; there are {samples} now.",
            "Resume with the same data.",
        )
    for key in SAME:
        if meta["config"].get(key) != config[key]:
            raise InputError(
                f"{folder} was written with {key}={meta['config'].get(key)}; now it is {config[key]}.",
                "Resume with the same settings, or start a new run from its weights.",
            )
