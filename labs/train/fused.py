"""The objective of the stage `fused`: contrastive, matching and generation loss together. Chapter 1.

contrastive   InfoNCE of all ranks' pairs, each modality by itself
matching      3B pairs for the fused encoder: the B true ones, and for each picture and each text
              one wrong partner, drawn where the contrastive similarities find it right
generation    the caption's next tokens, given the picture

loss = contrastive + matching + generation, weights one, as in BLIP (arXiv:2201.12086)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.errors import InputError
from labs.losses import (
    IGNORE,
    gathered_info_nce,
    generation_loss,
    hard_negatives,
    itm_loss,
)
from labs.losses.contrastive_gather import default_group
from labs.train.objectives import Batch, Objective


class FusedLosses(NamedTuple):
    """The three parts, each a mean: over pairs, over pairs asked about, over tokens."""

    contrastive: Tensor
    matching: Tensor
    generation: Tensor


class FusedObjective(Objective):
    """`labs.models.fused.FusedModel` on image-text pairs.

    Over ranks, contrastive and generation loss are those of the joined batch; wrong partners are
    drawn among a rank's own pairs, as in BLIP's pre-training. As with every contrastive loss,
    micro-batches do not see one another: accumulation is not the large batch.
    """

    unit = "pairs"
    even = True  # features are gathered over ranks

    def count(self, batch: Batch) -> int:
        pairs = len(batch["input_ids"])
        if pairs < 2:
            raise InputError(
                "A batch of one pair has no wrong partner to match.",
                "Use a batch size of two or more that leaves no single pair over.",
            )
        if len(batch["pixel_values"]) != pairs:
            raise InputError(
                f"A batch has {len(batch['pixel_values'])} images and {pairs} texts.",
                "Give one text an image.",
            )
        return pairs

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        losses = self.losses(batch)
        share = len(batch["input_ids"]) / num_items
        if self.training:  # for the log: what each part adds to the step's loss
            for name, loss in losses._asdict().items():
                self.parts[name] = self.parts.get(name, 0) + loss.detach() * share
        return sum(losses) * share

    def losses(self, batch: Batch) -> FusedLosses:
        """The three parts of this batch; the wrong partners are the same each time in evaluation."""
        model, ids, mask = self.model, batch["input_ids"], batch["attention_mask"]
        image = model.get_image_features(batch["pixel_values"])
        text = model.get_text_features(ids, mask).pooler_output.float()
        picture, states = image.pooler_output.float(), image.last_hidden_state
        temperature = (-model.logit_scale.float()).exp()
        with torch.no_grad():
            cosines = F.normalize(picture, dim=-1) @ F.normalize(text, dim=-1).T
        return FusedLosses(
            contrastive=gathered_info_nce(picture, text, temperature),
            matching=self._matching(ids, mask, states, cosines / temperature),
            generation=self._generation(ids, mask, states),
        )

    def _matching(self, ids: Tensor, mask: Tensor, states: Tensor, similarity: Tensor) -> Tensor:
        generator = None
        if not self.training:
            generator = torch.Generator(similarity.device).manual_seed(0)
        wrong_text = hard_negatives(similarity, generator)  # for each picture
        wrong_image = hard_negatives(similarity.T, generator)  # for each text
        own = torch.arange(len(ids), device=ids.device)
        texts, images = torch.cat([own, wrong_text, own]), torch.cat([own, own, wrong_image])
        logits = self.model.match(ids[texts], mask[texts], states[images])
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: len(ids)] = 1
        return itm_loss(logits, labels)

    def _generation(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        logits = self.model.caption_logits(ids, mask, states)
        # [DEC] is given and never predicted; generation_loss leaves the first label out anyway.
        labels = F.pad(ids.masked_fill(mask == 0, IGNORE), (1, 0), value=IGNORE)
        tokens = mask.sum().float()
        if (group := default_group()) is not None:
            # The mean over the tokens of all ranks, of which this rank's are not quite its share.
            torch.distributed.all_reduce(tokens, group=group)
            tokens = tokens / torch.distributed.get_world_size(group)
        return generation_loss(logits, labels, num_items=tokens)
