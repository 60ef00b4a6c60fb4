"""`load_answerer`: a zoo name, a local folder or a hub id becomes something that can be asked."""

import json
import os
from pathlib import Path
from typing import Literal

import torch

from labs.errors import InputError
from labs.models.loading import load_clip, load_lm, load_vlm, resolve
from labs.suites.chat import ChatAnswerer, Pictures
from labs.suites.clip import ClipAnswerer
from labs.suites.contract import Answerer

DTYPES = ("float32", "bfloat16", "float16", "auto")


def load_answerer(
    name_or_path: str | os.PathLike,
    *,
    adapter: str | os.PathLike | None = None,
    dtype: str = "float32",
    device: str | None = None,
    quantization: str | None = None,
    described: bool = False,
    blind: bool = False,
    likelihood: bool = False,
) -> Answerer:
    """A zoo name, a local folder or a hub id as an answerer.

    A vision-language model sees the pictures. A text-only model (tiny-lm) is asked without them. A
    dual encoder (tiny-clip) chooses among captions. device: a GPU where there is one, else the CPU.

    described: no picture is shown; where the suite has its description in words, that is read first
    (`about["description"]`), and other questions are asked blind. blind: pictures are dropped and
    nothing takes their place. Both work for every model that talks. likelihood: the model writes
    nothing; the likeliest of a question's candidates is its answer (`LikelihoodAnswerer`).

    Raises InputError as `load_vlm` does, and for what a kind of model cannot do.
    """
    if described and blind:
        raise InputError(
            "--described and --blind exclude each other.", "Give the model one of them."
        )
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r} here.", f"Use one of {', '.join(DTYPES)}.")
    device = _device(device)
    kind = kind_of(name_or_path)
    told = {
        "name": _name(name_or_path, adapter), "path": str(name_or_path), "kind": kind,
        "adapter": str(adapter) if adapter else None, "dtype": str(dtype).removeprefix("torch."),
        "quantization": quantization, "device": torch.device(device).type,
    }  # fmt: skip
    if kind == "clip":
        for option, value in (
            ("--adapter", adapter), ("--quantization", quantization),
            ("--described", described), ("--blind", blind), ("--likelihood", likelihood),
        ):  # fmt: skip
            if value:
                raise InputError(
                    f"{option} is not for a dual encoder such as {name_or_path}.", "Leave it out."
                )
        model, processor = load_clip(name_or_path, dtype=dtype)
        return ClipAnswerer(model.to(device), processor, told)
    if kind == "vlm":
        model, processor = load_vlm(
            name_or_path, dtype=dtype, device=device, quantization=quantization, adapter=adapter
        )
        pictures: Pictures = "described" if described else "dropped" if blind else "seen"
        told["name"] += {"described": "-described", "dropped": "-blind", "seen": ""}[pictures]
        return _talking(model, processor, told, pictures, likelihood)
    if quantization:
        raise InputError(
            f"{name_or_path} is a text-only model, which is not quantised here.",
            "Leave --quantization out.",
        )
    model, processor = load_lm(name_or_path, dtype=dtype)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, resolve(adapter)).eval()
    told["name"] += "-described" if described else ""
    pictures = "described" if described else "dropped"
    return _talking(model.to(device), processor, told, pictures, likelihood)


def _device(name: str | None) -> str:
    """The device asked for, or a GPU where there is one; InputError for one that is not there."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"There is no device {name!r} to be used: {reason}",
            "Leave --device out, or use cpu, or cuda where `labs env` finds a GPU.",
        ) from None
    return name


def _talking(model, processor, told: dict, pictures: Pictures, likelihood: bool) -> Answerer:
    """A model that talks, or that is asked what it finds likely."""
    talker = ChatAnswerer(model, processor, told, pictures)
    if not likelihood:
        return talker
    if pictures == "dropped":
        raise InputError(
            f"--likelihood asks {talker.name} about a picture or its description, and it gets neither.",
            "Add --described for a text-only model, or leave --blind out.",
        )
    from labs.suites.likelihood import LikelihoodAnswerer

    return LikelihoodAnswerer(
        model, processor, f"{talker.name}-likelihood", described=pictures == "described",
        told=talker.describe(),
    )  # fmt: skip


def kind_of(name_or_path: str | os.PathLike) -> Literal["vlm", "lm", "clip"]:
    """What a model is, by its configuration; of a PEFT folder, what its base model is.

    What cannot be told counts as a vision-language model: `load_vlm` says what is wrong with it.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        CLIPConfig,
    )

    folder = resolve(name_or_path)
    local = Path(folder).is_dir()
    try:
        if (peft := Path(folder, "adapter_config.json")).exists():
            return kind_of(json.loads(peft.read_text())["base_model_name_or_path"])
        options = {"local_files_only": True} if local else {}
        config = type(AutoConfig.from_pretrained(folder, trust_remote_code=False, **options))
    except InputError:
        raise
    except Exception:
        return "vlm"
    if config is CLIPConfig:
        return "clip"
    if config in AutoModelForImageTextToText._model_mapping:
        return "vlm"
    return "lm" if config in AutoModelForCausalLM._model_mapping else "vlm"


def _name(name_or_path: str | os.PathLike, adapter: str | os.PathLike | None) -> str:
    """A name for tables and folders: the last part of a path, and the adapter's."""
    name = Path(name_or_path).name or Path(name_or_path).resolve().name
    return f"{name}+{Path(adapter).name}" if adapter else name
