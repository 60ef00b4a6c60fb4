"""Gated cross-attention: the picture never enters the sequence, the layers look at it from within."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from labs.errors import InputError
from labs.models.connectors.attention import CrossAttention, feed_forward
from labs.models.connectors.base import Connector
from labs.models.connectors.resampler import PerceiverResampler
from labs.models.merge import images_of_samples


class GatedCrossAttentionBlock(nn.Module):
    """What Flamingo puts before a layer of the language model.

        x = x + tanh(a)·attention(q = LN(x), kv = images);  x = x + tanh(b)·ffw(x)

    The gates a and b are scalars that start at zero: at step 0 the block passes `states` on
    unchanged, to the bit, and all of its gradient goes to the gates. Once they have moved, the rest
    learns.

    `states` [B, T, D], `images` [B, K, Dv], `mask` [B, T, K] (True: this token may look there).
    Parameters: 2D + 2D² + 2·Dv·D + 2D + 2·e·D² + 2, e = 4 the expansion.

    Alayrac et al. 2022 (Flamingo), arXiv:2204.14198, section 3.1.2 and figure 4. Chapter 1.
    """

    def __init__(
        self, hidden_size: int, vision_hidden_size: int, num_heads: int, expansion: int = 4
    ):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.attention = CrossAttention(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw = feed_forward(hidden_size, expansion)
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        states: Float[Tensor, "batch tokens hidden"],
        images: Float[Tensor, "batch keys vision"],
        mask: Bool[Tensor, "batch tokens keys"],
    ) -> Float[Tensor, "batch tokens hidden"]:
        looked = self.attention(self.norm(states), images, mask)
        # A token before the first image has seen nothing. For it the whole block is switched off
        # (the public reimplementations switch off the attention alone), as it is in a batch of text.
        sees = mask.any(dim=-1, keepdim=True)
        states = states + self.attention_gate.tanh() * looked
        return states + self.ffw_gate.tanh() * self.ffw(states) * sees

    def extra_repr(self) -> str:
        a, b = self.attention_gate.detach().tanh().item(), self.ffw_gate.detach().tanh().item()
        return f"tanh(a)={a:.3g}, tanh(b)={b:.3g}"


class FlamingoLayer(nn.Module):
    """A layer of the language model with a gated block before it; takes the layer's place.

    `visual_features` [B, M, K, Dv] and `visual_mask` [B, T, M] come through the language model as
    keyword arguments; without them (text alone) the layer is the old one.
    """

    def __init__(self, gated_cross_attention: GatedCrossAttentionBlock, decoder_layer: nn.Module):
        super().__init__()
        self.gated_cross_attention = gated_cross_attention
        self.decoder_layer = decoder_layer

    def forward(
        self,
        hidden_states: Float[Tensor, "batch tokens hidden"],
        *arguments,
        visual_features: Float[Tensor, "batch images keys vision"] | None = None,
        visual_mask: Bool[Tensor, "batch prompt images"] | None = None,
        **named,
    ):
        if visual_features is not None:
            keys = visual_features.shape[2]
            # With a cache only new tokens come: they see what the prompt's last token saw.
            tokens = hidden_states.shape[1]
            if tokens != visual_mask.shape[1]:
                visual_mask = visual_mask[:, -1:].expand(-1, tokens, -1)
            hidden_states = self.gated_cross_attention(
                hidden_states, visual_features.flatten(1, 2), visual_mask.repeat_interleave(keys, 2)
            )
        return self.decoder_layer(hidden_states, *arguments, **named)


class GatedCrossAttention(Connector):
    """Flamingo: layers of the language model look at the picture by themselves.

    `features` [B, P, Dv] -> [B, Q, Dv]: a Perceiver resampler's latents, or with `num_latents=None`
    the patches as they are. They stay out of the sequence, which has one marker for each image; a
    token sees the last image whose marker it has passed. `insert` puts a `GatedCrossAttentionBlock`
    before every `every`-th layer of a language model, whose weights are then at
    `layers.N.decoder_layer`: load them before. The image costs the sequence one token, and every
    gated layer T·Q scores.

    Parameters: the resampler's (or none), and those of each block.

    Alayrac et al. 2022 (Flamingo), arXiv:2204.14198, section 3.1; `every` is 1, 4 and 7 in
    Flamingo-3B, 9B and 80B. Chapter 1.
    """

    in_sequence = False
    num_placeholders = 1

    def __init__(
        self,
        vision_hidden_size: int,
        hidden_size: int,
        num_patches: int,
        num_latents: int | None = 64,
        depth: int = 2,
        num_heads: int = 4,
        every: int = 1,
    ):
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_latents or num_patches)
        self.every, self.num_heads = every, num_heads
        self.resampler = nn.Identity()
        if num_latents is not None:
            self.resampler = PerceiverResampler(
                vision_hidden_size, vision_hidden_size, num_patches, num_latents, depth, num_heads
            )

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch visual vision"]:
        return self.resampler(features)

    def insert(self, language_model: nn.Module) -> None:
        """Put a gated block before layers 0, every, 2·every, … of `language_model`, in place."""
        layers = language_model.get_decoder().layers
        if any(isinstance(layer, FlamingoLayer) for layer in layers):
            raise InputError(
                "This language model already has gated layers.", "Insert them once, in a fresh one."
            )
        like = next(language_model.parameters())
        for number in range(0, len(layers), self.every):
            block = GatedCrossAttentionBlock(
                self.hidden_size, self.vision_hidden_size, self.num_heads
            )
            layers[number] = FlamingoLayer(block.to(like), layers[number])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()} outside the sequence, every={self.every}"


def look_at_images(
    input_ids: Int[Tensor, "batch tokens"],
    features: Float[Tensor, "total keys vision"] | None,
    image_token_id: int,
) -> dict[str, Tensor]:
    """What a Flamingo layer needs: each sample's images, and which of them a token sees.

        visual_features [B, M, K, Dv], M the most images a sample has, zeros where it has fewer
        visual_mask [B, T, M], mask[b, t, m] = (number of markers in input_ids[b, :t+1] == m + 1)

    So a token sees the last image whose marker it has passed, and none before the first (of all
    images before it, Flamingo's table 10 finds the last alone the better). `features` [N, K, Dv] of
    the batch's images, in order (None where it has none: then there is nothing to give);
    `input_ids` has one marker an image. Raises InputError where markers and images disagree.

    Alayrac et al. 2022 (Flamingo), arXiv:2204.14198, section 3.1.3 and appendix A.1.3. Chapter 1.
    """
    markers = input_ids == image_token_id
    count = 0 if features is None else len(features)
    owners = images_of_samples(markers.sum(dim=1).tolist(), [1] * count)
    if features is None:
        return {}
    most = max(map(len, owners))
    padded = [
        torch.cat([features[images], features.new_zeros(most - len(images), *features.shape[1:])])
        for images in owners
    ]
    passed = markers.cumsum(dim=1).unsqueeze(-1)
    mask = passed == torch.arange(1, most + 1, device=input_ids.device)
    return {"visual_features": torch.stack(padded), "visual_mask": mask}


@contextlib.contextmanager
def looking_at(
    language_model: nn.Module,
    visual_features: Float[Tensor, "batch images keys vision"],
    visual_mask: Bool[Tensor, "batch prompt images"],
) -> Iterator[None]:
    """Within it every Flamingo layer of the model is given these images.

    For Transformers' `generate`, which refuses keyword arguments that it does not know. Where it
    runs several rows for a sample, the images are repeated for them.
    """

    def give(layer: FlamingoLayer, arguments: tuple, named: dict) -> tuple[tuple, dict]:
        times = len(arguments[0]) // len(visual_features)
        images = visual_features.repeat_interleave(times, 0)
        mask = visual_mask.repeat_interleave(times, 0)
        return arguments, named | {"visual_features": images, "visual_mask": mask}

    layers = [m for m in language_model.modules() if isinstance(m, FlamingoLayer)]
    hooks = [layer.register_forward_pre_hook(give, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
