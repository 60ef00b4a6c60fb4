"""LoRA from scratch: a frozen linear layer plus a low-rank update. Chapter 3 derives it.

    h = W x + s · B A x,   A [r, in],  B [out, r],  s = alpha / r  (rsLoRA: alpha / sqrt(r))

A starts random and B at zero, so that training starts at the model as it was. Hu et al. 2021,
arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. Same numbers as PEFT's.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labs.errors import InputError
from labs.models.parts import part_of


class LoRALinear(nn.Module):
    """A linear layer (plain or 4-bit) with a low-rank update beside it."""

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
    ):
        super().__init__()
        if r < 1:
            raise InputError(f"A LoRA rank of {r} is none.", "Give 1 or more.")
        self.base, self.r, self.alpha, self.rslora = base, r, alpha, rslora
        self.scale = alpha / math.sqrt(r) if rslora else alpha / r
        # 4-bit weights are packed integers: the update then lives in float32.
        weight = base.weight
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        like = {"device": weight.device, "dtype": dtype}
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **like))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear, and PEFT, do
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        base.requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """The frozen weight: some models read `layer.weight.dtype`."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        low = self.dropout(x.to(self.lora_A.dtype)) @ self.lora_A.T
        # B first, then the scale: on [.., out] as PEFT does, so that rounding agrees.
        update = (low @ self.lora_B.T) * self.scale
        out = self.base(x)
        return out + update.to(out.dtype)

    def delta(self) -> Float[Tensor, "outputs inputs"]:
        """The update as one matrix, s · B A."""
        return (self.lora_B @ self.lora_A) * self.scale

    def merged_weight(self) -> Float[Tensor, "outputs inputs"]:
        """W + s · B A. Raises InputError for 4-bit weights, which cannot take the update up."""
        if not self.base.weight.is_floating_point():
            raise InputError(
                "A LoRA on 4-bit weights cannot be merged: the sum is no 4-bit number.",
                "Load the base model unquantised, put the adapter on it, and merge that.",
            )
        return self.base.weight + self.delta().to(self.base.weight.dtype)

    def extra_repr(self) -> str:
        kind = "rsLoRA" if self.rslora else "LoRA"
        return f"{kind} r={self.r} alpha={self.alpha:g} scale={self.scale:g}"


def linear_targets(
    model: nn.Module, targets: str | Iterable[str], parts: Iterable[str]
) -> list[str]:
    """Names of the linear layers to adapt: all of `parts`, or those ending in one of `targets`.

    The output head is never among them, as in LLaVA's find_all_linear_names.
    Raises InputError where nothing matches.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    wanted = None if targets == "all-linear" else [targets] if isinstance(targets, str) else targets
    parts = list(parts)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and part_of(name) in parts
        and (wanted is None or any(name == w or name.endswith(f".{w}") for w in wanted))
    ]
    if not names:
        raise InputError(
            f"No linear layer of {', '.join(parts)} matches `{targets}`.",
            "Use all-linear, or the last part of the layers' names, such as q_proj.",
        )
    return names


def add_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str | Iterable[str] = "all-linear",
    parts: Iterable[str] = ("language_model",),
    rslora: bool = False,
) -> list[str]:
    """Replace the target layers of `model` by LoRALinear, in place; returns their names."""
    names = linear_targets(model, targets, parts)
    for name in names:
        parent, child = _place(model, name)
        setattr(parent, child, LoRALinear(getattr(parent, child), r, alpha, dropout, rslora))
    return names


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The LoRA layers of `model` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Fold every update into its weight and take the LoRA layers out, in place."""
    layers = lora_layers(model)
    weights = {name: layer.merged_weight() for name, layer in layers.items()}  # all or none
    for name, layer in layers.items():
        parent, child = _place(model, name)
        layer.base.weight.copy_(weights[name])
        setattr(parent, child, layer.base)
    return model


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that `merge_lora` would leave, with `model` untouched."""
    layers = lora_layers(model)
    state = {}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if owner in layers and leaf in ("lora_A", "lora_B"):
            continue
        lora = owner.removesuffix(".base") if owner.endswith(".base") else None
        if lora in layers:
            name = f"{lora}.{leaf}"
            tensor = layers[lora].merged_weight() if leaf == "weight" else tensor
        state[name] = tensor
    return state


def save_lora(model: nn.Module, folder: str | Path, base_model: str | None = None) -> None:
    """Write the updates in PEFT's format, so that `PeftModel.from_pretrained` reads them."""
    from safetensors.torch import save_file

    folder, layers = Path(folder), lora_layers(model)
    if not layers:
        raise InputError("The model has no LoRA layers to save.", "Call add_lora first.")
    first = next(iter(layers.values()))
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach().contiguous()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": first.r,
        "lora_alpha": first.alpha,
        "lora_dropout": getattr(first.dropout, "p", 0.0),
        "use_rslora": first.rslora,
        "target_modules": list(layers),
        "bias": "none",
        "inference_mode": True,
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
