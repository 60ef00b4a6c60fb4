"""A number for an answer: a linear head on the last hidden state of a vision-language model. Chapter 5.

    prompt, pictures, answer, padding -> backbone -> hidden [B, T, D] -> the last real token [B, D] -> w·h + b

The last real token is the only one that has seen the whole answer. Where it stands depends on the
padding side, and a head that reads position -1 under right padding rates the padding.
"""

from os import PathLike

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labs.errors import InputError


def last_token_index(attention_mask: Int[Tensor, "batch tokens"]) -> Int[Tensor, " batch"]:
    """The index of each row's last real token, under left or right padding.

        index[b] = max{t : attention_mask[b, t] != 0}

    The sum of the mask less one is the same under right padding only. Raises InputError for a row
    without any real token. (The check waits for the device; it is made where the mask lies.)

    Chapter 5.
    """
    real = attention_mask != 0
    places = torch.arange(1, real.shape[1] + 1, device=real.device)
    index = (
        F.pad(real * places, (1, 0)).amax(-1) - 1
    )  # one more column: a maximum of none is an error
    if bool((index < 0).any()):
        row = int((index < 0).nonzero()[0])
        raise InputError(
            f"Row {row} of the batch has no real token: its attention mask is all zero.",
            "Leave the row out, or give it its prompt.",
        )
    return index


