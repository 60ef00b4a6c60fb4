"""Log-probabilities, entropy and values of sampled answers, in one forward. Chapter 5."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labs.errors import InputError
from labs.losses import IGNORE
from labs.losses.logprobs import entropy as entropy_of
from labs.losses.logprobs import linear_token_logprobs, token_logprobs
from labs.models.generation import encode_prompts, render_prompt
from labs.models.parts import part_of
from labs.models.scalar_head import ScalarHead
from labs.train.objectives import CAUSAL
from labs.train.policy.packed import pack
from labs.train.policy.prompts import Prompt
from labs.train.policy.sequences import Sequences

# Models whose pictures become embeddings before the language model, and whose positions simply count.
# Their features are made once a prompt and serve all its answers and every pass over them.
FEATURES = {"llava"}
_NOT_IMAGES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class Outputs(NamedTuple):
    """Each [N, T], aligned with `Sequences.ids`; what stands under padding means nothing."""

    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]
    values: Float[Tensor, "rows tokens"] | None


class Pictures:
    """The pictures of a step's prompts: as features where the family allows, else as pixels.

    features: one [tokens, D] a prompt. pixels: the image processor's tensors, one dict a prompt.
    """

    def __init__(self, features: list[Tensor] | None = None, pixels: list[dict] | None = None):
        self.features, self.pixels = features, pixels

    def of(self, rows: Sequences, packed: bool) -> dict:
        """What the forward takes for these rows: a picture once for each row, or once a prompt."""
        wanted = rows.prompt.tolist()
        if packed:
            wanted = list(dict.fromkeys(wanted))
        if self.features is not None:
            return {"features": torch.cat([self.features[i] for i in wanted])}
        if self.pixels is not None:
            return stacked([self.pixels[i] for i in wanted])
        return {}


class PolicyForward(nn.Module):
    """The policy as one module, so that a wrapper (DDP, autocast) sees all of its forward.

        log pi(y_t | x, y_<t) at the sampled tokens, softmax(logits / temperature);
        entropy of that distribution; V(x, y_<t), where there is a value head.

    Only states that predict an answer's token reach the head: [N, T, D], never [N, L, V].
    """

    def __init__(
        self,
        model: nn.Module,
        temperature: float = 1.0,
        value_head: bool = False,
        shared_prefix: bool | None = None,
    ):
        super().__init__()
        self.model, self.temperature = model, temperature
        text = model.config.get_text_config()
        self.value_head = ScalarHead(text.hidden_size) if value_head else None
        self.head = model.get_output_embeddings()
        odd = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
        self.plain_head = type(self.head) is nn.Linear and not any(
            getattr(text, name, None) for name in odd
        )
        self.by_features = model.config.model_type in FEATURES
        self.causal = model.config.model_type in CAUSAL
        ids = (model.config, text, getattr(model, "generation_config", None))
        self.filler = next((i for c in ids if (i := getattr(c, "pad_token_id", None))), 0)
        image = getattr(model.config, "image_token_id", None)
        self.image_id = -1 if image is None else image
        # Qwen-VL counts positions by rows and columns where these ids mark a picture.
        reads = inspect.signature(getattr(model, model.base_model_prefix, model).forward)
        self.marks_pictures = "mm_token_type_ids" in reads.parameters
        self.packs = can_pack(model) if shared_prefix is None else shared_prefix
        if self.packs and not can_pack(model):
            raise InputError(
                f"The answers of {type(model).__name__} cannot share their prompt's prefix.",
                "Leave policy.shared_prefix out, or load the model with attn_implementation=sdpa.",
            )

    def forward(self, rows: Sequences, features: Tensor | None = None, **pixels) -> Outputs:
        """features: of each row's pictures, one after another, or of each prompt's where the rows
        are packed (see `Pictures.of`); pixels: the image processor's tensors, likewise."""
        ids = rows.ids.masked_fill(~rows.mask, IGNORE)  # padding costs the head nothing
        if self.packs:
            packed = pack(rows, self.model.dtype)
            at: tuple = (packed.row, packed.place)
            inputs = {
                "position_ids": packed.position_ids, "attention_mask": packed.attention_mask
            }  # fmt: skip
            input_ids, asked = packed.input_ids, packed.asked
        else:
            at = (torch.arange(len(rows), device=ids.device)[:, None], rows.places)
            inputs = {} if self.causal else {"attention_mask": rows.attention_mask}
            input_ids, asked = rows.input_ids, rows.asked
        words = contextlib.nullcontext()
        if self.by_features:
            inputs["inputs_embeds"] = self._embeds(input_ids, asked, features, pixels)
            backbone = self.model.model.language_model
        else:
            backbone = getattr(self.model, self.model.base_model_prefix or "model")
            pictured = input_ids == self.image_id
            said = pictured & ~asked
            inputs |= {"input_ids": input_ids.masked_fill(said, self.filler), **pixels}
            if self.marks_pictures:
                inputs["mm_token_type_ids"] = (pictured & asked).int()
            words = self._as_words(said) if self.image_id >= 0 else words
        with words:
            states, logprobs, entropy = self._read(backbone, inputs, at, ids)
        values = self.value_head(states) if self.value_head is not None else None
        return Outputs(logprobs, entropy, values)

    def _read(self, backbone: nn.Module, inputs: dict, at: tuple, ids: Tensor) -> tuple:
        """(states, log-probabilities, entropy) at the places that predict `ids`."""
        if self.plain_head:
            states = backbone(**inputs, use_cache=False).last_hidden_state[at]
            return states, *linear_token_logprobs(
                states, self.head.weight, ids, self.head.bias, self.temperature
            )
        # soft-capped or scaled logits: the model's own head knows how
        outputs = self.model(**inputs, use_cache=False, output_hidden_states=True)
        logits = outputs.logits[at]
        entropy = entropy_of(logits.detach(), self.temperature)
        logprobs = token_logprobs(logits, ids, self.temperature)
        return outputs.hidden_states[-1][at], logprobs, entropy

    @contextlib.contextmanager
    def _as_words(self, said: Tensor) -> Iterator[None]:
        """Within it the embeddings at `said` are the placeholder's own, whatever id stands there: a
        model refuses a placeholder without a picture, but the rollout read it as a word."""

        def put(embed, inputs, output):
            image = torch.tensor(self.image_id, device=said.device)
            return torch.where(said[..., None], type(embed).forward(embed, image), output)

        hook = self.model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    def _embeds(self, input_ids: Tensor, asked: Tensor, features, pixels: dict) -> Tensor:
        embeds = self.model.get_input_embeddings()(input_ids)
        if pixels:  # the tower trains: its gradient has to pass through every forward
            features = flat_features(self.model.get_image_features(**pixels))
        if features is None:
            return embeds
        # In the prompt only: a policy that explores may say the placeholder's word itself.
        here = (input_ids == self.model.config.image_token_id) & asked
        return embeds.masked_scatter(here[..., None], features.to(embeds.dtype))

    def pictures(self, processor, prompts: Sequence[Prompt], rollout) -> Pictures:
        """The prompts' pictures, made ready once for every pass over this rollout.

        Features are made without a gradient: they are used where tower and connector are frozen.
        """
        if not any(prompt.images for prompt in prompts):
            return Pictures()
        if not self.by_features or self.tower_trains():
            return Pictures(pixels=self._pixels(processor, prompts))
        with torch.no_grad():
            flat = flat_features(self.model.get_image_features(**rollout.images))
        image = self.model.config.image_token_id
        counts = (rollout.prompt_ids == image).sum(1).tolist()
        return Pictures(features=list(flat.split(counts)))

    def tower_trains(self) -> bool:
        """Whether anything before the language model has a gradient (adapters in it included)."""
        return any(
            p.requires_grad and part_of(name.replace("lora_", "")) in ("vision_tower", "connector")
            for name, p in self.model.named_parameters()
        )

    def _pixels(self, processor, prompts: Sequence[Prompt]) -> list[dict]:
        device, found = self.model.device, []
        for prompt in prompts:
            batch = encode_prompts(
                processor, [render_prompt(processor, prompt.messages)], [prompt.images]
            )
            found.append({k: v.to(device) for k, v in batch.items() if k not in _NOT_IMAGES})
        return found


def can_pack(model: nn.Module) -> bool:
    """Whether a mask of our own reaches every layer: plain causal attention, not flash's."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    plain = model.config.model_type in CAUSAL and kinds == {"full_attention"}
    return plain and model.config._attn_implementation in ("sdpa", "eager")


def flat_features(found) -> Float[Tensor, "tokens width"]:
    """`get_image_features`' result, which differs by release, as one row of feature vectors."""
    found = found if isinstance(found, list | tuple | Tensor) else found.pooler_output
    return torch.cat([f.reshape(-1, f.shape[-1]) for f in found])


def stacked(parts: Sequence[dict]) -> dict:
    """Image tensors of several prompts as one batch: everything lies along the first axis."""
    names = {name for part in parts for name in part}
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
