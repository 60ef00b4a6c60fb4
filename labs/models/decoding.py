"""Sampling token by token, with the log-probability of every token kept.

Two ways to the same answers. `decode_shared` reads each prompt once, repeats its key-value cache
for every answer and takes answers that ended out of the batch. `decode_with_generate` leaves the
loop to *Transformers*, for models whose positions are not 0, 1, 2, ... along the sequence.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
DROP_SHARE = 0.25  # so many of the batch's rows must have ended before the cache is copied


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. end_ids: the tokens that end an answer, a 1-D tensor. pad_id: what
    stands after the end. temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int
    end_ids: Int[Tensor, " ends"]
    pad_id: int

    def pick(
        self, logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"] | None
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """The next tokens and their log-probabilities under softmax(logits / temperature).

        By the inverse of the cumulative distribution: one number of 0..1 a row, so a row's draw
        depends on nothing but its own logits and its own number. `top_p` narrows what is drawn,
        never the log-probability. Greedy (temperature 0) takes log-probabilities at temperature 1.
        """
        logits = logits.float()
        if self.temperature == 0:
            logprobs = logits.log_softmax(-1)
            tokens = logits.argmax(-1, keepdim=True)
            return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]
        logprobs = (logits / self.temperature).log_softmax(-1)
        probabilities, order = logprobs.exp(), None
        if self.top_p < 1:
            probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[:, -1:]
        if self.top_p < 1:  # the smallest set of likeliest tokens with a mass of top_p or more
            kept = (cumulative - probabilities < self.top_p).sum(-1, keepdim=True)
            total = cumulative.gather(-1, kept.clamp(min=1) - 1)
        place = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
        # Only logits that are no numbers reach past the end; the caller names them.
        place = place.clamp(max=logits.shape[-1] - 1)
        tokens = place if order is None else order.gather(-1, place)
        return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def draw_uniforms(rows: int, steps: int, seed: int | torch.Generator | None) -> Tensor:
    """[rows, steps] numbers in [0, 1), all drawn at once: what a row gets does not depend on how
    rows share batches. Kept a hair below 1, so that times a total they stay below the total."""
    if isinstance(seed, int):
        seed = torch.Generator().manual_seed(seed)
    device = seed.device if seed is not None else "cpu"
    drawn = torch.rand(rows, steps, generator=seed, dtype=torch.float64, device=device)
    return drawn * (1 - 2**-52)


def can_share_prefill(model) -> bool:
    """Whether a prompt's cache can be repeated and continued by `decode_shared`.

    Yes for LLaVA and for text-only models with plain attention. No where positions follow the
    picture's rows and columns (Qwen2-VL's M-RoPE), or where the cache is more than keys and values
    of every token (sliding windows, state-space layers). A family not known here is left to
    `generate`.
    """
    config = model.config
    if hasattr(config, "vision_config") and config.model_type != "llava":
        return False
    if getattr(config, "is_encoder_decoder", False):
        return False
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=config).layers
    return all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def decode_shared(
    model, batch: Mapping[str, Tensor], repeats: int, sampling: Sampling, uniforms: Tensor | None
) -> tuple[Int[Tensor, "rows steps"], Float[Tensor, "rows steps"]]:
    """`repeats` answers to each prompt of `batch`, the prompts read once.

    uniforms: [rows, max_new_tokens], None for greedy. Returns tokens and log-probabilities, with
    anything after an answer's end (see `cut_at_end`).
    """
    prompt_mask = batch["attention_mask"]
    padded = not bool(prompt_mask.all())
    positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {k: v for k, v in batch.items() if k not in TEXT_KEYS}
    cache = DynamicCache(config=model.config)
    output = model(
        input_ids=batch["input_ids"],
        # Prompts of one length need no mask at all, and attention without one is quicker.
        attention_mask=prompt_mask if padded else None,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **inputs,
    )
    logits = output.logits[:, -1].repeat_interleave(repeats, dim=0)
    rows, device, width = len(logits), logits.device, prompt_mask.shape[1]
    position = positions[:, -1:].repeat_interleave(repeats, dim=0) + 1
    mask = torch.ones(rows, width + sampling.max_new_tokens, dtype=torch.long, device=device)
    mask[:, :width] = prompt_mask.repeat_interleave(repeats, dim=0)
    if model.config.get_text_config(decoder=True)._attn_implementation == "sdpa":
        # One token asks, so its causal mask is this one, and Transformers need not build it anew
        # at every step (of a tiny model's step on a CPU that is a third).
        mask = mask.bool()[:, None, None]

    ids = torch.full((rows, sampling.max_new_tokens), sampling.pad_id, device=device)
    logprobs = torch.zeros(rows, sampling.max_new_tokens, device=device)
    running = torch.arange(rows, device=device)  # the rows still in the batch
    going = torch.ones(rows, dtype=torch.bool, device=device)  # of these, which have not ended
    for step in range(sampling.max_new_tokens):
        drawn = None if uniforms is None else uniforms[running, step]
        tokens, chosen = sampling.pick(logits, drawn)
        ids[running, step], logprobs[running, step] = tokens, chosen
        going &= ~torch.isin(tokens, sampling.end_ids)
        left = int(going.sum())
        if left == 0 or step + 1 == sampling.max_new_tokens:
            return ids[:, : step + 1], logprobs[:, : step + 1]
        if step == 0 or left <= (1 - DROP_SHARE) * len(going):
            kept = going.nonzero()[:, 0]
            # The cache has one row a prompt until here, and each answer that goes on takes a copy.
            cache.batch_select_indices(kept // repeats if step == 0 else kept)
            running, tokens, position, mask = (
                x.index_select(0, kept) for x in (running, tokens, position, mask)
            )
            going = going[kept]
        output = model(
            input_ids=tokens[:, None],
            attention_mask=mask[..., : width + step + 1] if padded else None,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
        position = position + 1
    raise AssertionError("the loop returns at its last step")


def decode_with_generate(
    model, batch: Mapping[str, Tensor], repeats: int, sampling: Sampling, uniforms: Tensor | None
) -> tuple[Int[Tensor, "rows steps"], Float[Tensor, "rows steps"]]:
    """The same by Transformers' `generate`: the prompts are read `repeats` times over."""
    picker = _Picker(sampling, uniforms)
    config = model.generation_config
    # Penalties, temperature and top_k that a model ships with are no part of the policy.
    model.generation_config = GenerationConfig(
        eos_token_id=sampling.end_ids.tolist() or None,
        pad_token_id=sampling.pad_id,
        do_sample=True,
        top_k=0,
        num_return_sequences=repeats,
        max_new_tokens=sampling.max_new_tokens,
    )
    device = batch["input_ids"].device
    try:
        # generate() draws from the one token that the picker leaves; its draw must cost the
        # caller's own random numbers nothing.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            output = model.generate(**batch, logits_processor=[picker], use_cache=True)
    finally:
        model.generation_config = config
    ids = output[:, batch["input_ids"].shape[1] :]
    return ids, torch.stack(picker.logprobs, dim=1)


class _Picker(LogitsProcessor):
    """Chooses the token itself and leaves generate() no other."""

    def __init__(self, sampling: Sampling, uniforms: Tensor | None):
        self.sampling, self.uniforms = sampling, uniforms
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.logprobs)
        drawn = None if self.uniforms is None else self.uniforms[:, step]
        tokens, logprobs = self.sampling.pick(scores, drawn)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens[:, None], 0.0)


def cut_at_end(
    ids: Int[Tensor, "rows steps"], end_ids: Int[Tensor, " ends"]
) -> tuple[Int[Tensor, "rows steps"], Tensor]:
    """mask [rows, steps], 1 up to and including the first end token, and finished [rows]."""
    ends = torch.isin(ids, end_ids)
    mask = (ends.cumsum(-1) - ends.long()) == 0
    return mask.long(), ends.any(-1)