class ScalarHead(nn.Module):
    """hidden [..., D] -> w·h + b [...], in float32 whatever the backbone's type is.

    The weights start small, N(0, 0.1²/D), so that first rewards (and, for a value head, first values)
    are near zero beside the margins that are learnt. The product is written out rather than called
    as a matrix product: autocast would make bfloat16 of that, and two rewards that are near each
    other equal.

    Chapter 5.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None):
        super().__init__()
        draw = torch.randn(width, generator=generator)
        self.weight = nn.Parameter(draw * (0.1 / width**0.5))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
        return (hidden.float() * self.weight).sum(-1) + self.bias

    def extra_repr(self) -> str:
        return f"width={len(self.weight)}"


def backbone(model: nn.Module) -> nn.Module:
    """The model without its head: what gives hidden states rather than logits."""
    return getattr(model, getattr(model, "base_model_prefix", "") or "model", model)


class RewardModel(nn.Module):
    """A vision-language model that rates instead of speaking.

        forward(input_ids, attention_mask, pixel_values, …) -> rewards [B], float32

    vlm: any model of `load_vlm`. Its output head is never run: [B, T, V] logits are not made.
    processor: its processor; the reward model remembers a fingerprint of the tokenizer.
    base_model: the name under which `load_vlm` finds the vlm's weights, for `load`.

    *Normalisation.* `raw` is what training sees: P(a beats b) = sigmoid(raw(a) - raw(b)). `forward`
    gives (raw - mean) / std with the two numbers of `normalise`, so that rewards have mean 0 and
    spread 1 on a set of reference answers and a KL coefficient means the same for every reward model.
    A constant shift would not move a GRPO advantage; it does move PPO's values, and the penalty for
    an answer that never ends.

    *What is shared with a policy.* Nothing by default: `RewardModel(load_vlm(name), …)` holds a trunk
    of its own. The trunk may be the policy's base with another named adapter (PEFT's `set_adapter`
    around each call), as LLaVA-RLHF does for its 13B models. Then the base weights are held once;
    the adapter and the head are the reward model's own, and so are all activations: a picture is
    encoded once for each role, since the roles' hidden states differ from the first adapted layer
    on. A policy that trains base weights (full tuning, an unfrozen connector) must not share them:
    its reward would move with it.

    Chapter 5. Bradley-Terry on pairs: Stiennon et al. 2020, arXiv:2009.01325.
    """

    def __init__(
        self,
        vlm: nn.Module,
        processor,
        base_model: str | PathLike | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.vlm, self.processor = vlm, processor
        self.base_model = None if base_model is None else str(base_model)
        self.config = vlm.config
        self.scalar_head = ScalarHead(vlm.config.get_text_config().hidden_size, generator)
        self.trained: set[str] = set()  # names of vlm's own weights that were changed
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    def hidden(self, **inputs) -> Float[Tensor, "batch width"]:
        """The backbone's state at each row's last real token, [B, D]."""
        states = backbone(self.vlm)(**inputs, use_cache=False).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            return states[:, -1]
        rows = torch.arange(len(states), device=states.device)
        return states[rows, last_token_index(mask)]

    def raw(self, **inputs) -> Float[Tensor, " batch"]:
        """Rewards on the scale of Bradley-Terry's log odds."""
        return self.scalar_head(self.hidden(**inputs))

    def scaled(self, raw: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Raw rewards on the normalised scale."""
        return (raw - self.reward_mean) / self.reward_std

    def forward(self, **inputs) -> Float[Tensor, " batch"]:
        return self.scaled(self.raw(**inputs))

    @torch.no_grad()
    def normalise(self, mean: float, std: float) -> None:
        """Give the mean and the spread of raw rewards on the reference set; InputError for std <= 0."""
        if not (0 < std < float("inf") and abs(mean) < float("inf")):
            raise InputError(
                f"Rewards with mean {mean} and spread {std} cannot be normalised.",
                "Take them from at least two answers that are rated differently.",
            )
        self.reward_mean.fill_(mean)
        self.reward_std.fill_(std)

    def check_tokenizer(self, processor) -> None:
        """InputError where `processor` (the policy's) reads or lays out text in another way."""
        from labs.models.reward_files import check_processor, text_fingerprints

        check_processor(text_fingerprints(self.processor), processor, "The reward model")

    def save(self, folder: str | PathLike) -> None:
        """Write head, adapter and what else was trained (see `labs.models.reward_files`)."""
        from labs.models.reward_files import save_reward_model

        save_reward_model(self, folder)

    @classmethod
    def load(cls, folder: str | PathLike, base: tuple | None = None) -> "RewardModel":
        """What `save` wrote, on its base model, in eval mode.

        base: (model, processor) to use, and change, in place of loading the base anew. Raises
        InputError where the folder is broken or the base is not the one it was trained on.
        """
        from labs.models.reward_files import load_reward_model

        return load_reward_model(folder, base)


class RewardEnsemble(nn.Module):
    """Several reward models, or several heads on one trunk: how sure is a reward?

        forward(**inputs) -> [members, B]

    Members that hold one and the same `vlm` object share its forward pass and differ in their heads
    only, which is cheap and underrates the doubt: what the trunk does not see, no head sees.
    Members with trunks (or adapters) of their own, trained from different seeds, cost one pass each.
    All members must read text alike (InputError).

    Coste et al. 2024, arXiv:2310.02743. Chapter 5.
    """

    def __init__(self, members: list[RewardModel]):
        super().__init__()
        if not members:
            raise InputError("An ensemble of no reward models cannot rate.", "Give at least one.")
        for member in members[1:]:
            members[0].check_tokenizer(member.processor)
        self.members = nn.ModuleList(members)
        self.processor, self.config = members[0].processor, members[0].config

    @classmethod
    def of_heads(cls, model: RewardModel, count: int, seed: int = 0) -> "RewardEnsemble":
        """`count` new heads on the trunk of `model`."""
        generator = torch.Generator().manual_seed(seed)
        made = [
            RewardModel(model.vlm, model.processor, model.base_model, generator)
            for _ in range(count)
        ]
        for member in made:
            member.trained = model.trained
        return cls(made)

    def raw(self, **inputs) -> Float[Tensor, "members batch"]:
        """Rewards before normalisation; each distinct trunk is run once."""
        hidden = {}
        for member in self.members:
            if id(member.vlm) not in hidden:
                hidden[id(member.vlm)] = member.hidden(**inputs)
        return torch.stack([m.scalar_head(hidden[id(m.vlm)]) for m in self.members])

    def forward(self, **inputs) -> Float[Tensor, "members batch"]:
        raw = self.raw(**inputs)
        return torch.stack([m.scaled(row) for m, row in zip(self.members, raw, strict=True)])

    @staticmethod
    def mean_std(
        rewards: Float[Tensor, "members batch"],
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean and spread over the members (their own spread, not an estimate: one member has 0)."""
        return rewards.mean(0), rewards.std(0, correction=0)

    @classmethod
    def pessimistic(cls, rewards: Float[Tensor, "members batch"], k: float = 1.0) -> Tensor:
        """mean - k · std: a reward on which the members disagree is worth less. [B]"""
        mean, std = cls.mean_std(rewards)
        return mean - k * std

    def check_tokenizer(self, processor) -> None:
        """As `RewardModel.check_tokenizer`."""
        self.members[0].check_tokenizer(processor)
