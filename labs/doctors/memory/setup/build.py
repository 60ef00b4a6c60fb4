"""The model of a plan, from its configuration alone, with its adapters and what trains.

Runs under `fakes.fake_tensors` for a model of any size, and without it for a real tiny one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.nf4 import quantise_linears
from labs.errors import InputError

_CONNECTOR = re.compile(
    r"(^|\.)(multi_modal_projector|connector|mm_projector|image_newline|visual_projection"
    r"|visual\.merger|visual\.deepstack_merger_list)(\.|$)"
)
_TOWER = re.compile(r"(^|\.)(vision_tower|visual|vision_model)(\.|$)")
FLASH = "traced_varlen"  # no "flash" in it, or Transformers looks for the package


@dataclass
class Built:
    """model: what is called (a PEFT wrapper for adapters); base: the Transformers model in it."""

    model: nn.Module
    base: nn.Module
    config: Any
    adapters: bool = False


def part_of(name: str) -> str:
    """Which part of a model a module or parameter belongs to: tower, connector or language."""
    if _CONNECTOR.search(name):
        return "connector"
    return "tower" if _TOWER.search(name) else "language"


def build(plan: Plan, config: Any) -> Built:
    """Construct the model of `config` in the plan's precision and apply the plan's method.

    Raises InputError where Transformers has no class for it, or the method fits nothing.
    """
    config = with_layers(config, plan.layers)
    for part in _parts(config):
        part.use_cache = False
    base = _construct(plan, config)
    if plan.checkpointing == "full":
        if not getattr(base, "supports_gradient_checkpointing", False):
            raise InputError(
                f"{type(base).__name__} cannot checkpoint its layers.",
                "Leave checkpointing off for this model.",
            )
        enable = getattr(
            base, "activation_checkpointing_enable", base.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    base.train()
    adapters = plan.method in ("lora", "qlora")
    model = _adapt(plan, base) if adapters else base
    _choose_trainable(plan, model, adapters)
    return Built(model, base, config, adapters)


def with_layers(config: Any, layers: dict[str, int | None] | None) -> Any:
    """A copy of the configuration with other numbers of layers in its towers."""
    config = copy.deepcopy(config)
    for part, count in (layers or {}).items():
        if count is None:
            continue
        for target in _parts(config, part):
            name = "depth" if hasattr(target, "depth") else "num_hidden_layers"
            before = getattr(target, name)
            # First the lists with an entry a layer, which are checked against the number.
            kinds = getattr(target, "layer_types", None)
            if kinds:
                target.layer_types = [kinds[i % before] for i in range(count)]
            setattr(target, name, count)
            if hasattr(target, "fullatt_block_indexes"):
                kept = [i for i in target.fullatt_block_indexes if i < count]
                target.fullatt_block_indexes = kept or [count - 1]
        feature = getattr(config, "vision_feature_layer", None)
        if part == "vision" and isinstance(feature, int) and abs(feature) > count:
            config.vision_feature_layer = -1
    return config


def _parts(config: Any, part: str | None = None) -> list[Any]:
    """The configurations inside that hold layers."""
    vision, text = getattr(config, "vision_config", None), getattr(config, "text_config", None)
    if text is None and vision is None:
        text = config
    chosen = {"language": [text], "vision": [vision], None: [config, text, vision]}[part]
    unique = {id(c): c for c in chosen if c is not None and not isinstance(c, dict)}
    return list(unique.values())


def _construct(plan: Plan, config: Any) -> nn.Module:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    attention = plan.attention
    if attention == "flash_attention_2":
        if plan.device != "cuda":
            raise InputError(
                "FlashAttention has no CPU kernel.", 'Use attention="sdpa" with device="cpu".'
            )
        attention = _register_flash()
    settings = {"dtype": getattr(torch, plan.weight_dtype), "attn_implementation": attention}
    if plan.trust_remote_code and getattr(config, "auto_map", None):
        settings["trust_remote_code"] = True
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel):
        if type(config) in auto._model_mapping or "trust_remote_code" in settings:
            try:
                with _without_values():
                    model = auto.from_config(config, **settings)
                model.tie_weights()  # part of what was left out
                return model
            except (ImportError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"Transformers cannot build a {config.model_type} model from this "
                    f"configuration: {str(error).splitlines()[0]}",
                    "Check the configuration's fields, and the attention chosen.",
                ) from error
    raise InputError(
        f"Transformers has no model class for `{config.model_type}`.",
        "Give the configuration of a language or vision-language model.",
    )


@contextmanager
def _without_values() -> Iterator[None]:
    """Fake weights need no initial values, and some ways to draw them look at what they drew."""
    from torch._guards import active_fake_mode
    from transformers.initialization import no_init_weights

    with no_init_weights() if active_fake_mode() is not None else nullcontext():
        yield


def _register_flash() -> str:
    """FlashAttention's package needs a GPU; PyTorch's operator has its shapes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(FLASH, _flash)
    AttentionMaskInterface.register(FLASH, flash_attention_mask)
    return FLASH


def _flash(module, query, key, value, attention_mask=None, scaling=None, **kwargs):
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(low) for tensor in (query, key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, bool(causal) and query.shape[2] > 1, scale=scaling
    )[0]
    return out.transpose(1, 2), None


def _adapt(plan: Plan, base: nn.Module) -> nn.Module:
    try:
        import peft
    except ImportError:
        raise InputError(
            f'method="{plan.method}" needs PEFT, which is not installed.', "pip install peft."
        ) from None
    head = base.get_output_embeddings()
    keep = {name for name, module in base.named_modules() if module is head}
    if plan.method == "qlora":
        quantise_linears(base, keep, getattr(torch, plan.weight_dtype))
    targets = list(_adapted(plan, base, keep))
    if not targets:
        raise InputError(
            f"No linear layer matches lora_targets={plan.lora_targets!r}.",
            "Name layers of the model, such as q_proj, or all-linear.",
        )
    settings = peft.LoraConfig(
        r=plan.lora_r,
        lora_alpha=2 * plan.lora_r,
        lora_dropout=plan.lora_dropout,
        target_modules=targets,
    )
    return peft.get_peft_model(base, settings)


def _adapted(plan: Plan, base: nn.Module, keep: set[str]) -> Iterator[str]:
    """Linear layers that get an adapter: of the language model, and of the tower if it trains."""
    parts = {"language"} | ({"tower"} if plan.train_tower else set())
    for name, module in base.named_modules():
        if not isinstance(module, nn.Linear) or name in keep or part_of(name) not in parts:
            continue
        if plan.lora_targets == "all-linear" or name.rpartition(".")[2] in plan.lora_targets:
            yield name


def _choose_trainable(plan: Plan, model: nn.Module, adapters: bool) -> None:
    if adapters:
        trains = {"tower": False, "connector": bool(plan.train_connector), "language": False}
    else:
        said = {
            "tower": plan.train_tower,
            "connector": plan.train_connector,
            "language": plan.train_language,
        }
        usual = {"tower": plan.method == "full", "connector": True, "language": True}
        trains = {part: usual[part] if said[part] is None else said[part] for part in usual}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        chosen = trains[part_of(name)] and parameter.is_floating_point()
        parameter.requires_grad_(chosen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("Nothing of this plan trains.", "Let at least one part train.")


def trainable(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
