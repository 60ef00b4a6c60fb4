"""PreferenceConfig: what preference optimisation adds to TrainConfig. Chapter 6."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from labs.settings import fill

# Method -> variant of `labs.losses.preference.dpo_loss`.
VARIANTS = {
    "dpo": "sigmoid", "cdpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "robust": "robust",
    "bco_pair": "bco_pair", "sigmoid_norm": "sigmoid_norm",
}  # fmt: skip
SMOOTHED = ("cdpo", "robust")
REFERENCE_FREE = ("simpo", "orpo")
# Those that average over an answer's tokens want more: see `dpo_loss` and `simpo_loss`.
BETAS = {"simpo": 2.0, "sigmoid_norm": 5.0}
GAMMAS = {"simpo": 1.0, "mdpo": 0.0}
WEIGHTS = {"kto": (1.0, 1.0), "mpo": (0.8, 0.2, 1.0)}


@dataclass
class PreferenceConfig:
    """Which loss, against which reference, and what of a pair is computed once.

    method: a loss of `labs.losses`. "dpo" is plain; "cdpo" is it with `label_smoothing`.
    beta: None is 0.1; 2 for "simpo", 5 for "sigmoid_norm" (both average over tokens).
    label_smoothing: the share of wrong labels, above 0 for "cdpo" and "robust", which alone have it.
    gamma: SimPO's lead (None: 1), or mDPO's anchor (None: 0).
    weights: MPO's of DPO, BCO and SFT (None: 0.8, 0.2, 1; 1, 0, w is DPO with an SFT term), or
    KTO's of good and bad answers (None: 1, 1).
    reference: "adapter_off", the model as the run found it, by switching the adapter off (what trains
    without an adapter is copied); "model", a second model; "stored", log-probabilities computed
    once (`labs.train.preference.stored`); "none", for SimPO and ORPO, which never use one.
    shared_prefix: one row a pair, so that its prompt and picture are read once. None: where the
    family allows it. The loss is the same either way.
    max_length: tokens of prompt and answer; what is longer loses the end of its answer.
    """

    method: Literal[
        "dpo", "ipo", "hinge", "robust", "cdpo", "bco_pair", "sigmoid_norm", "kto", "simpo", "orpo",
        "mdpo", "mpo",
    ] = "dpo"  # fmt: skip
    beta: float | None = None
    label_smoothing: float = 0.0
    gamma: float | None = None
    weights: tuple[float, ...] | None = None
    reference: Literal["adapter_off", "model", "stored", "none"] = "adapter_off"
    shared_prefix: bool | None = None
    max_length: int | None = None

    def __post_init__(self):
        self._check_numbers()
        if self.reference == "none" and self.needs_reference:
            raise ValueError(f"{self.method} needs a reference; simpo and orpo do without one")
        if self.method == "kto" and self.reference == "stored":
            raise ValueError(
                "kto compares with answers to other prompts, drawn anew each step: they cannot be "
                "stored; use adapter_off or model"
            )

    def _check_numbers(self):
        if _number(self.beta) and not (self.beta > 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta must be above 0, not {self.beta}")
        if _number(self.label_smoothing):
            if not 0 <= self.label_smoothing < 0.5:
                raise ValueError("label_smoothing must be at least 0 and below 0.5")
            if bool(self.label_smoothing) != (self.method in SMOOTHED):
                raise ValueError(
                    "label_smoothing goes with cdpo and robust, above 0, and with no other method"
                )
        if self.gamma is not None and self.method not in GAMMAS:
            raise ValueError(f"{self.method} has no gamma; simpo and mdpo have")
        if self.method == "simpo" and _number(self.gamma) and not self.gamma >= 0:
            raise ValueError("gamma must be at least 0")
        if self.weights is not None:
            wanted = len(WEIGHTS.get(self.method, ()))
            if len(self.weights) != wanted:
                raise ValueError(f"{self.method} takes {wanted} weights, not {len(self.weights)}")
            least = min(self.weights)
            if not least >= 0 or not any(self.weights) or (self.method == "kto" and not least > 0):
                raise ValueError("weights must be at least 0, not all 0, and KTO's above 0")
        if isinstance(self.max_length, int) and self.max_length < 1:
            raise ValueError("max_length must be at least 1")

    @property
    def needs_reference(self) -> bool:
        return self.method not in REFERENCE_FREE

    @property
    def used_beta(self) -> float:
        return BETAS.get(self.method, 0.1) if self.beta is None else self.beta

    @property
    def used_gamma(self) -> float:
        return GAMMAS[self.method] if self.gamma is None else self.gamma

    @property
    def used_weights(self) -> tuple[float, ...]:
        return WEIGHTS[self.method] if self.weights is None else tuple(self.weights)

    def checked(self) -> "PreferenceConfig":
        """This configuration with its types checked too; InputError where one is wrong."""
        return fill(PreferenceConfig, asdict(self), "PreferenceConfig")


def _number(value) -> bool:
    return isinstance(value, int | float)  # a wrong type is found, and named, by `checked`
