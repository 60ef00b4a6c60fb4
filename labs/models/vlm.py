"""A vision-language model from parts, to be read beside the diagram of chapter 1.

    pixels -> vision tower -> connector -> image features --+
                                                            merge -> language model -> logits
    token ids ----------------------> embeddings -----------+

Tower and language model are Transformers'; what joins them is here, and with the weights of a
Transformers LLaVA it gives its logits.
"""

import contextlib
import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, LlavaProcessor, PreTrainedModel

from labs.errors import InputError
from labs.losses import generation_loss
from labs.models.connectors import Connector, MLPConnector, look_at_images, looking_at
from labs.models.merge import merge_image_features

# Ours -> Transformers' LLaVA's, by the beginning of a weight's name.
LLAVA_NAMES = {
    "vision_tower.encoder.": "model.vision_tower.",
    "connector.": "model.multi_modal_projector.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}


class VisionTower(nn.Module):
    """Pixels to patch features: one hidden state of a Transformers vision encoder.

        pixel_values [N, 3, H, W] -> hidden_states[feature_layer] [N, P (+1), Dv]

    feature_layer: -1 is what the last layer puts out (before any final norm), -2 the layer before
        it (LLaVA: the last one of CLIP is tuned to its contrastive loss), 0 the patch embedding.
    select_strategy: "default" drops the first token, the CLS; "full" keeps all. Names and meaning
        are those of Transformers' LLaVA.

    Raises InputError for "default" on a tower that has no CLS, as SigLIP's: it would cut off the
    top left patch of every picture, and every patch after it would stand one place too early.

    Liu et al. 2023 (LLaVA), arXiv:2304.08485, section 4.1. Chapter 1.
    """

    def __init__(
        self, encoder: PreTrainedModel, feature_layer: int = -2, select_strategy: str = "default"
    ):
        super().__init__()
        if select_strategy not in ("default", "full"):
            raise InputError(
                f"select_strategy = {select_strategy!r} is unknown.",
                'Use "default" (without CLS) or "full".',
            )
        if select_strategy == "default" and not has_cls(encoder):
            raise InputError(
                f"{type(encoder).__name__} has no CLS token to drop.",
                'Use select_strategy="full": all its tokens are patches.',
            )
        layers = encoder.config.num_hidden_layers
        if not -layers - 1 <= feature_layer <= layers:
            raise InputError(
                f"feature_layer = {feature_layer}, but the tower has {layers} layers.",
                f"Choose one from 0 to {layers}, or count from the end, -1 being the last.",
            )
        self.encoder = encoder
        self.feature_layer, self.select_strategy = feature_layer, select_strategy

    @property
    def hidden_size(self) -> int:
        return self.encoder.config.hidden_size

    @property
    def num_patches(self) -> int:
        """Features of a picture of the configured size, with the CLS where it is kept."""
        config = self.encoder.config
        kept = has_cls(self.encoder) and self.select_strategy == "full"
        return (config.image_size // config.patch_size) ** 2 + kept

    def forward(
        self, pixel_values: Float[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images patches vision"]:
        states = self.encoder(pixel_values, output_hidden_states=True).hidden_states
        features = states[self.feature_layer]
        return features[:, 1:] if self.select_strategy == "default" else features

    def extra_repr(self) -> str:
        return f"feature_layer={self.feature_layer}, select_strategy={self.select_strategy!r}"


def has_cls(encoder: nn.Module) -> bool:
    """Whether a tower puts a token of its own before the patches (CLIP and DINO do, SigLIP no)."""
    names = {name.rpartition(".")[2] for name, _ in encoder.named_parameters()}
    return bool(names & {"class_embedding", "cls_token"})


@dataclass
class VLMOutput:
    """loss (a scalar, with labels), logits [B, T, V], and the connector's image_features [N, Q, D]
    (None in a batch of text)."""

    loss: Tensor | None
    logits: Tensor
    image_features: Tensor | None


class VLM(nn.Module):
    """Vision tower, connector, language model, and the merge.

    vision_tower: see `VisionTower`. connector: see `labs.models.connectors`; one that works by
    cross-attention puts its layers into the language model here. language_model: a Transformers
    causal language model. image_token_id: the placeholder in `input_ids`; an image takes
    `connector.num_placeholders` of them.

    Raises InputError where widths or numbers of patches do not fit.

    Liu et al. 2023 (LLaVA), arXiv:2304.08485, figure 1. Chapter 1.
    """

    def __init__(
        self,
        vision_tower: VisionTower,
        connector: Connector,
        language_model: PreTrainedModel,
        image_token_id: int,
    ):
        super().__init__()
        width = language_model.get_input_embeddings().embedding_dim
        wanted = (vision_tower.num_patches, vision_tower.hidden_size, width)
        given = (connector.num_patches, connector.vision_hidden_size, connector.hidden_size)
        if wanted != given:
            raise InputError(
                "The connector goes from {} patches of width {} to width {}, ".format(*given)
                + "tower and language model from {} of width {} to {}.".format(*wanted),
                "Build the connector with the numbers of the tower and the language model.",
            )
        self.vision_tower = vision_tower
        self.connector = connector
        self.language_model = language_model
        self.image_token_id = image_token_id
        if not connector.in_sequence:
            connector.insert(language_model)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        pixel_values: Float[Tensor, "images channels height width"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        num_items: int | Tensor | None = None,
        **options,
    ) -> VLMOutput:
        """Logits [B, T, V], and with `labels` the loss (`labs.losses.generation_loss`).

        `pixel_values` [N, 3, H, W]: the images of the whole batch, in the order of their
        placeholders; None for text. `options` go to the language model.
        """
        features = None if pixel_values is None else self.encode_images(pixel_values)
        inputs = self.language_inputs(input_ids, features)
        logits = self.language_model(attention_mask=attention_mask, **inputs, **options).logits
        loss = None if labels is None else generation_loss(logits, labels, num_items)
        return VLMOutput(loss, logits, features)

    def encode_images(
        self, pixel_values: Float[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images visual hidden"]:
        """What the language model gets of each image."""
        return self.connector(self.vision_tower(pixel_values))

    def language_inputs(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        features: Float[Tensor, "images visual hidden"] | None,
    ) -> dict[str, Tensor]:
        """The language model's inputs: the merged sequence, or the text and the images beside it."""
        inputs_embeds = self.language_model.get_input_embeddings()(input_ids)
        if not self.connector.in_sequence:
            looks = look_at_images(input_ids, features, self.image_token_id)
            return {"inputs_embeds": inputs_embeds, **looks}
        images = [] if features is None else list(features)
        merged = merge_image_features(inputs_embeds, input_ids, images, self.image_token_id)
        return {"inputs_embeds": merged}

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        pixel_values: Float[Tensor, "images channels height width"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        **options,
    ) -> Int[Tensor, "batch longer"]:
        """Prompt and answer ids, as Transformers' `generate` gives them (`options` are its own).

        Images are encoded once; prompts are padded on the left. `labs.models.generate` calls it.
        """
        features = None if pixel_values is None else self.encode_images(pixel_values)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = self.language_inputs(input_ids, features)
        embeds = inputs.pop("inputs_embeds")
        # What is left of the inputs are the images beside the sequence, or nothing.
        seeing = looking_at(self.language_model, **inputs) if inputs else contextlib.nullcontext()
        with seeing:
            said = self.language_model.generate(
                inputs_embeds=embeds, attention_mask=attention_mask, **options
            )
        # From embeddings, Transformers returns the new tokens alone, one row for each sample drawn.
        prompts = input_ids.repeat_interleave(len(said) // len(input_ids), dim=0)
        return torch.cat([prompts, said], dim=1)

    # what training and generation ask of a Transformers model

    @property
    def config(self):
        """The language model's configuration: what is trained and generated is text."""
        return self.language_model.config

    @property
    def device(self) -> torch.device:
        return self.language_model.device

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    # Transformers' LLaVA

    @classmethod
    def from_llava(cls, llava: PreTrainedModel) -> "VLM":
        """The same model as a Transformers LlavaForConditionalGeneration: a copy of its weights.

        Raises InputError for a LLaVA that takes features from several layers at once.
        """
        config = copy.deepcopy(llava.config)
        if not isinstance(config.vision_feature_layer, int):
            raise InputError(
                f"This LLaVA joins the layers {config.vision_feature_layer}.",
                "Use one that takes its features from a single layer.",
            )
        text = config.get_text_config()
        text.tie_word_embeddings = config.tie_word_embeddings
        kernel = {"attn_implementation": llava.config._attn_implementation}
        tower = VisionTower(
            AutoModel.from_config(config.vision_config, **kernel),
            config.vision_feature_layer,
            config.vision_feature_select_strategy,
        )
        connector = MLPConnector(
            tower.hidden_size,
            text.hidden_size,
            tower.num_patches,
            bias=config.multimodal_projector_bias,
            hidden_act=config.projector_hidden_act,
        )
        language_model = AutoModelForCausalLM.from_config(text, **kernel)
        language_model.generation_config = copy.deepcopy(llava.generation_config)
        vlm = cls(tower, connector, language_model, config.image_token_id)
        vlm.to(llava.device, llava.dtype).load_llava(llava)
        return vlm.train(llava.training)

    def load_llava(self, llava: PreTrainedModel) -> None:
        """Copy the weights of a Transformers LLaVA of this shape into this model."""
        theirs = llava.state_dict()
        self.load_state_dict({ours: theirs[name] for ours, name in self._llava_names().items()})

    def store_llava(self, llava: PreTrainedModel) -> None:
        """Copy the weights of this model into a Transformers LLaVA of its shape."""
        state = self.state_dict()
        llava.load_state_dict({name: state[ours] for ours, name in self._llava_names().items()})

    def _llava_names(self) -> dict[str, str]:
        """Our name of each weight -> its name in Transformers' LLaVA."""
        if not isinstance(self.connector, MLPConnector):
            raise InputError(
                f"Transformers' LLaVA has no {type(self.connector).__name__}.",
                "Only a VLM with an MLPConnector has a twin there.",
            )
        return {
            name: theirs + name.removeprefix(ours)
            for name in self.state_dict()
            for ours, theirs in LLAVA_NAMES.items()
            if name.startswith(ours)
        }


def processor_for(processor: LlavaProcessor, num_placeholders: int) -> LlavaProcessor:
    """A LLaVA processor that writes `num_placeholders` placeholders for an image.

    A LlavaProcessor counts patches and adds a number; with patches as large as the picture there is
    one, and the rest is the number added. The image processor must give every picture one size.
    """
    size = processor.image_processor.size
    if size["height"] != size["width"]:
        raise InputError(
            f"The pictures are {size['width']} x {size['height']}.", "Use a square size."
        )
    return LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=processor.tokenizer,
        patch_size=size["height"],
        vision_feature_select_strategy="full",
        chat_template=processor.chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=num_placeholders - 1,
    )
