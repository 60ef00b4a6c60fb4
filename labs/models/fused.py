"""A tiny BLIP: one text network that reads alone, reads with a picture, and writes. Chapter 1.

    text alone      bidirectional attention                       its first state → contrastive
    text + image    the same, and cross-attention to the image    its first state → ITMHead
    caption         causal attention, and cross-attention         every state     → next token

The three share all weights but one set: the decoder has self-attention of its own, since looking at
both sides and looking back only are different skills (Li et al. 2022, arXiv:2201.12086, section 3.1
and table 3). Which of the three is meant, the model is told twice over: by the mask and by the
first token, [CLS], [ENC] or [DEC], which the model itself puts before the text.

Built of Transformers' own BLIP text classes and CLIP vision tower; names are those of its
BlipForImageTextRetrieval, so that its `text_encoder`, projections and `itm_head` can be loaded.
Left out: BLIP's momentum encoder with its queue of negatives and soft labels.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    BlipTextConfig,
    BlipTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from labs.errors import InputError
from labs.models.tiny import INITIALIZER_RANGE, tiny_processor, tiny_tokenizer, tiny_vision_config

FIRST_TOKENS = {"cls_token_id": "[CLS]", "encode_token_id": "[ENC]", "decode_token_id": "[DEC]"}


class ITMHead(nn.Linear):
    """Does the text belong to the image? Read from the fused encoder's *first* token.

    `forward(hidden_states)` [N, T, D] → logits [N, 2], column 1 = they belong together. The first
    token is the one that every text has and that stands for none of its words; the states after it
    say what a word is in the light of the image, and the last of them may be padding.

    Li et al. 2021 (ALBEF), arXiv:2107.07651, section 3.2. Chapter 1.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 2)

    def forward(
        self, hidden_states: Float[Tensor, "items tokens features"]
    ) -> Float[Tensor, "items 2"]:
        return super().forward(hidden_states[:, 0])


class FusedConfig(PreTrainedConfig):
    """A CLIP vision configuration, a BLIP text configuration, and what joins them."""

    model_type = "tiny_blip"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": BlipTextConfig}  # noqa: RUF012

    def __init__(
        self,
        vision_config: dict | CLIPVisionConfig | None = None,
        text_config: dict | BlipTextConfig | None = None,
        projection_dim: int = 96,
        logit_scale_init_value: float = 2.6592,  # CLIP's: a temperature of 0.07
        cls_token_id: int = 0,
        encode_token_id: int = 0,
        decode_token_id: int = 0,
        **options,
    ):
        def made(of, kind):
            return of if isinstance(of, kind) else kind(**(of or {}))

        self.vision_config = made(vision_config, CLIPVisionConfig)
        self.text_config = made(text_config, BlipTextConfig)
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        self.cls_token_id = cls_token_id
        self.encode_token_id = encode_token_id
        self.decode_token_id = decode_token_id
        options.setdefault("tie_word_embeddings", True)  # or nothing is shared
        super().__init__(**options)


AutoConfig.register(FusedConfig.model_type, FusedConfig)  # AutoProcessor looks it up


