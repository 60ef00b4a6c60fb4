"""The loss of a batch of pairs: policy and reference on both answers, then a loss of `labs.losses`.

Chapter 6."""

import contextlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from labs.errors import InputError
from labs.losses.kto import kto_kl, kto_loss
from labs.losses.mdpo import mdpo_loss
from labs.losses.mixed import mpo_loss
from labs.losses.preference import AVERAGED, dpo_loss
from labs.losses.reference_free import orpo_loss, simpo_loss
from labs.models.parts import part_of
from labs.train.objectives import Batch, Objective, _distributed
from labs.train.policy.forward import PolicyForward, flat_features
from labs.train.policy.reference import Reference
from labs.train.policy.sequences import Sequences
from labs.train.preference.collate import IMAGES, OTHERS, images_of, rows_of
from labs.train.preference.config import VARIANTS, PreferenceConfig


class Answers(NamedTuple):
    """Each [N], of the rows of a batch: log p(answer | image, prompt), tokens, entropy a token."""

    logprobs: Float[Tensor, " rows"]
    lengths: Int[Tensor, " rows"]
    entropy: Float[Tensor, " rows"]


class PreferenceObjective(Objective):
    """A preference loss around a vision-language model. Chapter 6.

    `forward(batch, num_items)` takes a batch of `PreferenceCollator` and returns the mean loss of its
    B pairs times B / num_items, so that the micro-batches of a step add up to the loss of the whole
    (but for KTO, whose point of reference is a micro-batch's own).

    Both answers go through one forward, packed behind one prompt where the family allows it, and the
    head sees only the states that predict an answer's token. A frozen tower encodes a picture once
    for policy and reference together.

    reference: "adapter_off" begins with `keep_reference`; a second model is passed as `reference_model`, and no part of this
    module: it is not saved, trained or wrapped. "stored": the batch brings the log-probabilities.
    The reference is always in eval mode, without dropout.

    For the log (`parts`, each pair alike): rewards/chosen, rewards/rejected, rewards/margins,
    rewards/accuracies (a tie is half), logps/chosen, logps/rejected (sums, nats) and entropy (nats
    a token); with mDPO rewards/corrupted, with KTO kl. In evaluation mode they are added up in
    `eval_parts`, per pair.
    """

    unit = "pairs"

    def __init__(
        self,
        model: nn.Module,
        config: PreferenceConfig,
        reference_model: nn.Module | None = None,
    ):
        super().__init__(model)
        self.config = config
        self.policy = PolicyForward(model, shared_prefix=config.shared_prefix)
        self.reference: Reference | None = None
        self._same_pictures = True
        # In a list, so that it is no child: `parameters()` would hand it to optimizer and DDP.
        self._second: list[PolicyForward] = []
        if config.needs_reference and config.reference == "model":
            if reference_model is None:
                raise InputError(
                    "reference: model needs a second model, and none was given.",
                    "Pass reference_model=, or use adapter_off.",
                )
            check_vocabulary(model, reference_model)
            reference_model.eval().requires_grad_(False)
            self._second.append(PolicyForward(reference_model))
        self.eval_parts: dict[str, Tensor] = {}
        self.eval_pairs = 0

    def keep_reference(self, names: set[str], peft_model: nn.Module | None = None) -> None:
        """The reference is the model as it is now. names: the parameters that will ever train."""
        self.reference = Reference(self.model, names, peft_model)
        self._same_pictures = not any(
            part_of(name.replace("lora_", "")) in ("vision_tower", "connector") for name in names
        )

    def count(self, batch: Batch) -> int:
        return len(batch["index"])

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        pairs = len(batch["index"])
        # The reference first: it changes places with live weights, which a graph must not see.
        shared = self._features(batch)
        reference = self.reference_answers(batch, shared)
        others = None
        if self.config.method == "kto":
            others = self._others(batch, shared)
        policy = self.answers(batch, shared)
        loss, logged = self._loss(policy, reference, others, pairs)
        self._keep(logged, pairs, num_items)
        if _distributed() and not any(k.startswith(IMAGES) for k in batch):
            # A batch of text gives tower and connector no gradient, and DDP would wait for it.
            loss = loss + 0.0 * sum(p.sum() for p in self.model.parameters() if p.requires_grad)
        return loss * (pairs / num_items)

    # log-probabilities

    def answers(self, batch: Batch, features: list[Tensor] | None = None) -> Answers:
        """The policy's on all rows of a batch. features: of each prompt, if they are made already."""
        return _answers(self.policy, batch, rows_of(batch), features)

    @torch.no_grad()
    def reference_answers(
        self, batch: Batch, features: list[Tensor] | None = None, prefix: str = ""
    ) -> Tensor | None:
        """log p_ref [N] of the rows of a batch; None for a method without a reference."""
        if not self.config.needs_reference:
            return None
        if self.config.reference == "stored":
            if "reference" not in batch:
                raise InputError(
                    "reference: stored, but the pairs come without log-probabilities.",
                    "Compute them with labs.train.preference.stored, and pass them.",
                )
            return batch["reference"]
        rows = rows_of(batch, prefix)
        if self._second:
            second = self._second[0]
            if second.model.device != rows.ids.device:
                second.model.to(rows.ids.device)
            return _answers(second, batch, rows, None).logprobs
        if self.reference is None:
            raise InputError(
                "reference: adapter_off, but the objective has no Reference.",
                "Call keep_reference before training; train_preference does.",
            )
        if not self._same_pictures:  # a schedule may have trained them and stopped
            features = None
        with self.reference(), evaluating(self.model):
            return _answers(self.policy, batch, rows, features).logprobs

    def _features(self, batch: Batch) -> list[Tensor] | None:
        """Image features of each prompt, for policy and reference, where no gradient needs them."""
        policy = self.policy
        if not policy.packs or not policy.by_features or policy.tower_trains():
            return None
        rows = rows_of(batch)
        prompts = int(rows.prompt.max()) + 1
        pixels = images_of(batch, range(prompts))
        if not pixels:
            return None
        with torch.no_grad(), evaluating(self.model):
            flat = flat_features(self.model.get_image_features(**pixels))
        placeholders = (rows.input_ids == self.model.config.image_token_id) & rows.asked
        counts = dict(zip(rows.prompt.tolist(), placeholders.sum(1).tolist(), strict=True))
        return list(flat.split([counts[number] for number in range(prompts)]))

    @torch.no_grad()
    def _others(self, batch: Batch, features: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        """KTO's (policy, reference) log-probabilities of answers to other prompts."""
        reference = self.reference_answers(batch, features, OTHERS)
        return _answers(self.policy, batch, rows_of(batch, OTHERS), features).logprobs, reference

    # the loss

    def _loss(self, policy: Answers, reference, others, pairs: int) -> tuple[Tensor, dict]:
        config, beta = self.config, self.config.used_beta
        method, extra = config.method, {}
        chosen, rejected, *corrupted = policy.logprobs.split(pairs)
        tokens = policy.lengths.split(pairs)
        if method in ("simpo", "orpo"):
            averages = chosen / tokens[0], rejected / tokens[1]
            if method == "simpo":
                found = simpo_loss(*averages, beta, config.used_gamma)
            else:
                found = orpo_loss(*averages, beta)
        elif method == "kto":
            kl = kto_kl(*others)
            good = torch.arange(2 * pairs, device=chosen.device) < pairs
            found = kto_loss(policy.logprobs, reference, good, kl, beta, *config.used_weights)
            extra["kl"] = kl.expand(pairs)
        else:
            known = reference.split(pairs)
            if method == "mdpo":
                found = mdpo_loss(
                    chosen, rejected, corrupted[0], *known, beta, anchor=config.used_gamma
                )
                extra["rewards/corrupted"] = found.corrupted_rewards
            elif method == "mpo":
                # Each answer alike, as in ORPO: micro-batches add up. TRL: each token alike.
                sft = -(chosen / tokens[0]).mean()
                found = mpo_loss(chosen, rejected, *known, sft, beta, *config.used_weights)
            else:
                variant = VARIANTS[method]
                lengths = tokens[:2] if variant in AVERAGED else (None, None)
                found = dpo_loss(
                    chosen, rejected, *known, beta, variant, config.label_smoothing, *lengths
                )
        margins = found.chosen_rewards - found.rejected_rewards
        logged = {
            "rewards/chosen": found.chosen_rewards,
            "rewards/rejected": found.rejected_rewards,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float() + 0.5 * (margins == 0).float(),
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
            "entropy": sum(policy.entropy.split(pairs)[:2]) / 2,
        }
        return found.loss, logged | extra

    def _keep(self, logged: dict[str, Tensor], pairs: int, num_items: int) -> None:
        if self.training:
            for name, values in logged.items():
                self.parts[name] = self.parts.get(name, 0) + values.sum() / num_items
            return
        self.eval_pairs += pairs
        for name, values in logged.items():
            self.eval_parts[name] = self.eval_parts.get(name, 0) + values.sum()


def _answers(
    forward: PolicyForward, batch: Batch, rows: Sequences, features: list[Tensor] | None
) -> Answers:
    """Rows through a model. features: one tensor a prompt, in place of the batch's pixels."""
    wanted = rows.prompt.tolist()
    if forward.packs:
        wanted = list(dict.fromkeys(wanted))
    if features is not None:
        out = forward(rows, features=torch.cat([features[number] for number in wanted]))
    else:
        out = forward(rows, **images_of(batch, wanted))
    lengths = rows.mask.sum(1)
    entropy = (out.entropy * rows.mask).sum(1) / lengths
    return Answers((out.logprobs * rows.mask).sum(1), lengths, entropy)


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Within it the model is in eval mode, and afterwards each of its modules as it was."""
    trains = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trains:
            module.training = True


def check_vocabulary(model: nn.Module, reference: nn.Module) -> None:
    """Raise InputError where the two models do not number the same tokens."""
    ours, theirs = (
        m.get_output_embeddings().weight.shape[0] for m in (model, reference)
    )  # fmt: skip
    kinds = [getattr(m.config, "image_token_id", None) for m in (model, reference)]
    if ours != theirs or kinds[0] != kinds[1]:
        raise InputError(
            f"The reference reads another vocabulary: {theirs:,} tokens with the image's at "
            f"{kinds[1]}, the policy {ours:,} with it at {kinds[0]}.",
            "Take the reference that the policy began as; their tokenizers have to be one.",
        )
