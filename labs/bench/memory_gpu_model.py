"""The real model and optimizer of a plan, with random weights, as a training script would have them.

Built on the meta device and given its weights tensor by tensor, in the order of the modules, as
loading a checkpoint does; weights for NF4 are there in 16 bits one at a time and quantised at once.
"""

from typing import Any

import torch
from torch import nn

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup import optimizers
from labs.doctors.memory.setup.build import part_of

DEVIATION = 0.02


def build(plan: Plan, config: Any, device: str) -> nn.Module:
    """The model of `config` on `device`: weights drawn, adapters on, what trains chosen."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    for part in (config, config.get_text_config()):
        part.use_cache = False
    vision = type(config) in AutoModelForImageTextToText._model_mapping
    auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    with init_empty_weights(include_buffers=False), no_init_weights():
        base = auto.from_config(
            config, dtype=getattr(torch, plan.weight_dtype), attn_implementation=plan.attention
        )
    base.tie_weights()  # outside: on their way to the meta device ties are lost
    if plan.checkpointing == "full":
        older = base.gradient_checkpointing_enable  # its older name
        getattr(base, "activation_checkpointing_enable", older)({"use_reentrant": False})
    base.train()
    head = base.get_output_embeddings()
    if plan.method == "qlora":
        quantised(base, head, getattr(torch, plan.compute_dtype))
        base.is_loaded_in_4bit = True  # as from_pretrained leaves it: PEFT looks
    fill(base, torch.device(device))
    if plan.method in ("lora", "qlora"):
        return adapted(plan, base, head)
    trains = {"tower": plan.method == "full", "connector": True, "language": True}
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(trains[part_of(name)])
    return base


def adapted(plan: Plan, base: nn.Module, head: nn.Module) -> nn.Module:
    """PEFT's LoRA on every linear layer of the language model but the head."""
    import peft

    targets = [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module is not head and part_of(name) == "language"
    ]
    settings = peft.LoraConfig(
        r=plan.lora_r,
        lora_alpha=2 * plan.lora_r,
        lora_dropout=plan.lora_dropout,
        target_modules=targets,
    )
    if plan.method == "qlora" and plan.checkpointing == "full":
        base.enable_input_require_grads()  # PEFT does it for others, and leaves it to us in 4 bits
    return peft.get_peft_model(base, settings)


def quantised(base: nn.Module, head: nn.Module, compute: torch.dtype) -> None:
    """Put bitsandbytes' NF4 layers, still without weights, in the place of the linear ones."""
    import bitsandbytes

    linears = [
        (name, module)
        for name, module in base.named_modules()
        if type(module) is nn.Linear and module is not head
    ]
    for name, module in linears:
        layer = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=compute,
            quant_type="nf4",
            device="meta",
        )
        if module.bias is not None:
            layer.bias = module.bias  # on the meta device, in its own dtype
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, layer)
        layer.weight.kept_dtype = module.weight.dtype


@torch.no_grad()
def fill(model: nn.Module, device: torch.device) -> None:
    """Give every weight of a model on the meta device its memory and values, shared ones once."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = drawn(module, name, parameter, device)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = None if buffer is None else buffer.to(device)


def drawn(module: nn.Module, name: str, parameter: Any, device: torch.device) -> nn.Parameter:
    """A weight on `device`: normal, or ones and zeros where it scales and shifts."""
    dtype = getattr(parameter, "kept_dtype", parameter.dtype)
    value = torch.empty(parameter.shape, dtype=dtype, device=device)
    if parameter.dim() > 1:
        value.normal_(0, DEVIATION)
    else:
        value.fill_(1.0 if name == "weight" else 0.0)
    if not hasattr(parameter, "kept_dtype"):
        return nn.Parameter(value, requires_grad=parameter.requires_grad)
    import bitsandbytes

    packed = bitsandbytes.nn.Params4bit(
        value, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module
    )
    return packed.to(device)  # quantises; `value` is freed with this frame


def make_optimizer(plan: Plan, model: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's optimizer, or bitsandbytes' own where the doctor has a stand-in for it."""
    if plan.optimizer not in ("adamw_8bit", "paged_adamw_8bit"):
        return optimizers.make_optimizer(plan, model)
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if (
            isinstance(module, nn.Embedding) and module.weight.requires_grad
        ):  # as Transformers' Trainer
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    paged = plan.optimizer.startswith("paged")
    return bitsandbytes.optim.AdamW(trained, lr=1e-5, optim_bits=8, is_paged=paged)


def count(model: nn.Module) -> dict[str, int]:
    """How many weights there are and how many train; two to a byte in NF4."""
    packed = {id(m.weight) for m in model.modules() if hasattr(m, "quant_state")}
    total = sum(p.numel() * (2 if id(p) in packed else 1) for p in model.parameters())
    return {
        "total": total,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
