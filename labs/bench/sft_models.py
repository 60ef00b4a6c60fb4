"""The two models that `labs bench sft` trains, with random weights from a seed."""

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
)

from labs.models import build_tiny_llava
from labs.models.tiny import tiny_processor

VOCABULARY = 32_000  # Vicuna's, LLaVA's language model; the tiny tokenizer uses the first 543
IMAGE_SIZE, PATCH_SIZE = 96, 16  # 36 image tokens, as the tiny model has


def build(size: str) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """`tiny`: the zoo's architecture, 0.8M parameters. `100m`: the same classes, 100M."""
    return build_tiny_llava(seed=0) if size == "tiny" else build_100m()


def build_100m(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA of about 100M parameters: ViT 12x384 (22M), MLP, Qwen2 12x640 with V = 32,000."""
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    processor.image_processor = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor.patch_size = PATCH_SIZE
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
        ),
        text_config=Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=640,
            intermediate_size=1760,
            num_hidden_layers=12,
            num_attention_heads=10,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(processor.image_token),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config), processor
