"""What a step minimises. An objective is a module around the model whose forward *is* the loss.

Wrapped so, the whole of loss computation passes through one forward: DistributedDataParallel sees
it, autocast covers it, and the loop needs to know nothing of images, tokens or pairs.
"""

import torch
from torch import Tensor, nn

from labs.errors import InputError
from labs.losses import (
    IGNORE,
    gather_features,
    generation_loss,
    info_nce,
    linear_generation_loss,
    siglip_loss,
)

Batch = dict[str, Tensor]

# Decoders whose attention looks back only: what stands behind a token cannot change it.
CAUSAL = {"llava", "qwen2", "qwen3", "llama", "mistral"}


class Objective(nn.Module):
    """`forward(batch, num_items)` is this micro-batch's share of the step's mean loss.

    `num_items` counts the items (tokens with a label, pairs) of *all* micro-batches on all ranks, so
    that the sum of the shares is the loss of the large batch, however unequal the parts.
    """

    unit = "items"
    even = False  # whether all ranks need batches of one size

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.parts: dict[str, Tensor] = {}  # shares of named parts of the loss, for the log

    def prepare(self, batch: Batch) -> Batch:
        """Last changes on the CPU, before the batch goes to the device."""
        return batch

    def count(self, batch: Batch) -> int:
        """Items in this micro-batch that carry loss (counted on the CPU: no device is waited for)."""
        raise NotImplementedError

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        raise NotImplementedError


class GenerationObjective(Objective):
    """Next-token loss of a Transformers language or vision-language model. Chapter 3.

    `loss="chunked"` takes the last hidden states and the head's weight and never holds the logits
    [B, T, V]; `"plain"` runs the model's own head. Same numbers. A head that does more than a matrix
    product (soft-capped or scaled logits) is always run plainly.
    """

    unit = "tokens"

    def __init__(self, model: nn.Module, loss: str = "chunked"):
        super().__init__(model)
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        odd = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
        plain_head = type(head) is nn.Linear and not any(getattr(config, o, None) for o in odd)
        self.chunked = loss == "chunked" and plain_head and _backbone(model) is not model
        self.causal = model.config.model_type in CAUSAL
        self.regulariser: nn.Module | None = None  # AdaLoRA's, set by labs.train.methods

    def prepare(self, batch: Batch) -> Batch:
        """Drop an attention mask that masks nothing that matters.

        With padding on the right only, causal attention never looks from a real token to a padded
        one, and padded ones carry no loss: without a mask the numbers are the same, no [B, 1, T, T]
        mask is built, and attention takes its fast causal kernel.
        """
        mask = batch.get("attention_mask")
        if self.causal and mask is not None and mask.ndim == 2:
            mask = mask.to(torch.int8)
            if bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool(mask[:, 0].all()):
                batch = {k: v for k, v in batch.items() if k != "attention_mask"}
        return batch

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted: a label in the first column never is."""
        return int((batch["labels"][:, 1:] != IGNORE).sum())

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        if self.chunked:
            hidden = _backbone(self.model)(**inputs, use_cache=False).last_hidden_state
            head = self.model.get_output_embeddings()
            loss = linear_generation_loss(
                hidden, head.weight, batch["labels"], num_items=num_items, bias=head.bias
            )
        else:
            logits = self.model(**inputs, use_cache=False).logits
            loss = generation_loss(logits, batch["labels"], num_items=num_items)
        if self.regulariser is not None and self.training:
            loss = loss + self.regulariser(self.model) * (self.count_share(batch) / num_items)
        if "pixel_values" not in batch and _distributed():
            # A batch of text gives tower and connector no gradient, and DDP would wait for it.
            loss = loss + 0.0 * sum(
                p.sum() for p in self.model.parameters() if p.requires_grad and p.is_leaf
            )
        return loss

    def count_share(self, batch: Batch) -> Tensor:
        """Labelled tokens of this micro-batch, on the device."""
        return (batch["labels"][:, 1:] != IGNORE).sum()


def _backbone(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return getattr(model, getattr(model, "base_model_prefix", "") or "model", model)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class ContrastiveObjective(Objective):
    """InfoNCE (CLIP) or the sigmoid loss (SigLIP) on a dual encoder. Chapter 1.

    Every rank sees the pairs of all ranks as negatives. Micro-batches do not see one another:
    accumulation averages the losses of small batches and is *not* the large batch, since the
    number of negatives is part of this loss.
    """

    unit = "pairs"
    even = True  # features are gathered over ranks

    def __init__(self, model: nn.Module, loss: str = "info_nce"):
        super().__init__(model)
        self.loss = loss
        if loss == "siglip" and getattr(model, "logit_bias", None) is None:
            # SigLIP starts at bias -10 (arXiv:2303.15343): nearly all pairs are negatives.
            self.model.register_parameter("logit_bias", nn.Parameter(torch.tensor([-10.0])))

    def count(self, batch: Batch) -> int:
        return len(batch["input_ids"])

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        outputs = self.model(**batch)
        image, text = (gather_features(x) for x in (outputs.image_embeds, outputs.text_embeds))
        if len(image) != len(text):
            raise InputError(
                f"A batch has {len(image)} images and {len(text)} texts.", "Give one text an image."
            )
        scale = self.model.logit_scale.float().exp().reshape(())
        if self.loss == "siglip":
            bias = self.model.logit_bias.float().reshape(())
            loss = siglip_loss(image.float(), text.float(), scale, bias)
        else:
            loss = info_nce(image.float(), text.float(), 1 / scale)
        # The loss of all ranks' pairs stands on every rank: each counts for its own pairs.
        return loss * (len(batch["input_ids"]) / num_items)
