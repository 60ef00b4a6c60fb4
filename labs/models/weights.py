"""Reading a file of weights from anywhere: safetensors or `.pth`, and what people have instead."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from labs.errors import InputError

LFS = b"version https://git-lfs"


def name_impostor(path: Path) -> str | None:
    """What a file that should hold weights really is, where its first bytes tell."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(LFS):
        return "a Git-LFS pointer, the note that stands for a file not yet fetched"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "an HTML page, most likely a login or error page saved by a download"
    return None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor from a `.safetensors` file, or a `.pth`/`.pt`/`.bin` read with weights_only.

    Pickles can run code when they are read; `weights_only=True` admits tensors and plain containers
    and nothing else. A state dict one level down (`{"model": {...}}`) is found too.
    Raises InputError naming what is there instead: nothing, an HTML page, a Git-LFS pointer, a
    truncated file, a pickle with code in it, no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file of weights at {path}.", "Check the path.")
    impostor = name_impostor(path)
    if impostor:
        how = "Run `git lfs pull` there." if "Git-LFS" in impostor else "Download the file again."
        raise InputError(f"{path} is {impostor}, not weights.", how)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(
                f"{path} is truncated or no safetensors file ({error}).",
                "Copy or download it again, and compare its size.",
            ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than weights: reading it would run code ({_first_line(error)}).",
            "Ask its author for a safetensors file, or convert it in a sandbox.",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is truncated or no file of weights ({_first_line(error)}).",
            "Copy or download it again, and compare its size.",
        ) from None
    for key in (None, "model", "state_dict", "module"):
        found = loaded if key is None else loaded.get(key) if isinstance(loaded, dict) else None
        if isinstance(found, dict) and found and all(isinstance(v, Tensor) for v in found.values()):
            return found
    raise InputError(f"{path} holds no state dict.", "Save `model.state_dict()` and nothing else.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def load_into(model: torch.nn.Module, weights: dict[str, Tensor], where: str, strict: bool = True):
    """Copy `weights` into `model`; raises InputError where they are of another model.

    With `strict=False` names that the model lacks or the file lacks are allowed, shapes are not.
    """
    own = model.state_dict()
    for name, tensor in weights.items():
        if name in own and own[name].shape != tensor.shape:
            raise InputError(
                f"{where} is of another model: `{name}` is {list(tensor.shape)} there and "
                f"{list(own[name].shape)} here.",
                "Load it into the model it was saved from.",
            )
    if strict:
        strange = [name for name in weights if name not in own]
        if strange:
            raise InputError(
                f"{where} is of another model: it has `{strange[0]}` and {len(strange) - 1} more "
                "names that this model lacks.",
                "Load it into the model it was saved from.",
            )
    return model.load_state_dict(weights, strict=False)
