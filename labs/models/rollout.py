"""Rollouts: sampled answers with what policy-gradient training needs of them. Chapter 5."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labs.errors import InputError
from labs.models.decoding import (
    TEXT_KEYS,
    Sampling,
    can_share_prefill,
    cut_at_end,
    decode_shared,
    decode_with_generate,
    draw_uniforms,
)
from labs.models.generation import _check_placeholders, encode_prompts, render_prompt


@dataclass(frozen=True)
class Rollout:
    """B prompts and N = B * num_generations answers; those of a prompt are adjacent.

    prompt_ids, prompt_mask [B, P]: left-padded, image placeholders included. ids [N, T]: the
    answers, right-padded with the pad id. mask [N, T]: 1 up to and including the end token.
    logprobs [N, T]: of the sampled tokens under softmax(logits / temperature), 0 where mask is 0.
    finished [N]: ended by itself within max_new_tokens. texts: N strings without special tokens.
    images: the processor's image tensors of the B prompts, in their order.
    """

    prompt_ids: Int[Tensor, "prompts width"]
    prompt_mask: Int[Tensor, "prompts width"]
    ids: Int[Tensor, "rows steps"]
    mask: Int[Tensor, "rows steps"]
    logprobs: Float[Tensor, "rows steps"]
    finished: Bool[Tensor, " rows"]
    texts: list[str]
    images: dict[str, Tensor]

    @property
    def num_generations(self) -> int:
        return len(self.ids) // len(self.prompt_ids)


@torch.no_grad()
def sample_completions(
    model,
    processor,
    conversations: Sequence[Sequence[dict]],
    images: Sequence[Sequence] | None = None,
    *,
    num_generations: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | torch.Generator | None = None,
    batch_size: int = 256,
    shared_prefill: bool | None = None,
) -> Rollout:
    """Samples `num_generations` answers to each conversation, in the order given.

    model: a Transformers model, as it is, with our LoRA (`labs.models.lora.add_lora`) or in PEFT's
        PeftModel. Its own generation settings are ignored but for the end tokens: penalties and
        top_k would make the sampled distribution another than the one that is trained.
    conversations, images: as for `labs.models.generate`.
    temperature: log-probabilities are those of softmax(logits / temperature), the full
        distribution, whatever top_p left to draw from. 0 is greedy, with those of softmax(logits).
    seed: a number, a torch.Generator, which goes on where it stands, or None for torch's own
        state. With one seed a prompt's answers are the same whatever batch_size is.
    batch_size: answers decoded at once, which bounds the memory; the answers of one prompt stay
        together, so at least one prompt is.
    shared_prefill: read each prompt once and repeat its cache for its answers (True), or leave all
        to Transformers' generate (False). Same answers, other price. None: wherever
        `can_share_prefill` allows it.

    Runs under no_grad and in eval mode; the modules' modes are put back. Tensors are on the
    model's device. Raises InputError for settings out of range, placeholders without images,
    shared_prefill where it cannot be, and logits that are no numbers.
    """
    images = images if images is not None else [[] for _ in conversations]
    _check(conversations, images, num_generations, max_new_tokens, temperature, top_p, batch_size)
    model = _without_peft(model)
    possible = can_share_prefill(model)
    if shared_prefill and not possible:
        raise InputError(
            f"A prompt of {type(model).__name__} cannot be read once for all its answers.",
            "Leave shared_prefill at None: Transformers' generate takes over.",
        )
    shared_prefill = possible if shared_prefill is None else shared_prefill
    decode = decode_shared if shared_prefill else decode_with_generate
    sampling = _sampling(model, processor, max_new_tokens, temperature, top_p)
    rows = len(conversations) * num_generations
    uniforms = draw_uniforms(rows, max_new_tokens, seed) if temperature > 0 else None

    prompts = [render_prompt(processor, messages) for messages in conversations]
    encoded = encode_prompts(processor, prompts, images)
    ids = torch.full((rows, max_new_tokens), sampling.pad_id, device=model.device)
    logprobs = torch.zeros(rows, max_new_tokens, device=model.device)
    lengths = encoded["attention_mask"].sum(-1).tolist()
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    at_once = max(1, batch_size // num_generations)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for start in range(0, len(order), at_once):
            chosen = order[start : start + at_once]
            if len(chosen) == len(order):
                # Nothing to divide: the prompts as they are encoded.
                chosen, batch = range(len(prompts)), encoded
            else:
                batch = _part(processor, encoded, prompts, images, chosen)
            batch = {k: v.to(model.device) for k, v in batch.items() if hasattr(v, "to")}
            places = torch.tensor(
                [i * num_generations + g for i in chosen for g in range(num_generations)]
            )
            drawn = None if uniforms is None else uniforms[places].to(model.device)
            new_ids, new_logprobs = decode(model, batch, num_generations, sampling, drawn)
            places = places.to(model.device)
            ids[places, : new_ids.shape[1]] = new_ids
            logprobs[places, : new_ids.shape[1]] = new_logprobs
    finally:
        for module, mode in modes:
            module.training = mode
    return _rollout(processor, encoded, ids, logprobs, sampling)


def _rollout(processor, encoded: dict, ids: Tensor, logprobs: Tensor, sampling) -> Rollout:
    mask, finished = cut_at_end(ids, sampling.end_ids)
    steps = int(mask.sum(-1).max())
    mask = mask[:, :steps]
    ids = ids[:, :steps].masked_fill(mask == 0, sampling.pad_id)
    logprobs = logprobs[:, :steps].masked_fill(mask == 0, 0.0)
    if not bool(logprobs.isfinite().all()):
        raise InputError(
            "The model's logits are not finite numbers, so nothing can be sampled from them.",
            "Go back to an earlier checkpoint and lower the learning rate, or use bfloat16 in "
            "place of float16.",
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    said = [row[:n] for row, n in zip(ids.tolist(), mask.sum(-1).tolist(), strict=True)]
    device = ids.device
    return Rollout(
        prompt_ids=encoded["input_ids"].to(device),
        prompt_mask=encoded["attention_mask"].to(device),
        ids=ids,
        mask=mask,
        logprobs=logprobs,
        finished=finished,
        texts=tokenizer.batch_decode(said, skip_special_tokens=True),
        images={
            k: v.to(device) for k, v in encoded.items() if k not in TEXT_KEYS and hasattr(v, "to")
        },
    )


def _part(processor, encoded: dict, prompts, images, chosen: Sequence[int]) -> dict:
    """The encoding of some prompts, without the padding that only the others need."""
    counts = [len(group) for group in images]
    pictures = {k: v for k, v in encoded.items() if k not in TEXT_KEYS}
    if any(len(v) != sum(counts) for v in pictures.values()):
        # Pictures flattened to patches (Qwen2-VL): only the processor knows whose is which.
        return encode_prompts(processor, [prompts[i] for i in chosen], [images[i] for i in chosen])
    starts = [sum(counts[:i]) for i in range(len(counts))]
    wanted = [starts[i] + k for i in chosen for k in range(counts[i])]
    width = int(encoded["attention_mask"][chosen].sum(-1).max())
    batch = {k: encoded[k][chosen][:, -width:] for k in TEXT_KEYS if k in encoded}
    return batch | {k: v[wanted] for k, v in pictures.items() if wanted}


def _sampling(model, processor, max_new_tokens: int, temperature: float, top_p: float) -> Sampling:
    tokenizer = getattr(processor, "tokenizer", processor)
    settings = getattr(model, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    candidates = (tokenizer.pad_token_id, getattr(settings, "pad_token_id", None), *ends, 0)
    pad = next(p for p in candidates if p is not None)
    end_ids = torch.tensor(ends, dtype=torch.long, device=model.device)
    return Sampling(temperature, top_p, max_new_tokens, end_ids, pad)


def _without_peft(model):
    """The model inside a PeftModel: its LoRA layers sit in it and stay at work."""
    if not hasattr(model, "peft_config"):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise InputError(
            "Adapters that put learned tokens before the prompt are not sampled from here.",
            "Use LoRA, or sample with the PeftModel's own generate.",
        )
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _check(conversations, images, num_generations, max_new_tokens, temperature, top_p, batch_size):
    if not conversations:
        raise InputError("There are no conversations to answer.", "Give at least one.")
    for name, value in (
        ("num_generations", num_generations),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}.", "Use 1 or more.")
    if temperature < 0:
        raise InputError(f"temperature is {temperature}.", "Use 0 for greedy or a positive number.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}.", "Use a number above 0 and up to 1 (no cut).")
    for number, (messages, group) in enumerate(zip(conversations, images, strict=True)):
        _check_placeholders(number, messages, group)
