"""Online evaluation: what users do with two models, and how to tell it from chance.

design: how many visitors. sequential, group_sequential: looking before they are all there. cuped: the
same answer from fewer. service: a simulated service to practise on. clicks: position bias.
interleaving: two rankers in one list. guardrails: what must not get worse. shadow: the new model
answers unseen. Chapter 7.
"""

from labs.evaluation.online.clicks import (
    click_rate_by_position,
    examination_from_shuffles,
    examination_from_swaps,
    ips_relevance,
    naive_relevance,
)
from labs.evaluation.online.cuped import Adjusted, cuped
from labs.evaluation.online.design import (
    minimum_detectable_effect,
    power,
    power_mean,
    rule_of_16,
    sample_size,
    sample_size_mean,
    sample_size_paired,
)
from labs.evaluation.online.group_sequential import (
    alpha_spent,
    crossing_probabilities,
    spending_bounds,
)
from labs.evaluation.online.guardrails import (
    Arm,
    Guardrail,
    check_guardrails,
    newcombe_ci,
    quantile_difference_ci,
    sample_ratio,
)
from labs.evaluation.online.interleaving import (
    Interleaved,
    InterleavingResult,
    balanced,
    balanced_credit,
    credit,
    interleaving_test,
    team_draft,
    team_draft_many,
)
from labs.evaluation.online.sequential import (
    always_valid_p,
    confidence_sequence,
    mixture_interval,
    mixture_p,
    mixture_scale,
    naive_p,
)
from labs.evaluation.online.service import Log, Service, Variant, arm_of
from labs.evaluation.online.shadow import ForReview, ShadowReport, shadow

__all__ = [
    "Adjusted",
    "Arm",
    "ForReview",
    "Guardrail",
    "Interleaved",
    "InterleavingResult",
    "Log",
    "Service",
    "ShadowReport",
    "Variant",
    "alpha_spent",
    "always_valid_p",
    "arm_of",
    "balanced",
    "balanced_credit",
    "check_guardrails",
    "click_rate_by_position",
    "confidence_sequence",
    "credit",
    "crossing_probabilities",
    "cuped",
    "examination_from_shuffles",
    "examination_from_swaps",
    "interleaving_test",
    "ips_relevance",
    "minimum_detectable_effect",
    "mixture_interval",
    "mixture_p",
    "mixture_scale",
    "naive_p",
    "naive_relevance",
    "newcombe_ci",
    "power",
    "power_mean",
    "quantile_difference_ci",
    "rule_of_16",
    "sample_ratio",
    "sample_size",
    "sample_size_mean",
    "sample_size_paired",
    "shadow",
    "spending_bounds",
    "team_draft",
    "team_draft_many",
]
