"""Tiny models of every family that `oom_doctor predict` knows, and the plans they are held to."""

import json
from pathlib import Path

from labs.doctors.memory.plan import Plan

VOCABULARY = 512
LENGTH = 192


def _text(kind: str, **more) -> dict:
    return {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | more


def _vision(kind: str, **more) -> dict:
    return {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    } | more


_CLIP = _vision("clip_vision_model", projection_dim=64)
_QWEN = {
    "image_token_id": 500,
    "video_token_id": 501,
    "vision_start_token_id": 502,
    "vision_end_token_id": 503,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
}
_GRID = {
    "depth": 3,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
MODELS = {
    "llama": _text("llama"),
    "qwen2": _text("qwen2", tie_word_embeddings=False),
    "llava": {
        "model_type": "llava",
        "image_token_index": 500,
        "vision_feature_layer": -2,
        "text_config": _text("llama"),
        "vision_config": _CLIP,
    },
    "llava_next": {
        "model_type": "llava_next",
        "image_token_index": 500,
        "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
        "text_config": _text("llama"),
        "vision_config": _CLIP,
    },
    "qwen2_vl": _text("qwen2_vl")
    | _QWEN
    | {
        "vision_config": _GRID
        | {"model_type": "qwen2_vl", "embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
    },
    "qwen2_5_vl": _text("qwen2_5_vl")
    | _QWEN
    | {
        "vision_config": _GRID
        | {
            "model_type": "qwen2_5_vl",
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": 128,
            "window_size": 56,
            "fullatt_block_indexes": [2],
        }
    },
    "idefics3": {
        "model_type": "idefics3",
        "image_token_id": 500,
        "scale_factor": 2,
        "text_config": _text("llama"),
        "vision_config": _vision("idefics3_vision"),
    },
    "paligemma": {
        "model_type": "paligemma",
        "image_token_index": 500,
        "projection_dim": 128,
        "hidden_size": 128,
        "text_config": _text("gemma", head_dim=32),
        "vision_config": _vision("siglip_vision_model", vision_use_head=False),
    },
    "internvl": {
        "model_type": "internvl",
        "image_token_id": 500,
        "image_seq_length": 4,
        "text_config": _text("qwen2"),
        "vision_config": _vision("internvl_vision", image_size=[56, 56], patch_size=[14, 14]),
    },
    "clip": {
        "model_type": "clip",
        "projection_dim": 64,
        "text_config": _vision("clip_text_model", vocab_size=VOCABULARY)
        | {"max_position_embeddings": 77, "eos_token_id": VOCABULARY - 1},
        "vision_config": _CLIP,
    },
}
for _field in ("image_size", "patch_size"):
    MODELS["clip"]["text_config"].pop(_field)

# (model, what its plan differs in). With checkpointing the witness also sees a copy of the random
# generator's state for each layer, 5 KB that no operator makes: nothing next to real activations.
CASES: tuple[tuple[str, dict], ...] = (
    ("llava", {}),
    ("llava", {"method": "lora", "batch": 2}),
    ("llava", {"method": "frozen", "checkpointing": "full", "batch": 2}),
    ("llava_next", {"method": "frozen", "precision": "bf16_amp"}),
    ("qwen2_vl", {"batch": 2}),
    ("qwen2_vl", {"method": "lora", "checkpointing": "full", "batch": 4}),
    ("qwen2_5_vl", {"method": "frozen", "attention": "eager"}),
    ("idefics3", {}),
    ("paligemma", {"batch": 2}),
    ("internvl", {"loss": "chunked", "loss_chunk": 64}),
    ("clip", {"batch": 8, "precision": "fp32"}),
    ("qwen2", {"precision": "fp32", "optimizer_kernel": "foreach", "batch": 2}),
    ("llama", {"optimizer": "adafactor", "precision": "fp32"}),
    ("llama", {"optimizer": "sgd", "grad_accumulation": 2, "batch": 2}),
    ("qwen2", {"method": "qlora", "optimizer": "adamw_8bit", "batch": 2}),
    ("llama", {"objective": "dpo", "batch": 2}),
    ("llava", {"objective": "dpo", "method": "lora"}),
    ("qwen2", {"objective": "evaluate", "eval_batch": 2, "eval_samples": 4}),
)


def write_models(folder: Path) -> None:
    """A folder with a config.json for every tiny model."""
    for name, config in MODELS.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))


def make_plan(folder: Path, model: str, changes: dict) -> Plan:
    """The plan of a case, for the CPU on which it is held against a real run."""
    usual = {
        "sequence_length": LENGTH,
        "images": ((56, 56),),
        "device": "cpu",
        "processor": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    }
    return Plan(str(folder / model), **(usual | changes))
