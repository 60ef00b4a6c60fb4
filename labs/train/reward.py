"""Preference pairs as batches, and the loss of a reward model on them. Chapter 5."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data import Collator
from labs.data.collate import PER_TOKEN
from labs.data.encode import encode
from labs.data.labels import IGNORE
from labs.data.skips import REASONS, Skip
from labs.errors import InputError
from labs.formats import Conversation, Preference
from labs.losses.reward import reward_loss
from labs.models.scalar_head import RewardEnsemble, RewardModel
from labs.train.facts import add_facts, facts_of
from labs.train.objectives import Batch, Objective

PAIR_REASONS = REASONS | {"no_difference": "two answers that are the same tokens"}


def encode_rated(
    conversation: Conversation,
    processor,
    max_length: int | None = None,
    facts: str | None = None,
    finished: bool = True,
) -> dict:
    """A conversation whose last answer is to be rated, as `labs.data.encode` makes it, and cut.

    It ends with the token that ends the answer, the last one that a policy says: whatever the
    template writes behind it (ChatML's line break) no rollout holds. `finished=False`: an answer
    that stopped for want of room ends without that token. Longer than `max_length`: its end is cut.

    Raises Skip("no_label") if the cut leaves nothing of the answer, InputError for a bad image.
    """
    if facts is not None:
        turns = add_facts(conversation.turns, facts)
        conversation = dataclasses.replace(conversation, turns=turns)
    made = encode(conversation, processor, max_length, "truncate")
    end = int((made["labels"] != IGNORE).nonzero()[-1]) + 1
    tokenizer = getattr(processor, "tokenizer", processor)
    if not finished and int(made["input_ids"][end - 1]) in _end_tokens(tokenizer):
        end -= 1
    per_token = {name: made[name][:end] for name in PER_TOKEN if name in made}
    return made | per_token


def _end_tokens(tokenizer) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {number for number, token in added.items() if token.special} | set(
        tokenizer.all_special_ids
    )


def encode_pair(
    pair: Preference, processor, max_length: int | None = None, facts: bool = False
) -> dict:
    """Both answers of a pair, encoded: {"chosen", "rejected", "margin"}.

    facts: put `facts_of(pair.meta)` before the question, in both. margin: `pair.meta["margin"]`, how
    much better the chosen answer is (1 where the pair does not say); the loss scales it.

    Raises Skip("no_difference") for a pair that is the same tokens, as it is or once cut to
    `max_length`: its loss is log 2 whatever is learnt. Skip("no_label") where the prompt alone
    fills `max_length`. InputError for a missing image or missing facts.
    """
    told = facts_of(pair.meta, f"Pair {pair.id}") if facts else None
    chosen, rejected = (
        encode_rated(pair.to_conversation(side), processor, max_length, told)
        for side in (True, False)
    )
    if torch.equal(chosen["input_ids"], rejected["input_ids"]):
        cut = "" if pair.tied else f" within max_length = {max_length}"
        raise Skip("no_difference", f"Pair {pair.id}: both answers are the same{cut}.")
    return {"chosen": chosen, "rejected": rejected, "margin": float(pair.meta.get("margin", 1.0))}


class RewardPairDataset(Dataset):
    """A map-style data set of encoded pairs; each is encoded when asked for.

    A pair that cannot be used is counted in `skipped`, by reason, and the next usable one takes its
    place. `check()`, which the training loop calls, raises InputError once more than `limit` of at
    least 100 pairs seen were skipped. `keep=True` holds what was encoded, pixels too: for small
    pictures.
    """

    def __init__(
        self,
        pairs: Sequence[Preference],
        processor,
        max_length: int | None = None,
        facts: bool = False,
        limit: float = 0.01,
        keep: bool = False,
    ):
        self.pairs = list(pairs)
        if not self.pairs:
            raise InputError("There are no preference pairs.", "Check the path and the selection.")
        self.processor, self.max_length, self.facts = processor, max_length, facts
        self.limit = limit
        self.kept: dict[int, dict] | None = {} if keep else None
        # One cell a pair, shared with a DataLoader's workers: 0 not seen, 1 usable, else a reason.
        self.state = torch.zeros(len(self.pairs), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            at = (index + step) % len(self)
            if self.state[at] > 1:
                continue
            if self.kept is not None and at in self.kept:
                return self.kept[at]
            try:
                made = encode_pair(self.pairs[at], self.processor, self.max_length, self.facts)
            except Skip as skip:
                self.state[at] = 2 + list(PAIR_REASONS).index(skip.reason)
                continue
            self.state[at] = 1
            if self.kept is not None:
                self.kept[at] = made
            return made
        raise InputError(
            f"None of the {len(self)} pairs can be used: {self.skipped}.",
            "Raise max_length, or look at how the pairs were made.",
        )

    @property
    def skipped(self) -> dict[str, int]:
        """Pairs skipped so far, by reason."""
        counts = torch.bincount(self.state.long(), minlength=2 + len(PAIR_REASONS)).tolist()[2:]
        return {r: n for r, n in zip(PAIR_REASONS, counts, strict=True) if n}

    def check(self) -> None:
        """Raise InputError if too many of the pairs seen were skipped."""
        seen, skipped = int((self.state > 0).sum()), int((self.state > 1).sum())
        if seen >= 100 and skipped > self.limit * seen:
            reasons = "; ".join(f"{n} with {PAIR_REASONS[r]}" for r, n in self.skipped.items())
            raise InputError(
                f"{skipped} of {seen} pairs cannot be used ({reasons}); the limit is "
                f"{100 * self.limit:g} %.",
                "Raise max_length, or drop equal pairs where they are made.",
            )


class RewardCollator:
    """Encoded pairs to one batch: rows 0..B-1 are the chosen answers, rows B..2B-1 the rejected.

    input_ids, attention_mask [2B, T]; the images of each row, in the order of the rows; margins [B].
    """

    def __init__(self, processor, padding_side: str = "right"):
        self.collate = Collator(processor, padding_side)

    def __call__(self, pairs: Sequence[dict]) -> Batch:
        rows = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        batch = self.collate(rows)
        del batch["labels"]
        return batch | {"margins": torch.tensor([pair["margin"] for pair in pairs])}


class RewardObjective(Objective):
    """Bradley-Terry's loss on pairs, after the answer's last token. Chapter 5.

        L = mean_i -log sigmoid(r(x_i, chosen_i) - r(x_i, rejected_i) - margin · m_i)
            + centring · mean_i (r(x_i, chosen_i) + r(x_i, rejected_i))²

    r is the reward before normalisation. m_i is the pair's own strength (1 where it has none), as in
    Llama 2's margin (arXiv:2307.09288, equation 2); centring keeps rewards near zero, which
    differences alone do not (Eisenstein et al. 2023, arXiv:2312.09244; TRL's
    center_rewards_coefficient). With an ensemble it is the mean of the members' losses.

    In evaluation mode the rewards' differences are kept in `differences`, for the accuracy.
    """

    unit = "pairs"

    def __init__(
        self, model: RewardModel | RewardEnsemble, margin: float = 0.0, centring: float = 0.0
    ):
        super().__init__(model)
        self.margin, self.centring = margin, centring
        self.differences: list[Tensor] = []

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["input_ids"]) // 2

    def forward(self, batch: Batch, num_items: int) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k != "margins"}
        rewards = self.model.raw(**inputs)
        members = rewards if rewards.ndim == 2 else rewards[None]
        pairs = members.shape[1] // 2
        margin = self.margin * batch["margins"] if self.margin else None
        losses = [reward_loss(r[:pairs], r[pairs:], margin, self.centring) for r in members]
        if not self.training:
            mean = members.detach().mean(0)
            self.differences.append(mean[:pairs] - mean[pairs:])
        return torch.stack(losses).mean() * (pairs / num_items)
