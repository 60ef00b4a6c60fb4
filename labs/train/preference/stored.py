"""Log-probabilities of the reference, computed once and kept beside the pairs. Chapter 6.

A reference never changes, so what it says of a pair never does: one pass before the training, and
no reference in it. They are worth nothing for another model, tokenizer, length or pair, so a
fingerprint of all of these lies in the file, and is compared.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from labs.data.preference.keys import image_key
from labs.errors import InputError
from labs.formats import Preference, atomic_write
from labs.train.policy.forward import PolicyForward
from labs.train.preference.collate import PreferenceCollator, rows_of
from labs.train.preference.objective import _answers, evaluating
from labs.train.preference.pairs import PreferencePairs


@torch.no_grad()
def compute_reference(
    model: nn.Module,
    processor,
    pairs: Sequence[Preference] | PreferencePairs,
    max_length: int | None = None,
    *,
    corrupted: bool = False,
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """log p(answer | image, prompt) of `model` as it is now, summed: [N, 2], chosen and rejected.

    With `corrupted` [N, 3]: the chosen answer under the corrupted image too (mDPO). Pairs that would
    be skipped are NaN. Nats, float32, on the CPU.
    """
    data = pairs
    if not isinstance(data, PreferencePairs):
        data = PreferencePairs(pairs, processor, max_length, corrupted=corrupted, seed=seed)
    forward, collate = PolicyForward(model), PreferenceCollator(processor)
    found = torch.full((len(data), 3 if data.corrupted else 2), float("nan"))
    with evaluating(model):
        for start in range(0, len(data), batch_size):
            made = [data.usable(i) for i in range(start, min(start + batch_size, len(data)))]
            made = [item for item in made if item is not None]
            if made:
                batch = {k: v.to(model.device) for k, v in collate(made).items()}
                sums = _answers(forward, batch, rows_of(batch), None).logprobs
                found[batch["index"].cpu()] = sums.float().cpu().view(-1, len(made)).T
    return found


def fingerprint(
    model: nn.Module,
    processor,
    pairs: Sequence[Preference],
    max_length: int | None = None,
    corrupted: bool = False,
    seed: int = 0,
) -> dict[str, str]:
    """Digests of what stored log-probabilities depend on: model, tokenizer, pairs and settings.

    model: names, shapes and 256 values of each parameter, spread over it. tokenizer: vocabulary,
    added tokens and chat template. pairs: prompts, answers and pictures (by path, or by pixels
    where they are open), in order. settings: max_length, and what draws the corrupted images.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    words = [sorted(tokenizer.get_vocab().items()), template]
    texts = [
        [
            [(turn.role, turn.text) for turn in pair.prompt],
            pair.chosen,
            pair.rejected,
            [image_key(image) for image in pair.images],
            _keys(pair.meta.get("corrupted_images")) if corrupted else None,
            pair.id if corrupted else None,  # draws the crop
        ]
        for pair in pairs
    ]
    return {
        "model": _of_weights(model),
        "tokenizer": _digest(words),
        "pairs": _digest(texts),
        "settings": _digest([max_length, corrupted, seed if corrupted else None]),
    }


def _keys(images) -> list[str] | None:
    if images is None:
        return None
    return [image_key(i) for i in (images if isinstance(images, list | tuple) else [images])]


def _of_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        picks = flat[:: max(1, flat.numel() // 256)][:256].cpu().contiguous()
        digest.update(picks.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def save_reference(path: str | Path, logprobs: Tensor, marks: dict[str, str]) -> None:
    """Write [N, 2 or 3] log-probabilities with their fingerprint, as safetensors."""
    with atomic_write(path, "wb") as file:
        file.write(save({"logprobs": logprobs.contiguous()}, metadata=marks))


def load_reference(path: str | Path, marks: dict[str, str]) -> Tensor:
    """Read log-probabilities; InputError where the file is none, or was made of something else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There are no stored log-probabilities at {path}.", "Compute them first.")
    try:
        with safe_open(path, "pt") as file:
            made, logprobs = file.metadata() or {}, file.get_tensor("logprobs")
    except SafetensorError as error:
        raise InputError(
            f"{path} holds no stored log-probabilities: {error}.", "Delete it and compute them."
        ) from None
    other = [name for name, mark in marks.items() if made.get(name) != mark]
    if other:
        raise InputError(
            f"{path} was computed with other {' and '.join(other)}.",
            "Delete it and compute the log-probabilities anew, or use what it was made of.",
        )
    return logprobs


def reference_logprobs(
    path: str | Path | None,
    model: nn.Module,
    processor,
    data: PreferencePairs,
    batch_size: int = 32,
) -> Tensor:
    """What is stored at `path`, or, where nothing is (or with None), computed and stored there.

    `model` has to be the reference: before anything was trained, or with its adapter off.
    """
    marks = fingerprint(
        model, processor, data.pairs, data.max_length, data.corrupted, data.seed
    )  # fmt: skip
    if path is not None and Path(path).exists():
        return load_reference(path, marks)
    found = compute_reference(model, processor, data, batch_size=batch_size)
    if path is not None:
        save_reference(path, found, marks)
    return found
