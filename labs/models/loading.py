"""`load_vlm`: a zoo name, a local folder or a hub id becomes (model, processor)."""

import os
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
)

from labs.errors import InputError
from labs.models.places import EVERY, NAMES, ZOO

PICKLED = (".bin", ".pth", ".pt", ".ckpt")


def resolve(name_or_path: str | os.PathLike) -> str:
    """The folder of a zoo name or a local path; anything else is taken for a hub id."""
    name = str(name_or_path)
    if name in EVERY:
        if (ZOO / name / "reward_model.json").exists():
            raise InputError(
                f"{name} rates answers and gives none.",
                "Load it with labs.models.scalar_head.RewardModel, or name a model that answers.",
            )
        kinds = ("config.json", "adapter_config.json")
        if not any((ZOO / name / kind).exists() for kind in kinds):
            raise InputError(
                f"The zoo model {name} is not built here.", "Run `make zoo`, or reinstall labs."
            )
        return str(ZOO / name)
    path = Path(name).expanduser()
    if path.exists():
        check_folder(path)
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"There is no model folder {name}.", "Check the path.")
    if "/" not in name:
        raise InputError(
            f"There is no model {name!r} in the zoo and no folder of that name.",
            f"Use one of {', '.join(NAMES)}, a local folder, or a hub id such as org/name.",
        )
    return name


def check_folder(folder: Path) -> None:
    """Names what is wrong with a local model folder before a library trips over it."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is a file, not a model folder.",
            "Give the folder that holds config.json and the weights.",
        )
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder} holds no config.json.", "Give a folder written by save_pretrained."
        )
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", *PICKLED):
            check_not_a_pointer(file)


def check_not_a_pointer(file: Path) -> None:
    """Refuses a Git-LFS pointer or an HTML page that was saved under a model file's name."""
    with open(file, "rb") as handle:
        head = handle.read(200)
    if not head:
        raise InputError(f"{file} is empty.", "Download it again.")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise InputError(
            f"{file} is a Git-LFS pointer, not the file itself.",
            "Run `git lfs pull` in that repository, or download the file from its page.",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"{file} is an HTML page, not a model file.",
            "Download it again: the server sent a login or error page in its place.",
        )


def load_vlm(
    name_or_path: str | os.PathLike,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    quantization: str | None = None,
    adapter: str | os.PathLike | None = None,
    **options,
):
    """Loads a vision-language model and its processor.

    name_or_path: a zoo name ("tiny-sft"), a local folder, or a hub id (the network is used then).
    dtype: weights are held in it; "auto" keeps the file's. quantization: "nf4" or "int8"
    (bitsandbytes; also on CPU). adapter: a PEFT folder to put on top.
    attn_implementation: "eager", "sdpa" or "flash_attention_2". Further options go to
    `from_pretrained`. A folder that is itself an adapter loads its base model first.

    Returns (model, processor), the model in eval mode. Raises InputError for a name that is
    nothing, a pointer or a page in place of weights, a truncated file.
    """
    folder = resolve(name_or_path)
    if Path(folder, "adapter_config.json").exists():
        import json

        base = json.loads(Path(folder, "adapter_config.json").read_text())
        adapter, name_or_path = folder, base["base_model_name_or_path"]
        folder = resolve(name_or_path)
    if quantization:
        options["quantization_config"] = quantization_config(quantization)
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    model = _from_pretrained(AutoModelForImageTextToText, folder, dtype=dtype, **options)
    processor = _from_pretrained(AutoProcessor, folder)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, resolve(adapter))
    if device is not None and not quantization:
        model = model.to(device)
    return model.eval(), processor


def load_lm(name_or_path: str | os.PathLike = "tiny-lm", dtype="float32"):
    """A text-only model and its tokenizer: `load_lm("tiny-lm")`."""
    folder = resolve(name_or_path)
    model = _from_pretrained(AutoModelForCausalLM, folder, dtype=dtype)
    return model.eval(), _from_pretrained(AutoTokenizer, folder)


def load_clip(name_or_path: str | os.PathLike = "tiny-clip", dtype="float32"):
    """A dual encoder and its processor: `load_clip("tiny-clip")`."""
    folder = resolve(name_or_path)
    model = _from_pretrained(CLIPModel, folder, dtype=dtype)
    return model.eval(), _from_pretrained(AutoProcessor, folder)


def quantization_config(kind: str):
    """bitsandbytes' settings for "nf4" (double quantisation, QLoRA's) or "int8"."""
    from transformers import BitsAndBytesConfig

    # Towers and connectors are small and sensitive; only the language model is quantised.
    keep = [".*vision_tower", ".*multi_modal_projector", ".*visual", "lm_head"]
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if not torch.cuda.is_available() else None,
            llm_int8_skip_modules=keep,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    raise InputError(f"There is no quantization {kind!r}.", "Use 'nf4' or 'int8'.")


def _from_pretrained(cls, folder: str, **options):
    local = Path(folder).is_dir()
    try:
        if local:
            options["local_files_only"] = True
        if cls not in (AutoProcessor, AutoTokenizer):
            # A pickle can run anything; torch reads old ones with weights_only, and only those.
            options.setdefault("weights_only", True)
        return cls.from_pretrained(folder, **options)
    except InputError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "header" in text.lower() or type(error).__name__ == "SafetensorError":
            raise InputError(
                f"The weights in {folder} cannot be read ({text}).",
                "The file is truncated or not safetensors; download it again.",
            ) from error
        if local:
            raise InputError(
                f"{folder} cannot be loaded as {cls.__name__}: {text}",
                "Check that it is a folder written by save_pretrained for this kind of model.",
            ) from error
        raise InputError(
            f"{folder!r} could not be loaded from the hub: {text}",
            "Check the name, the network and HF_ENDPOINT, or download it to a local folder.",
        ) from error
