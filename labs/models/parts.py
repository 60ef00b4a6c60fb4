"""Which part of a model a parameter or module belongs to, told by its name."""

import re

# A parameter belongs to the first part whose pattern its name matches. LoRA comes first: its
# matrices lie inside the other parts. Names: LLaVA, Qwen-VL, InternVL, CLIP and their kin.
PATTERNS = {
    "lora": r"\blora_|\badapter_(down|up)\b",
    "connector": r"multi_modal_projector|mm_projector|\bmlp1\b|\bmerger\b|connector"
    r"|attn_pool|qformer|resampler|perceiver|modality_projection|gated_cross_attention",
    "vision_tower": r"vision_tower|vision_model|\bvisual\b|visual_projection|image_encoder",
    "text_tower": r"(^|\.)text_model\.(embeddings|encoder|final_layer_norm|head)|text_projection",
    "temperature": r"logit_scale|logit_bias",
}
DEFAULT_PART = "language_model"
PARTS = (*PATTERNS, DEFAULT_PART)
_COMPILED = {part: re.compile(pattern) for part, pattern in PATTERNS.items()}


def part_of(name: str) -> str:
    """The part that a parameter of this name belongs to."""
    for part, pattern in _COMPILED.items():
        if pattern.search(name):
            return part
    return DEFAULT_PART