class FusedModel(PreTrainedModel):
    """Vision tower, text encoder with cross-attention, text decoder, and three heads.

    Shapes: B pictures, P patches (and a class token before them), T tokens, D features. Texts come
    as the tokenizer makes them, with padding on the right and no first token.
    """

    config: FusedConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True

    def __init__(self, config: FusedConfig):
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.vision_model = CLIPVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        self.text_decoder = BlipTextLMHeadModel(text)
        self.vision_proj = nn.Linear(vision.hidden_size, config.projection_dim)
        self.text_proj = nn.Linear(text.hidden_size, config.projection_dim)
        self.itm_head = ITMHead(text.hidden_size)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self._share()
        self.post_init()

    def _share(self) -> None:
        """The decoder's layers become the encoder's, all but their self-attention."""
        encoder, decoder = self.text_encoder, self.text_decoder.bert
        decoder.embeddings = encoder.embeddings
        for theirs, ours in zip(decoder.encoder.layer, encoder.encoder.layer, strict=True):
            for name in ("crossattention", "intermediate", "output"):
                setattr(theirs, name, getattr(ours, name))
        self.text_decoder.cls.predictions.decoder.weight = encoder.get_input_embeddings().weight
        # A file holds each tensor once: under the name that comes first, which is the encoder's.
        first: dict[int, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            first.setdefault(id(parameter), name)
        self._tied_weights_keys = {
            name: first[id(parameter)]
            for name, parameter in self.named_parameters(remove_duplicate=False)
            if first[id(parameter)] != name
        }
        self.text_decoder._tied_weights_keys = {}  # all of them are named above

    def _init_weights(self, module: nn.Module) -> None:
        """The parts have drawn their own weights, each by its own configuration."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.text_config.initializer_range)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.get_input_embeddings()

    # the parts

    def image_states(
        self, pixel_values: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        """The tower's states, class token first; normalised, as cross-attention expects them."""
        states = self.vision_model(pixel_values).last_hidden_state
        return self.vision_model.post_layernorm(states)

    def get_image_features(
        self, pixel_values: Float[Tensor, "batch channels height width"]
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` [B, E]: the picture for the contrastive loss, not of unit length.

        `last_hidden_state` [B, 1 + P, D]: the states that cross-attention reads.
        """
        states = self.image_states(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.vision_proj(states[:, 0])
        )

    def get_text_features(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` [B, E]: the text by itself, for the contrastive loss."""
        ids, mask = begin(input_ids, attention_mask, self.config.cls_token_id)
        states = self.text_encoder(ids, attention_mask=mask).last_hidden_state
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.text_proj(states[:, 0])
        )

    def fuse(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None,
        image_states: Float[Tensor, "batch patches features"],
    ) -> Float[Tensor, "batch tokens+1 features"]:
        """The text's states, [ENC] first, with the image seen from every layer."""
        ids, mask = begin(input_ids, attention_mask, self.config.encode_token_id)
        return self.text_encoder(
            ids, attention_mask=mask, encoder_hidden_states=image_states
        ).last_hidden_state

    def match(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None,
        image_states: Float[Tensor, "batch patches features"],
    ) -> Float[Tensor, "batch 2"]:
        """Logits of text n belonging to image n, in column 1."""
        return self.itm_head(self.fuse(input_ids, attention_mask, image_states))

    def caption_logits(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None,
        image_states: Float[Tensor, "batch patches features"],
    ) -> Float[Tensor, "batch tokens+1 vocab"]:
        """Logits after [DEC] and after each token: position t has seen t tokens of the text."""
        ids, mask = begin(input_ids, attention_mask, self.config.decode_token_id)
        return self.text_decoder(
            ids, attention_mask=mask, encoder_hidden_states=image_states, use_cache=False
        ).logits

    @torch.no_grad()
    def caption(
        self, pixel_values: Float[Tensor, "batch channels height width"], max_new_tokens: int = 64
    ) -> Int[Tensor, "batch new_tokens"]:
        """Greedy captions as token ids, [DEC] left out, padded after the end token."""
        text = self.config.text_config
        states = self.image_states(pixel_values)
        start = torch.full((len(states), 1), self.config.decode_token_id, device=states.device)
        ids = self.text_decoder.generate(
            input_ids=start,
            encoder_hidden_states=states,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=text.eos_token_id,
            pad_token_id=text.pad_token_id,
        )
        return ids[:, 1:]


def begin(
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Int[Tensor, "batch tokens"] | None,
    token: int,
) -> tuple[Int[Tensor, "batch tokens+1"], Int[Tensor, "batch tokens+1"] | None]:
    """Texts with `token` before them, and their mask."""
    ids = torch.cat([torch.full_like(input_ids[:, :1], token), input_ids], dim=1)
    if attention_mask is None:
        return ids, None
    return ids, torch.cat([torch.ones_like(attention_mask[:, :1]), attention_mask], dim=1)


def build_tiny_blip(
    seed: int = 0, vision_tower: str | None = None
) -> tuple[FusedModel, LlavaProcessor]:
    """tiny-blip with random weights: a ViT 3x96 and a text network 3x96.

    `vision_tower` names a model of the zoo whose tower it starts from (tiny-clip, tiny-base, …), as
    BLIP itself starts from a ViT that has been trained before.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(FIRST_TOKENS.values())})
    vision = tiny_vision_config()
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        encoder_hidden_size=vision.hidden_size,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=160,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=tokenizer.convert_tokens_to_ids(FIRST_TOKENS["decode_token_id"]),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=tokenizer.eos_token_id,
    )
    first = {name: tokenizer.convert_tokens_to_ids(t) for name, t in FIRST_TOKENS.items()}
    torch.manual_seed(seed)
    model = FusedModel(FusedConfig(vision, text, projection_dim=96, **first))
    if vision_tower is not None:
        take_tower(model, vision_tower)
    return model, tiny_processor(tokenizer)


def take_tower(model: FusedModel, source: str) -> None:
    """Copy the vision tower of a CLIP or a LLaVA (zoo name, folder or hub id) into `model`.

    Raises InputError where it does not fit.
    """
    from labs.models.loading import load_clip, load_vlm, resolve

    kind = AutoConfig.from_pretrained(resolve(source)).model_type
    other = load_clip(source)[0] if kind == "clip" else load_vlm(source)[0].model
    tower = getattr(other, "vision_model", None) or getattr(other, "vision_tower", None)
    try:
        model.vision_model.load_state_dict(tower.state_dict())
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            f"The vision tower of {source} does not fit this model.",
            "Take it from a model with a CLIP tower of the same size.",
        ) from error


def load_blip(name_or_path: str | Path, dtype: str | torch.dtype = "float32"):
    """(model, processor) of a folder that a run of the stage `fused` has written, in eval mode."""
    from labs.models.loading import _from_pretrained, resolve

    folder = resolve(name_or_path)
    model = _from_pretrained(FusedModel, folder, dtype=dtype)
    return model.eval(), _from_pretrained(AutoProcessor, folder)
