"""Settings that cannot be are refused when they are made."""

import pytest

from labs.train.policy.config import PolicyConfig


@pytest.mark.parametrize(
    "wrong, said",
    [
        *(({name: 0}, f"{name} must be at least 1") for name in (
            "prompts_per_step", "num_generations", "max_new_tokens", "num_epochs", "sample_steps",
            "minibatch_size", "max_prompt_length", "kl_horizon",
        )),
        *(({name: 0.0}, f"{name} must be above 0") for name in (
            "temperature", "top_p", "clip", "kl_target", "target_kl", "importance_cap",
        )),
        *(({name: 1.1}, f"{name} must be between 0 and 1") for name in ("gamma", "lam", "top_p")),
        ({"algorithm": "grpo", "num_generations": 1}, "must be 2 or more"),
        ({"algorithm": "rloo", "num_generations": 1}, "must be 2 or more"),
    ],
)  # fmt: skip
def test_values_out_of_range(wrong, said):
    with pytest.raises(ValueError, match=said):
        PolicyConfig(**wrong)


def test_ppo_may_ask_once():
    assert PolicyConfig(algorithm="ppo", num_generations=1).num_generations == 1
