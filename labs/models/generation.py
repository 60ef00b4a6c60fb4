"""Generation: one implementation for chat, evaluation, rollouts and serving.

Wraps *Transformers*' `generate` with what every caller here needs: chat messages in, texts out,
mixed batches (with and without pictures), left padding, an explicit seed.
"""

from collections.abc import Callable, Sequence

import torch

from labs.errors import InputError


def user_message(text: str, images: int = 0) -> dict:
    """One user turn: `images` pictures first, then the text, in the form chat templates read."""
    parts = [{"type": "image"} for _ in range(images)]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def assistant_message(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def render_prompt(processor, messages: Sequence[dict]) -> str:
    """The messages in the model's chat template, ready for the assistant to go on.

    A tokenizer without a processor takes plain strings, so parts are joined for it.
    """
    if not hasattr(processor, "image_processor"):
        messages = [{"role": m["role"], "content": _joined(m["content"])} for m in messages]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def _joined(content) -> str:
    if isinstance(content, str):
        return content
    if any(part["type"] == "image" for part in content):
        raise InputError(
            "This model reads text only, and the message has a picture.",
            "Leave the picture out, or use a vision-language model such as tiny-base.",
        )
    return "".join(part["text"] for part in content)


def encode_prompts(processor, prompts: Sequence[str], images: Sequence[Sequence]) -> dict:
    """Left-padded tensors for rendered prompts and their pictures (a list of images a prompt).

    Returns input_ids [B, T], attention_mask [B, T] and, where there are pictures, the image
    processor's tensors.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    flat = [image for group in images for image in group]
    if not hasattr(processor, "image_processor"):
        return dict(
            tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
        )
    return dict(
        processor(
            text=list(prompts),
            images=flat or None,
            return_tensors="pt",
            padding=True,
            text_kwargs={"padding_side": "left"},
        )
    )


@torch.inference_mode()
def generate(
    model,
    processor,
    conversations: Sequence[Sequence[dict]],
    images: Sequence[Sequence] | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    num_return_sequences: int = 1,
    seed: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    streamer=None,
) -> list[str] | list[list[str]]:
    """Answers to conversations, in their order.

    conversations: lists of chat messages (see `user_message`); the last one is the user's.
    images: the pictures of each conversation, in the order of their placeholders.
    temperature: 0 is greedy. With `num_return_sequences` > 1 each answer is a list of samples.
    progress: called with the number of conversations finished after each batch.
    """
    images = images or [[] for _ in conversations]
    for number, (messages, group) in enumerate(zip(conversations, images, strict=True)):
        _check_placeholders(number, messages, group)
    if temperature < 0:
        raise InputError(f"temperature is {temperature}.", "Use 0 for greedy or a positive number.")
    options: dict = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    if num_return_sequences > 1:
        options["num_return_sequences"] = num_return_sequences
    if seed is not None:
        torch.manual_seed(seed)
    tokenizer = getattr(processor, "tokenizer", processor)
    was_training = model.training
    model.eval()
    prompts = [render_prompt(processor, m) for m in conversations]
    # Prompts of like length share a batch: less padding, same answers.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[str]] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = encode_prompts(processor, [prompts[i] for i in chosen], [images[i] for i in chosen])
        batch = {k: v.to(model.device) for k, v in batch.items() if hasattr(v, "to")}
        output = model.generate(**batch, **options, streamer=streamer)
        texts = tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for k, i in enumerate(chosen):
            answers[i] = texts[k * num_return_sequences : (k + 1) * num_return_sequences]
        if progress:
            progress(len(answers))
    model.train(was_training)
    ordered = [answers[i] for i in range(len(prompts))]
    return ordered if num_return_sequences > 1 else [a[0] for a in ordered]


def _check_placeholders(number: int, messages: Sequence[dict], images: Sequence) -> None:
    wanted = sum(
        part["type"] == "image"
        for m in messages
        if not isinstance(m["content"], str)
        for part in m["content"]
    )
    if wanted != len(images):
        raise InputError(
            f"Conversation {number} has {wanted} image placeholders and {len(images)} images.",
            "Give one image for each placeholder, in order.",
        )
