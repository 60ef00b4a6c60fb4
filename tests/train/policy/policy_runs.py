"""Short policy runs on an untrained tiny LLaVA: it says something else to everything."""

import torch
from train_helpers import quiet

from labs.models import build_tiny_llava, user_message
from labs.models.generation import encode_prompts, render_prompt
from labs.models.rollout import Rollout
from labs.shapes import make_record
from labs.train.policy.config import PolicyConfig
from labs.train.policy.prompts import Prompt
from labs.train.policy.sequences import sequences_of
from labs.train.policy.trainer import PolicyTrainer

PICTURES = [make_record("caption", i, "val")["image"] for i in range(4)]
QUESTIONS = [
    ("What is in the picture?", 1),
    ("What is two plus three?", 0),
    ("Is there a ring in both of these pictures?", 2),
    ("How many?", 1),
    ("Is there a star?", 1),
    ("Say something long about the picture, please.", 1),
]


def prompts(count: int = 8, images: int | None = None) -> list[Prompt]:
    """Questions with one, no and two pictures, or all with `images`."""
    found = []
    for i in range(count):
        text, number = QUESTIONS[i % len(QUESTIONS)]
        number = number if images is None else images
        shown = tuple(PICTURES[(i + k) % len(PICTURES)] for k in range(number))
        found.append(Prompt(f"p{i}", (user_message(text, number),), shown, task=f"images {number}"))
    return found


def vowels(prompts, completions) -> list[float]:
    """A reward that differs from answer to answer and depends on nothing else."""
    return [sum(c in "aeiou" for c in x.text) / (len(x.text) + 1) for x in completions]


def settings(**changes) -> PolicyConfig:
    """A small step with every distance measured."""
    usual = {
        "prompts_per_step": 4, "num_generations": 3, "max_new_tokens": 8, "kl_coef": 0.1,
        "kl_kind": "k3", "kl_in": "loss", "sample_steps": 2,
    }  # fmt: skip
    return PolicyConfig(**usual | changes)


def trainer(
    policy: PolicyConfig | None = None, *, reward=vowels, asked=None, start=None, kind=PolicyTrainer,
    watch=None, **config,
) -> PolicyTrainer:  # fmt: skip
    """A trainer with a LoRA on the language model, unless `config` says otherwise."""
    model, processor = start or build_tiny_llava(seed=0)
    changes = {"method": "lora", "max_steps": 3, "per_device_train_batch_size": 64} | config
    return kind(
        model, processor, asked or prompts(), reward, quiet(**changes), policy or settings(),
        watch=watch,
    )  # fmt: skip


def made_rollout(processor, asked, lengths, generations, seed=0, tokens=None) -> Rollout:
    """Random answers of the given lengths. tokens: {(row, place): id} to put in."""
    encoded = encode_prompts(
        processor,
        [render_prompt(processor, p.messages) for p in asked],
        [p.images for p in asked],
    )
    generator = torch.Generator().manual_seed(seed)
    rows = len(asked) * generations
    lengths = torch.tensor([lengths[i % len(lengths)] for i in range(rows)])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = torch.randint(20, min(400, len(tokenizer)), mask.shape, generator=generator)
    for place, token in (tokens or {}).items():
        ids[place] = token
    return Rollout(
        prompt_ids=encoded["input_ids"],
        prompt_mask=encoded["attention_mask"],
        ids=ids.masked_fill(~mask, tokenizer.pad_token_id),
        mask=mask.long(),
        logprobs=torch.zeros(mask.shape),
        finished=torch.ones(rows, dtype=torch.bool),
        texts=[""] * rows,
        images={
            k: v for k, v in encoded.items() if k not in ("input_ids", "attention_mask")
            and not k.endswith("token_type_ids")
        },
    )  # fmt: skip


def rows_of(processor, rollout):
    return sequences_of(rollout, getattr(processor, "tokenizer", processor).pad_token_id)


def shake(model, scale: float = 0.1, seed: int = 0) -> None:
    """Move everything that trains, so that adapters are not the nothing they start as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += scale * torch.randn(p.shape, generator=generator)


def unclocked(history) -> list[dict]:
    """Log entries without what a clock says."""
    clock = ("seconds", "per_second")
    return [{k: v for k, v in e.items() if not any(c in k for c in clock)} for e in history]
