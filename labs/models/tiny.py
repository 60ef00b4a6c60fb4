"""The tiny models: stock *Transformers* classes with small configurations.

What trains them trains a 7B model: only the numbers below differ.
"""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from labs.models.places import TOKENIZER
from labs.models.tokenizer import IMAGE

IMAGE_SIZE = 48
PATCH_SIZE = 8  # 6 x 6 = 36 image tokens
# Transformers' default of 0.02 is made for wide models. At a width of 128 it starts queries and
# keys so small that attention stays flat for 35,000 examples; about 1/sqrt(width) does not.
INITIALIZER_RANGE = 0.09
CLIP_END = "<|text_end|>"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that ships with the zoo."""
    return PreTrainedTokenizerFast.from_pretrained(TOKENIZER)


def tiny_image_processor() -> CLIPImageProcessorPil:
    """48x48, scaled to -1..1. Bicubic like CLIP's; no crop, so nothing of a picture is lost."""
    return CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def tiny_vision_config() -> CLIPVisionConfig:
    """A ViT of 3 layers of width 96: the tower of tiny-clip and of the tiny LLaVA."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_act="gelu",
        initializer_range=INITIALIZER_RANGE,
    )


def tiny_text_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    """A Qwen2 of 3 layers of width 128 with two key-value heads."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,  # like every width here a multiple of 64, as NF4 blocks want
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_processor(tokenizer: PreTrainedTokenizerFast | None = None) -> LlavaProcessor:
    """Tokenizer and image processor as one, as `AutoProcessor` would load it."""
    tokenizer = tokenizer or tiny_tokenizer()
    return LlavaProcessor(
        image_processor=tiny_image_processor(),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def build_tiny_lm(seed: int = 0) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """tiny-lm's architecture with random weights."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(tiny_text_config(tokenizer))
    _stop_at_end(model, tokenizer)
    return model, tokenizer


def build_tiny_llava(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The tiny LLaVA with random weights: ViT 3x96, two-layer MLP, Qwen2 3x128."""
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=tiny_vision_config(),
        text_config=tiny_text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        projector_hidden_act="gelu",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    _stop_at_end(model, tokenizer)
    return model, processor


def build_tiny_clip(seed: int = 0) -> tuple[CLIPModel, LlavaProcessor]:
    """tiny-clip: the tiny LLaVA's own tower beside a text encoder of 3 layers of width 96."""
    tokenizer = tiny_tokenizer()
    # A text's feature is the state of its end token. For an end token with the id 2, as ours has,
    # Transformers reads the state at the largest id of the text instead: right for the first CLIP
    # files, whose end was the last word of the vocabulary, and for us the state of some colour, which
    # has not seen the rest of the caption. So texts end here with a token of their own.
    tokenizer.add_special_tokens({"eos_token": CLIP_END})
    processor = tiny_processor(tokenizer)
    config = CLIPConfig(
        vision_config=tiny_vision_config().to_dict(),
        text_config=CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=128,
            hidden_act="gelu",
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=INITIALIZER_RANGE,
        ).to_dict(),
        projection_dim=96,
        logit_scale_init_value=2.6592,
    )
    torch.manual_seed(seed)
    return CLIPModel(config), processor


def _stop_at_end(model, tokenizer) -> None:
    """generate() stops at the end of a turn and pads with the pad token."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
