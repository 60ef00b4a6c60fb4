"""How weights are trained: all of them, or an adapter on frozen ones. Chapter 3.

`apply_method` changes the model in place and returns which parts train by default. The own LoRA is
used unless `lora.implementation: peft`; DoRA and AdaLoRA are PEFT's; QLoRA is either one on layers
quantised to NF4 by bitsandbytes, on CPU too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labs.errors import InputError
from labs.models.adapters import add_adapters
from labs.models.lora import add_lora, linear_targets
from labs.models.parts import part_of
from labs.train.config import TrainConfig


@dataclass
class Applied:
    """What `apply_method` did: default policies by part, and PEFT's wrapper where it was used."""

    policies: dict[str, str]
    peft_model: nn.Module | None = None


def apply_method(model: nn.Module, config: TrainConfig) -> Applied:
    """Put the adapters of `config.method` into `model`; with "full" leave it as it is.

    Raises InputError where PEFT or bitsandbytes is needed and absent, or nothing matches.
    """
    method, lora = config.method, config.lora
    if method == "full":
        return Applied({})
    parts = {part_of(name) for name, _ in model.named_parameters()}
    policies = dict.fromkeys(parts, "frozen") | {"lora": "all"}
    if "lora" in parts:
        raise InputError(
            "The model already carries adapters.", "Merge them first, or load the base model."
        )
    if method == "bottleneck":
        add_adapters(model, lora.r, lora.parts)
        return Applied(policies)
    if method == "qlora":
        quantise_nf4(model, linear_targets(model, lora.target_modules, lora.parts), config)
    if lora.implementation == "own" and method in ("lora", "rslora", "qlora"):
        add_lora(
            model,
            lora.r,
            lora.alpha,
            lora.dropout,
            lora.target_modules,
            lora.parts,
            rslora=method == "rslora",
        )
        return Applied(policies)
    return Applied(policies, _peft(model, config))


def _peft(model: nn.Module, config: TrainConfig) -> nn.Module:
    try:
        import peft
    except ImportError:
        raise InputError(
            f"`method: {config.method}` needs PEFT, which is not installed.", "pip install peft."
        ) from None
    lora = config.lora
    shared = {
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": linear_targets(model, lora.target_modules, lora.parts),
    }
    if config.method == "adalora":
        settings = peft.AdaLoraConfig(
            **shared,
            init_r=lora.init_r,
            target_r=lora.r,
            tinit=lora.tinit,
            tfinal=lora.tfinal,
            deltaT=lora.delta_t,
            orth_reg_weight=lora.orth_reg_weight,
            total_step=lora.tinit + lora.tfinal + 10**6,  # known, and set, when the run is planned
        )
    else:
        settings = peft.LoraConfig(
            **shared,
            r=lora.r,
            use_dora=config.method == "dora",
            use_rslora=config.method == "rslora",
        )
    return peft.get_peft_model(model, settings)


def quantise_nf4(model: nn.Module, names: list[str], config: TrainConfig) -> None:
    """Replace these linear layers by 4-bit NF4 ones with double quantisation, in place.

    Dettmers et al. 2023 (QLoRA), arXiv:2305.14314. Layers that are 4-bit already stay, and so do
    those whose width no block size divides.
    """
    try:
        import bitsandbytes as bnb
    except ImportError:
        raise InputError(
            "`method: qlora` needs bitsandbytes, which is not installed.",
            "pip install bitsandbytes.",
        ) from None
    compute = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        linear = getattr(owner, child)
        if isinstance(linear, bnb.nn.Linear4bit):
            linear.support_avx512bf16_for_cpu = False
            continue
        # bitsandbytes' CPU kernel reads wrong scales where blocks run over the end of a row (0.50:
        # 6 % of the weights' power is lost at width 352 instead of 0.9 %): take blocks that fit.
        block = next((size for size in (64, 32) if linear.in_features % size == 0), None)
        if block is None:
            continue
        packed = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=compute,
            compress_statistics=True,
            quant_type="nf4",
        )
        packed.weight = bnb.nn.Params4bit(
            linear.weight.detach().clone(),
            requires_grad=False,
            blocksize=block,
            compress_statistics=True,
            quant_type="nf4",
        )
        packed.bias = linear.bias
        # On some CPUs a forward in eval mode would repack the weights for a kernel that cannot
        # train, and never back: a validation run would end the training.
        packed.support_avx512bf16_for_cpu = False
        setattr(owner, child, packed.to(linear.weight.device))  # moving is what quantises


class OrthogonalRegulariser(nn.Module):
    """AdaLoRA's penalty: P and Q of P·diag(E)·Q are to stay orthogonal.

    weight · mean over matrices of ||P'P - I||_F and ||QQ' - I||_F; arXiv:2303.10512, equation 4 (PEFT
    takes the norm, not its square, and so do we).
    """

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, model: nn.Module) -> Tensor:
        norms = []
        for name, p in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = p @ p.T if "lora_A" in name else p.T @ p
                norms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=p.device)))
        return self.weight * torch.stack(norms).mean()


def connect_adalora(trainer, peft_model: nn.Module) -> None:
    """Tell AdaLoRA the length of the run, and have it reallocate ranks after each update."""
    tuner = peft_model.base_model
    settings = tuner.peft_config["default"]
    total = trainer.total_steps
    if settings.tinit >= total - settings.tfinal:
        raise InputError(
            f"AdaLoRA's tinit {settings.tinit} and tfinal {settings.tfinal} leave none of the "
            f"{total} steps to prune in.",
            "Shorten them, or train longer.",
        )
    settings.total_step = total
    allocator = tuner.rankallocator
    allocator.set_total_step(total)
    trainer.objective.regulariser = OrthogonalRegulariser(settings.orth_reg_weight)
    trainer.after_step = tuner.update_and_allocate
    averages = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # AdaLoRA's running importance of each rank

    def give() -> dict:
        state = {name: dict(getattr(allocator, name)) for name in averages}
        return state | {"rank_pattern": settings.rank_pattern or {}}

    def take(state: dict) -> None:
        for name in averages:
            setattr(allocator, name, dict(state[name]))
        settings.rank_pattern = state["rank_pattern"] or None

    trainer.extra_state = (give, take)
