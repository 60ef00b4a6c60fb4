"""The sizes of a model that a request can be a product of, from its config.json.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.errors import InputError

MAX_CONFIG = 16 << 20


@dataclass(frozen=True)
class Dims:
    """Sizes of a decoder and of its vision tower, where the configuration has them."""

    vocabulary: int = 0
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    intermediate: int = 0
    tied: bool = False
    experts: int = 1
    vision_heads: int = 0
    vision_patches: int = 0
    vision_hidden: int = 0
    vision_intermediate: int = 0

    @property
    def parameters(self) -> int:
        """Weights of the decoder, counted from its sizes (gated MLP; norms and biases left out)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate * self.experts
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + mlp)


def read_config(model: str | os.PathLike) -> dict[str, Any]:
    """The config.json at `model`, or in that folder. Raises InputError."""
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise InputError(
                f"{path} is too large for a model's configuration.", "Give its config.json."
            )
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"There is no model configuration at {path}.",
            "Give the path of a config.json, or of the folder that holds it (explain fetches nothing).",
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON.", "Give the model's config.json.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object.", "Give the model's config.json.")
    return config


def _first(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = max((item for item in value if isinstance(item, int)), default=0)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**40:
            return int(value)
    return 0


def dims_of(config: Mapping[str, Any]) -> Dims:
    """The sizes, under the many names that model families give them."""
    nested = [
        config.get(key)
        for key in ("text_config", "llm_config", "language_config", "thinker_config")
    ]
    text = next((item for item in nested if isinstance(item, dict)), config)
    vision = config.get("vision_config")
    vision = vision if isinstance(vision, dict) else {}

    def either(*names: str) -> int:
        return _first(text, *names) or _first(config, *names)

    hidden = either("hidden_size", "n_embd", "d_model", "dim")
    heads = either("num_attention_heads", "n_head", "num_heads", "n_heads")
    image, patch = _first(vision, "image_size"), _first(vision, "patch_size")
    # Qwen2-VL calls the tower's width embed_dim; its hidden_size is that of the decoder.
    vision_hidden = _first(vision, "embed_dim", "hidden_size", "width")
    return Dims(
        vocabulary=either("vocab_size", "padded_vocab_size"),
        hidden=hidden,
        layers=either("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        heads=heads,
        kv_heads=either("num_key_value_heads", "multi_query_group_num") or heads,
        head_dim=either("head_dim") or (hidden // heads if heads else 0),
        intermediate=either("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
        or 4 * hidden,
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        experts=either("num_local_experts", "num_experts", "n_routed_experts") or 1,
        vision_heads=_first(vision, "num_attention_heads", "num_heads"),
        vision_patches=(image // patch) ** 2 if image and patch else 0,
        vision_hidden=vision_hidden,
        vision_intermediate=_first(vision, "intermediate_size")
        or int(vision_hidden * (_first(vision, "mlp_ratio") or 4)),
    )
