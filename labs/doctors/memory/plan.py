"""What a training run is going to be, as far as memory is concerned: the question to `predict`.

Everything but the model has a default. Nothing here imports torch: reading a plan is instant.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from labs.errors import InputError

CHOICES = {
    "method": ("full", "lora", "qlora", "frozen"),
    "optimizer": ("adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd", "lion"),
    "optimizer_kernel": ("fused", "foreach", "for"),
    "precision": ("bf16", "fp16_amp", "bf16_amp", "fp32"),
    "checkpointing": ("none", "full"),
    "attention": ("eager", "sdpa", "flash_attention_2"),
    "loss": ("plain", "chunked"),
    "offload": ("none", "optimizer", "activations", "params"),
    "objective": ("sft", "dpo", "ppo", "grpo", "generate", "evaluate", "save"),
    "rollout": ("model", "vllm"),
    "sharding": ("none", "ddp", "zero1", "zero2", "zero3", "fsdp"),
    "device": ("cuda", "cpu"),
}


@dataclass
class Plan:
    """One training run.

    Precision: `bf16` holds the weights in bfloat16, `bf16_amp` and `fp16_amp` in float32 with
    autocast, `fp32` in float32. `autocast=None` follows Hugging Face's Trainer: on for everything
    but `fp32`. QLoRA keeps what is not quantised in bfloat16.

    Methods: `full` trains everything but the parts named below; `lora` and `qlora` train adapters;
    `frozen` freezes the vision towers (what LLaVA's second stage does). `train_tower` and
    `train_connector` (None = what the method says) override that, one by one; so connector only is
    `method="frozen", train_language=False`.

    `images` lists the pictures of one sample as (width, height) in pixels, `videos` the clips as
    (width, height, frames); every sample of the batch has the same. `sequence_length` counts all
    tokens of a sample, the visual ones included. `padding`: one row is shorter than the others, as in
    real batches, so that models build attention masks. `samples` ({"length", "images", "videos"} a
    row) replaces all of these. `processor` overrides the image processor's settings.

    `layers` traces a shallower model: {"language": 2, "vision": 4}; None or absent = as configured.
    """

    model: str
    # which weights train, and how they are held
    method: str = "full"
    lora_r: int = 16
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] | str = "all-linear"
    train_tower: bool | None = None
    train_connector: bool | None = None
    train_language: bool | None = None
    optimizer: str = "adamw"
    optimizer_kernel: str = "fused"
    precision: str = "bf16"
    autocast: bool | None = None
    # the batch
    batch: int = 1
    sequence_length: int = 2048
    images: tuple[tuple[int, int], ...] = ((336, 336),)
    videos: tuple[tuple[int, int, int], ...] = ()
    grad_accumulation: int = 1
    padding: bool = True
    samples: tuple[dict, ...] | None = None
    processor: dict | None = None
    # what saves memory
    checkpointing: str = "none"
    attention: str = "sdpa"
    loss: str = "plain"
    loss_chunk: int = 1024
    offload: str = "none"
    expandable_segments: bool = False
    # the objective and what it adds
    objective: str = "sft"
    reference: bool = True
    precomputed_reference: bool = False
    generations: int = 8
    max_new_tokens: int = 256
    rollout: str = "model"
    vllm_share: float = 0.3
    eval_batch: int = 8
    eval_samples: int = 64
    eval_accumulation: int | None = None
    eval_keeps_logits: bool = False
    # many devices; arithmetic over the traced storages, done by `predict`
    sharding: str = "none"
    world_size: int = 1
    # how it is traced
    layers: dict[str, int | None] | None = None
    device: str = "cuda"
    trust_remote_code: bool = False
    allow_network: bool = False

    def __post_init__(self) -> None:
        self.images = tuple(tuple(size) for size in self.images)
        self.videos = tuple(tuple(size) for size in self.videos)
        if not isinstance(self.lora_targets, str):
            self.lora_targets = tuple(self.lora_targets)
        if isinstance(self.checkpointing, bool):
            self.checkpointing = "full" if self.checkpointing else "none"
        self.check()

    def check(self) -> None:
        """Raise InputError naming the first field that cannot be."""
        for field, allowed in CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise InputError(
                    f"The plan's `{field}` is {value!r}.", f"Choose one of: {', '.join(allowed)}."
                )
        for field in ("batch", "sequence_length", "grad_accumulation", "world_size", "lora_r",
                      "generations", "max_new_tokens", "eval_batch", "eval_samples",
                      "loss_chunk"):  # fmt: skip
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"The plan's `{field}` is {value!r}.", "Give a whole number >= 1.")
        if not 0 < self.vllm_share < 1:
            raise InputError(
                f"The plan's `vllm_share` is {self.vllm_share}.", "Give a share between 0 and 1."
            )
        for field, length in (("images", 2), ("videos", 3)):
            for size in getattr(self, field):
                if len(size) != length or any(not isinstance(n, int) or n < 1 for n in size):
                    raise InputError(
                        f"The plan's `{field}` has {size!r}.",
                        "Give width and height in pixels"
                        + (", and the number of frames." if length == 3 else "."),
                    )
        for part, count in (self.layers or {}).items():
            if part not in ("language", "vision") or (count is not None and count < 1):
                raise InputError(
                    f"The plan's `layers` has {part!r}: {count!r}.",
                    'Name "language" or "vision" with a number of layers >= 1.',
                )

    @property
    def uses_autocast(self) -> bool:
        """Whether the forward pass runs under autocast; see the class on the default."""
        return self.precision != "fp32" if self.autocast is None else self.autocast

    @property
    def weight_dtype(self) -> str:
        """The dtype that weights are loaded in, by its name in torch."""
        if self.method == "qlora" or self.precision == "bf16":
            return "bfloat16"
        return "float32"

    @property
    def compute_dtype(self) -> str:
        """The dtype that matrix products run in, by its name in torch."""
        return {"fp32": "float32", "fp16_amp": "float16"}.get(self.precision, "bfloat16")

    def replace(self, **changes) -> Plan:
        """A copy with some fields changed: how a remedy is tried."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> Plan:
        return cls(**fields)
