"""A LLaVA put together from a language model and a vision tower, and parts copied between models."""

import torch
from torch import nn

from labs.errors import InputError
from labs.models.parts import part_of

# Vicuna's tokeniser brings no template. haotian-liu/LLaVA llava/conversation.py, conv_vicuna_v1.
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '"
    + VICUNA_SYSTEM.replace("'", "\\'")
    + " ' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
    "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def assemble_llava(
    language_model: str,
    vision_tower: str,
    dtype: str = "float32",
    seed: int = 0,
    feature_layer: str = "-2",
    feature_select: str = "default",
    image_token: str = "<image>",
):
    """LLaVA before its first stage: two trained models and a new two-layer connector between them.

    The features are the tower's hidden states before its last block (`mm_vision_select_layer -2`),
    without the class token ("default"); the image token is added to the tokenizer.
    Values are strings where a recipe's YAML mapping gives them. Returns (model, processor).
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForCausalLM,
        AutoTokenizer,
        CLIPVisionModel,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from labs.models.loading import resolve

    lm_folder, tower_folder = resolve(language_model), resolve(vision_tower)
    try:
        tokenizer = AutoTokenizer.from_pretrained(lm_folder)
        images = AutoImageProcessor.from_pretrained(tower_folder)
        vision = AutoConfig.from_pretrained(tower_folder)
        lm = AutoModelForCausalLM.from_pretrained(lm_folder, dtype=dtype)
        tower = CLIPVisionModel.from_pretrained(tower_folder, dtype=dtype)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{language_model} and {vision_tower} cannot be loaded: {str(error).splitlines()[0]}",
            "Name a causal language model and a CLIP model, local or on the hub.",
        ) from None
    vision = getattr(vision, "vision_config", vision)
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [image_token]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
        torch.manual_seed(seed)  # new rows are drawn
        lm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = VICUNA_TEMPLATE
    patches = (vision.image_size // vision.patch_size) ** 2
    config = LlavaConfig(
        vision_config=vision,
        text_config=lm.config,
        image_token_id=tokenizer.convert_tokens_to_ids(image_token),
        vision_feature_layer=int(feature_layer),
        vision_feature_select_strategy=feature_select,
        image_seq_length=patches + (feature_select == "full"),
        projector_hidden_act="gelu",
        tie_word_embeddings=lm.config.tie_word_embeddings,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).to(lm.dtype)
    _take(model.model.language_model, lm.model, "language model")
    model.lm_head.load_state_dict(lm.lm_head.state_dict())
    _take(model.model.vision_tower, tower, "vision tower")
    model.tie_weights()
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=feature_select,
        chat_template=tokenizer.chat_template,
        image_token=image_token,
        num_additional_image_tokens=1,  # the class token, which "default" takes away again
    )
    return model, processor


def _take(target: nn.Module, source: nn.Module, what: str) -> None:
    """Copy the weights of `source` into `target`; both must have the same names and shapes."""
    weights = source.state_dict()
    own = target.state_dict()
    # Transformers has had the CLIP tower's weights under `vision_model.` and without it.
    for prefix in ("", "vision_model."):
        for renamed in (
            {prefix + name: t for name, t in weights.items()},
            {name.removeprefix(prefix): t for name, t in weights.items()},
        ):
            if {n: t.shape for n, t in renamed.items()} == {n: t.shape for n, t in own.items()}:
                target.load_state_dict(renamed)
                return
    odd = next((n for n in own if n not in weights or own[n].shape != weights[n].shape), "?")
    raise InputError(
        f"The {what} does not fit the model: `{odd}` differs in name or shape.",
        "Take the part from a model of the same architecture.",
    )


def copy_part(model: nn.Module, part: str, source: str) -> None:
    """Copy one part's weights from another model: a language model, a CLIP, or a VLM alike.

    `part`: language_model, vision_tower or connector. `source`: zoo name, folder or hub id.
    Raises InputError where the two do not fit.
    """
    from transformers import AutoConfig

    from labs.models import load_clip, load_lm, load_vlm
    from labs.models.fused import FusedModel, take_tower
    from labs.models.loading import resolve

    if part == "vision_tower" and isinstance(model, FusedModel):
        return take_tower(model, source)
    kind = AutoConfig.from_pretrained(resolve(source)).model_type
    if part == "language_model" and hasattr(model, "model"):
        if hasattr(model.model, "language_model") and kind != model.config.model_type:
            lm, _ = load_lm(source)
            _take(model.model.language_model, lm.model, "language model")
            _take(model.lm_head, lm.get_output_embeddings(), "output head")
            model.tie_weights()
            return
    if part == "vision_tower" and kind == "clip" and hasattr(model, "model"):
        clip, _ = load_clip(source)
        _take(model.model.vision_tower, clip.vision_model, "vision tower")
        return
    loader = load_vlm if kind == model.config.model_type and kind != "clip" else load_clip
    other, _ = loader(source)
    theirs = {n: t for n, t in other.state_dict().items() if part_of(n) == part}
    ours = {n for n in model.state_dict() if part_of(n) == part}
    if not ours or set(theirs) != ours:
        raise InputError(
            f"The part `{part}` of {source} does not fit this model.",
            "Take it from a model of the same architecture.",
        )
    model.load_state_dict(theirs, strict=False)
