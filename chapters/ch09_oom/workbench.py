"""The model that chapter 9 cuts open: a small LLaVA whose bytes are divided like a big one's.

Its widths are tiny, but it has a vocabulary, a sequence and a tower of the right proportions: at
batch 4 activations and logits outweigh the weights, as they do in instruction tuning of a 7B model.
The page and the chapter's recorded measurements share it.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

from labs.doctors.memory.follow.budget import byte_budget
from labs.doctors.memory.follow.follower import Follower
from labs.losses import generation_loss, linear_generation_loss

IMAGE_TOKEN = 1
MIB = 2**20


def build(
    layers: int = 4,
    hidden: int = 128,
    vocabulary: int = 6144,
    image: int = 64,
    vision_layers: int = 4,
    attention: str = "sdpa",
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights: ViT of width 96 with 8-pixel patches, MLP, Qwen2."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=image,
        patch_size=8,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(image // 8) ** 2,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config)


def make_batch(
    model, samples: int = 4, text: int = 80, images: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """Random pictures and tokens; the second half of every text carries labels."""
    config, generator = model.config, torch.Generator().manual_seed(seed)
    side = config.vision_config.image_size
    words = torch.randint(3, config.text_config.vocab_size, (samples, text), generator=generator)
    visual = torch.full((samples, images * config.image_seq_length), IMAGE_TOKEN)
    ids = torch.cat([visual, words], dim=1)
    labels = ids.clone()
    labels[:, : -(text // 2)] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if images:
        shape = (samples * images, 3, side, side)
        batch["pixel_values"] = torch.randn(shape, generator=generator)
    return batch


def parts(batch: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The batch in `count` micro-batches of equal size."""
    columns = {name: values.chunk(count) for name, values in batch.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def plain_loss(model, batch: dict[str, Tensor], num_items: int) -> Tensor:
    """Through all logits [B, T, V]."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return generation_loss(model(**inputs).logits, batch["labels"], num_items=num_items)


def chunked_loss(model, batch: dict[str, Tensor], num_items: int) -> Tensor:
    """The same number; the logits of 128 tokens exist at a time."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(**inputs).last_hidden_state
    weight = inner.get_output_embeddings().weight
    return linear_generation_loss(
        hidden, weight, batch["labels"], chunk_size=128, num_items=num_items
    )


@dataclass
class Run:
    """What some training steps did to memory: sizes in bytes, processor time in seconds a step."""

    losses: list[float] = field(default_factory=list)
    peak: int = 0
    host: int = 0
    seconds: float = 0.0
    follower: Follower | None = None

    @property
    def at_peak(self) -> dict[str, int]:
        return at_peak(self.follower)


def at_peak(follower: Follower) -> dict[str, int]:
    """Bytes by category at the moment when most was alive."""
    live: dict[str, int] = {}
    total = most = 0
    found: dict[str, int] = {}
    for event in follower.events:
        if event.place != "device":
            continue
        size = event.bytes if event.kind == "alloc" else -event.bytes
        live[event.category] = live.get(event.category, 0) + size
        total += size
        if total > most:
            most, found = total, dict(live)
    return {name: size for name, size in sorted(found.items(), key=lambda x: -x[1]) if size}


def levels(follower: Follower) -> tuple[list[int], list[str]]:
    """(live bytes, phase) after each allocation and free."""
    total, line, phases = 0, [], []
    for event in follower.events:
        total += event.bytes if event.kind == "alloc" else -event.bytes
        line.append(total)
        phases.append(event.phase)
    return line, phases


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=1e-3, foreach=False)


def train(
    model: nn.Module,
    batch: dict[str, Tensor] | list[dict[str, Tensor]],
    steps: int = 2,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adamw,
    loss: Callable = plain_loss,
    micro_batches: int = 1,
    around_forward: Callable[[Follower], AbstractContextManager] | None = None,
    around_run: Callable[[Follower, torch.optim.Optimizer], AbstractContextManager] | None = None,
    limit: str | int | None = None,
) -> Run:
    """Training steps, every storage followed. The loss is exact in micro-batches.

    `batch`: one batch for all steps, or one a step. `limit`: a byte budget, which raises PyTorch's
    own out-of-memory where it is passed.
    """
    run, batches = Run(), batch if isinstance(batch, list) else [batch] * steps
    model.train()
    updates = optimizer(model)
    with byte_budget(limit, model, history=None) as budget:
        follower = run.follower = budget.follower
        follower.mark(batches, "inputs")
        around = around_run(follower, updates) if around_run else nullcontext()
        with around:
            start = time.process_time()
            for batch in batches:
                total, num_items = 0.0, int((batch["labels"][:, 1:] != -100).sum())
                for part in parts(batch, micro_batches):
                    with around_forward(follower) if around_forward else nullcontext():
                        value = loss(model, part, num_items)
                    value.backward()
                    total += value.item()
                    del value
                updates.step()
                updates.zero_grad(set_to_none=True)
                run.losses.append(total)
            run.seconds = (time.process_time() - start) / len(batches)
    run.peak, run.host = follower.peak_bytes, follower.host_peak_bytes
    return run


def count(parameters: Iterable[Tensor], trainable: bool = False) -> int:
    """Numbers in all parameters, or in those that train."""
    return sum(p.numel() for p in parameters if p.requires_grad or not trainable)


def checkpointed(model: nn.Module) -> nn.Module:
    """The model with gradient checkpointing on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.config.text_config.use_cache = model.config.use_cache = False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def log_of(error: BaseException, rank: int = 0) -> str:
    """The traceback as `torchrun` prints it; without the frames of the byte budget, which a GPU's
    traceback does not have."""
    machinery = ("doctors/memory", "_dynamo", "torch/_compile.py")
    frames = traceback.extract_tb(error.__traceback__)
    kept = [frame for frame in frames if not any(part in frame.filename for part in machinery)]
    text = "Traceback (most recent call last):\n" + "".join(traceback.format_list(kept))
    text += "".join(traceback.format_exception_only(type(error), error)).split("\nRaised by")[0]
    return "\n".join(f"[rank{rank}]: {line}" for line in text.splitlines()) + "\n"
