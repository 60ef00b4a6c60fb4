"""Architectures, loading and generation. Stock *Transformers* classes wherever they exist."""

import logging

from labs.models.fused import build_tiny_blip, load_blip
from labs.models.generation import assistant_message, generate, user_message
from labs.models.loading import load_clip, load_lm, load_vlm
from labs.models.merge import merge_image_features
from labs.models.rollout import Rollout, sample_completions
from labs.models.tiny import build_tiny_clip, build_tiny_llava, build_tiny_lm, tiny_tokenizer
from labs.models.vlm import VLM, VisionTower

__all__ = [
    "VLM",
    "Rollout",
    "VisionTower",
    "assistant_message",
    "build_tiny_blip",
    "build_tiny_clip",
    "build_tiny_llava",
    "build_tiny_lm",
    "generate",
    "load_blip",
    "load_clip",
    "load_lm",
    "load_vlm",
    "merge_image_features",
    "sample_completions",
    "tiny_tokenizer",
    "user_message",
]

# bitsandbytes warns at import, which PEFT does for everybody, that a faster CPU kernel could be
# downloaded. Nobody who trains here can or need act on it.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
