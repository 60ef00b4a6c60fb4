"""A reward model as a folder, and back, on the base it was trained on. Chapter 5.

reward_model.json    base model, fingerprints (base weights, tokenizer, chat template), file hashes
head.safetensors     the scalar head, and the mean and spread that rewards are normalised with
adapter/             the LoRA in PEFT's format, where there is one
trunk.safetensors    base weights that were trained beside it, where there are any
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import torch
from torch import nn

from labs.errors import InputError
from labs.models.loading import load_vlm
from labs.models.lora import add_lora, lora_layers, save_lora
from labs.models.parts import PARTS
from labs.models.places import ZOO
from labs.models.scalar_head import RewardModel
from labs.models.weights import load_into, read_weights

CARD = "reward_model.json"
HEAD = ("scalar_head.weight", "scalar_head.bias", "reward_mean", "reward_std")


def text_fingerprints(processor) -> dict[str, str]:
    """Hashes of the tokenizer (vocabulary, merges, special tokens) and of the chat template."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(tokenizer, "is_fast", False):
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        made = {k: v for k, v in made.items() if k not in ("truncation", "padding")}  # moods
    else:
        made = {"vocabulary": tokenizer.get_vocab(), "special": tokenizer.all_special_tokens}
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        for name, value in (("tokenizer", made), ("chat_template", template))
    }


def check_processor(known: dict[str, str], processor, who: str) -> None:
    """InputError where the processor's tokenizer or template is not the known one."""
    here = text_fingerprints(processor)
    for name, words in (("tokenizer", "tokenizer"), ("chat_template", "chat template")):
        if known.get(name) != here[name]:
            raise InputError(
                f"{who} was trained with another {words} ({known.get(name)}) than the one in use "
                f"({here[name]}).",
                "Rate with a reward model of the policy's own family, or train one on its base.",
            )


def base_fingerprint(vlm: nn.Module, trained: set[str] = frozenset()) -> str:
    """A hash of sixteen values of every base weight that training left alone.

    Values are taken as bfloat16, so that a base loaded in float32 and in bfloat16 is the same one.
    Adapters are left out, and so are 4-bit weights, which are packed.
    """
    total = hashlib.sha256()
    for name, parameter in vlm.named_parameters():
        plain = name.replace(".base.", ".")
        if ".lora_" in name or plain in trained or not parameter.is_floating_point():
            continue
        flat = parameter.detach().flatten()
        picks = flat[:: max(1, flat.numel() // 16)][:16].to(torch.bfloat16).float().cpu()
        total.update(f"{plain} {tuple(parameter.shape)} {picks.tolist()}\n".encode())
    return total.hexdigest()[:16]


def save_reward_model(model: RewardModel, folder: str | os.PathLike) -> None:
    """Write `model` into `folder`, whole or not at all; what was there is replaced."""
    from safetensors.torch import save_file

    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        state = model.state_dict()
        head = {name: state[name].cpu().contiguous() for name in HEAD}
        save_file(head, temporary / "head.safetensors", metadata={"format": "pt"})
        if lora_layers(model.vlm):
            (temporary / "adapter").mkdir()
            save_lora(model.vlm, temporary / "adapter", model.base_model)
        own = {n.replace(".base.", "."): p for n, p in model.vlm.named_parameters()}
        if model.trained:
            trunk = {n: own[n].detach().cpu().contiguous() for n in sorted(model.trained)}
            save_file(trunk, temporary / "trunk.safetensors", metadata={"format": "pt"})
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        card = {
            "version": 1,
            "base_model": model.base_model,
            "base": base_fingerprint(model.vlm, model.trained),
            **text_fingerprints(model.processor),
            "trained": sorted(model.trained),
            "files": {str(p.relative_to(temporary)): _digest(p) for p in files},
        }
        (temporary / CARD).write_text(json.dumps(card, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise InputError(
            f"The reward model could not be written to {folder}: {error}.",
            "Make room or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_reward_model(folder: str | os.PathLike, base: tuple | None = None) -> RewardModel:
    """See `RewardModel.load`. `folder`: what `save` wrote, or the name of a shipped one (tiny-rm)."""
    name, folder = str(folder), Path(folder)
    if not folder.exists() and os.sep not in name and (ZOO / name / CARD).exists():
        folder = ZOO / name
    card = _read_card(folder)
    if base is None:
        if not card["base_model"]:
            raise InputError(
                f"{folder} does not say on which base model it was trained.",
                "Give that model and its processor as base=.",
            )
        base = load_vlm(card["base_model"])
    vlm, processor = base
    if lora_layers(vlm):
        raise InputError(
            "The base model given for the reward model already carries adapters.",
            "Merge them first, or let the reward model load a base of its own.",
        )
    found = base_fingerprint(vlm, set(card["trained"]))
    if found != card["base"]:
        raise InputError(
            f"{folder} was trained on another base model ({card['base_model']}, {card['base']}) "
            f"than the one given ({found}).",
            "Load the base model that it names, or train it anew.",
        )
    check_processor(card, processor, str(folder))
    model = RewardModel(vlm, processor, card["base_model"])
    model.trained = set(card["trained"])
    if "trunk.safetensors" in card["files"]:
        load_into(vlm, read_weights(folder / "trunk.safetensors"), str(folder))
    if "adapter/adapter_config.json" in card["files"]:
        load_lora(vlm, folder / "adapter")
    head = read_weights(folder / "head.safetensors")
    load_into(model, head, str(folder))
    return model.eval()


@torch.no_grad()
def load_lora(model: nn.Module, folder: str | os.PathLike) -> None:
    """Put a LoRA in PEFT's format (as `save_lora` writes it) on `model`, in place, as our own layers."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        targets, r, alpha = config["target_modules"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} holds no LoRA that can be read ({error}).", "Give a folder of save_lora."
        ) from None
    weights = read_weights(folder / "adapter_model.safetensors")
    add_lora(model, r, alpha, 0.0, targets, PARTS, config.get("use_rslora", False))
    names = {
        f"{name}.{matrix}": f"base_model.model.{name}.{matrix}.weight"
        for name in lora_layers(model)
        for matrix in ("lora_A", "lora_B")
    }
    if missing := [theirs for theirs in names.values() if theirs not in weights]:
        raise InputError(
            f"{folder} lacks `{missing[0]}` and {len(missing) - 1} more of its matrices.",
            "Copy the whole folder again.",
        )
    load_into(model, {ours: weights[theirs] for ours, theirs in names.items()}, str(folder))


def _read_card(folder: Path) -> dict:
    if not (folder / CARD).is_file():
        raise InputError(
            f"{folder} holds no reward model: it has no {CARD}.",
            "Give a folder that RewardModel.save wrote.",
        )
    try:
        card = json.loads((folder / CARD).read_text())
        files = dict(card["files"])
        complete = {"base_model", "base", "tokenizer", "chat_template", "trained"} <= card.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        files, complete = {}, False
    if not complete or "head.safetensors" not in files:
        raise InputError(f"{folder / CARD} is damaged.", "Copy the folder again.")
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            state = "has changed or is cut" if path.is_file() else "is missing"
            raise InputError(f"{path} {state}.", "Copy the folder of the reward model again.")
    return card


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
