"""Small configurations of the real model classes, one a family."""

import pytest

TEXT = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "pad_token_id": 0,
}  # fmt: skip
TOWER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 7,
}  # fmt: skip
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
QWEN_TEXT = {
    **TEXT,
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "type": "mrope",
        "rope_theta": 1e6,
    },
}
LLAMA = {"model_type": "llama", **TEXT}
CLIP = {"model_type": "clip_vision_model", **TOWER}
QWEN_IDS = {
    "image_token_id": 9,
    "video_token_id": 10,
    "vision_start_token_id": 11,
    "vision_end_token_id": 12,
}

RAW = {
    "llava": {"text_config": LLAMA, "vision_config": CLIP, "image_token_index": 9},
    "llava_next": {
        "text_config": LLAMA, "vision_config": CLIP, "image_token_index": 9, "image_grid_pinpoints": GRIDS
    },
    "qwen2_vl": dict(
        text_config={"model_type": "qwen2_vl_text", **QWEN_TEXT},
        vision_config={
            "model_type": "qwen2_vl", "embed_dim": 16, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2
        },
        **QWEN_IDS,
    ),
    "qwen2_5_vl": dict(
        text_config={"model_type": "qwen2_5_vl_text", **QWEN_TEXT},
        vision_config={
            "model_type": "qwen2_5_vl", "hidden_size": 16, "intermediate_size": 32, "depth": 2, "num_heads": 2,
            "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 56,
        },
        **QWEN_IDS,
    ),
    "smolvlm": {
        "text_config": LLAMA,
        "vision_config": {"model_type": "smolvlm_vision", **TOWER},
        "image_token_id": 9, "scale_factor": 2,
    },
    "idefics3": {
        "text_config": LLAMA,
        "vision_config": {"model_type": "idefics3_vision", **TOWER},
        "image_token_id": 9, "scale_factor": 2,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", "head_dim": 8, **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER},
        "image_token_index": 9, "projection_dim": 32, "hidden_size": 32,
    },
    "internvl": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {
            "model_type": "internvl_vision", **TOWER, "image_size": [28, 28], "patch_size": [7, 7]
        },
        "image_token_id": 9, "downsample_ratio": 0.5,
    },
    "llama": TEXT,
}  # fmt: skip
PICTURES = [kind for kind in RAW if kind != "llama"]


@pytest.fixture(scope="session")
def tiny():
    """model type -> (configuration, a model of it with random weights), made once."""
    import functools

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from labs.doctors.memory.setup.configs import build_config

    @functools.cache
    def make(kind: str):
        config, _ = build_config({"model_type": kind, **RAW[kind]}, "the test's configuration")
        torch.manual_seed(0)
        maker = AutoModelForCausalLM if kind == "llama" else AutoModelForImageTextToText
        return config, maker.from_config(config)

    return make


@pytest.fixture(scope="session")
def pool():
    """One child that traces for all tests: its imports are paid once."""
    from labs.doctors.memory.trace.pool import Pool

    with Pool(1) as running:
        yield running
