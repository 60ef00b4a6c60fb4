"""A policy run whole: it learns, tells of all answers, and stops where it should."""

import pytest
import torch
from train_helpers import weights

from labs.errors import InputError
from labs.models import build_tiny_llava, load_vlm
from labs.shapes import Mix
from labs.train.config import LoraSettings, Unfreeze
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards import WorldReward
from labs.train.policy.trainer import PolicyTrainer
from labs.train.policy.world import WorldPrompts
from tests.train.policy.policy_runs import prompts, settings, trainer, unclocked, vowels


def equal(model, saved) -> bool:
    return all(torch.equal(p, saved[n]) for n, p in model.named_parameters())


def flat(prompts, completions):
    return [1.0] * len(completions)


# it learns


def test_a_few_steps_of_grpo_raise_the_reward():
    """tiny-sft says yes too often. Sixteen questions, asked again and again."""
    mix = Mix(tasks={"existence": 1.0}, digits=0.0, chinese=0.0, adversarial=1.0)
    run = trainer(
        settings(prompts_per_step=16, num_generations=6, max_new_tokens=4, kl_coef=0.02),
        reward=WorldReward(), asked=WorldPrompts(16, mix, seed=3), start=load_vlm("tiny-sft"),
        lora=LoraSettings(r=8, alpha=16), max_steps=7, learning_rate=2e-3,
    )  # fmt: skip
    rewards = [entry["reward"] for entry in run.train().history]
    assert rewards[-1] > rewards[0] + 0.2 and sum(rewards[-3:]) > sum(rewards[:3]) + 0.3


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_the_others_learn_too(algorithm):
    policy = settings(
        algorithm=algorithm, prompts_per_step=6, num_generations=10, max_new_tokens=3,
        kl_coef=0.02, kl_kind="k1", kl_in="reward", num_epochs=3,
    )  # fmt: skip
    run = trainer(policy, asked=prompts(6), max_steps=8, learning_rate=1e-2)
    rewards = [entry["reward"] for entry in run.train().history]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.15


# what a step tells


@pytest.mark.parametrize(
    "policy, config",
    [
        ({}, {}),
        ({"num_epochs": 2, "minibatch_size": 5}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {"lora": LoraSettings(dropout=0.5)}),
        ({"algorithm": "ppo", "kl_in": "reward"}, {"method": "full"}),
        ({}, {"method": "full", "trainable": {"vision_tower": "all"}}),
        ({"shared_prefix": False}, {"lora": LoraSettings(implementation="peft", dropout=0.5)}),
    ],
    ids=["plain", "minibatches", "tempered, dropout", "ppo, full", "tower", "peft"],
)
def test_what_samples_is_what_trains(policy, config):
    """Their log-probabilities agree, in every step: no dropout, no stale weights, no stale features."""
    run = trainer(settings(**policy), **config)
    modes = []

    def reward(asked, completions):
        modes.append(any(m.training for m in run.model.modules()))
        return vowels(asked, completions)

    run.reward.rewards["vowels"] = (reward, 1.0)
    before = weights(run.model)
    history = run.train().history
    assert all(entry["mismatch"] < 1e-4 for entry in history)
    assert not any(modes) and not any(m.training for m in run.model.modules())
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= set(run.names)
    assert any("vision_tower" in n for n in moved) == (config.get("trainable") is not None)
    entry = history[-1]
    assert entry["updates"] == (6 if "minibatch_size" in policy else 1)
    assert entry["kl"] != 0 and entry["response_length"] > 1
    assert ("value_loss" in entry) == (policy.get("algorithm") == "ppo")


def test_an_entry_tells_of_all_answers():
    seen = []

    def reward(asked, completions):
        seen.extend(zip(asked, completions, strict=True))
        return vowels(asked, completions)

    def watch(asked, completions):
        return {"asked": len(asked), "letters": sum(len(c.text) for c in completions)}

    told = []
    run = trainer(
        settings(prompts_per_step=6), reward=reward, asked=prompts(6), max_steps=1, watch=watch
    )
    run.on_log = told.append
    [entry] = run.train().history
    assert told == [entry] and len(seen) == entry["asked"] == 18
    values = vowels(None, [c for _, c in seen])
    assert entry["reward"] == pytest.approx(sum(values) / 18)
    assert entry["reward_std"] == pytest.approx(torch.tensor(values).std(correction=0).item())
    assert entry["rewards/reward"] == entry["reward"]
    assert entry["letters"] == sum(len(c.text) for _, c in seen)
    assert entry["response_length"] == sum(c.tokens for _, c in seen) / 18
    assert entry["finished"] == sum(c.finished for _, c in seen) / 18
    groups = [values[i : i + 3] for i in range(0, 18, 3)]
    assert entry["no_signal"] == sum(len(set(g)) == 1 for g in groups) / 6
    for images in (0, 1, 2):
        mine = [v for v, (p, _) in zip(values, seen, strict=True) if len(p.images) == images]
        assert entry[f"task/images {images}"] == pytest.approx(sum(mine) / len(mine))


def test_every_step_samples_anew_and_the_seed_decides():
    """The same prompts, weights that hardly move: each step says something else, each run the same."""

    def answers(seed):
        said = []

        def reward(asked, completions):
            said.append(sorted(f"{p.id} {c.text}" for p, c in zip(asked, completions, strict=True)))
            return flat(asked, completions)

        trainer(
            reward=reward, asked=prompts(4), seed=seed, shuffle=False, learning_rate=1e-12
        ).train()
        return said

    first = answers(0)
    assert first == answers(0)
    assert len({tuple(step) for step in first + answers(1)}) == 6


# rewards that are no rewards


def test_a_reward_that_raises_is_named():
    def broken(asked, completions):
        raise ZeroDivisionError("by nothing")

    with pytest.raises(InputError, match=r"'broken' raised ZeroDivisionError.*by nothing"):
        trainer(reward=broken).train()


def test_a_reward_with_the_wrong_number_is_named():
    with pytest.raises(InputError, match=r"'short' returned 11 scores for 12 completions"):

        def short(asked, completions):
            return vowels(asked, completions)[1:]

        trainer(reward=short).train()


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_only_nothing_is_an_error(nothing):
    run = trainer(reward=lambda asked, completions: [nothing] * len(completions))
    before = weights(run.model)
    with pytest.raises(InputError, match="No answer of step 1 got a reward"):
        run.train()
    assert equal(run.model, before)


@pytest.mark.parametrize("algorithm, kept", [("ppo", 11), ("grpo", 9), ("rloo", 9)])
def test_a_nan_costs_its_answer_or_its_group(algorithm, kept):
    """And is counted. What is left out has no part in the update, whatever stands there."""

    def holed(asked, completions):
        return [float("nan"), *vowels(asked, completions)[1:]]

    run = trainer(settings(algorithm=algorithm, kl_in="reward"), reward=holed, max_steps=1)
    made = []
    original = run._experience

    def keep(*given):
        made.append(original(*given))
        return made[-1]

    run._experience = keep
    [entry] = run.train().history
    [(experience, numbers)] = made
    assert numbers.tolist() == list(range(12 - kept, 12)) and len(experience.rows) == kept
    assert entry["skipped/not finite from holed"] == 1
    assert torch.isfinite(torch.tensor(entry["loss"])) and entry["grad_norm"] > 0


def test_equal_rewards_teach_nothing():
    for algorithm in ("grpo", "rloo"):
        run = trainer(settings(algorithm=algorithm, kl_coef=0.0), reward=flat, weight_decay=0.0)
        before = weights(run.model)
        history = run.train().history
        assert equal(run.model, before), algorithm
        assert all(e["no_signal"] == 1 and e["grad_norm"] == 0 for e in history)
    # A KL in the loss still draws to the reference, and the policy is already there.
    [entry] = trainer(settings(kl_coef=1.0), reward=flat, max_steps=1).train().history
    assert entry["policy_loss"] == 0 and entry["grad_norm"] < 1e-4


def test_groups_without_a_signal_can_be_left_out():
    def half(asked, completions):
        values = vowels(asked, completions)
        return [0.5 if i < 6 else v for i, v in enumerate(values)]

    sizes = {}
    for drop in (False, True):
        run = trainer(settings(drop_no_signal=drop), reward=half, max_steps=1)
        run._experience = lambda *given, run=run, drop=drop: sizes.setdefault(
            drop, type(run)._experience(run, *given)
        )
        [entry] = run.train().history
        assert entry["no_signal"] >= 0.5
    whole, part = sizes[False][1].tolist(), sizes[True][1].tolist()
    assert whole == list(range(12)) and part and min(part) >= 6 and len(part) % 3 == 0
    run = trainer(settings(drop_no_signal=True), reward=flat, max_steps=1)
    assert run.train().history[0]["updates"] == 1, "where none has a signal the step is made"


# prompts


def test_overlong_prompts_are_left_out_and_counted():
    asked = [*prompts(6), Prompt("long", ({"role": "user", "content": "word " * 300},))]
    run = trainer(settings(prompts_per_step=7, max_prompt_length=120), asked=asked, max_steps=2)
    history = run.train().history
    assert [e["skipped/overlong"] for e in history] == [1, 2]
    run = trainer(settings(max_prompt_length=120), asked=asked[-1:] * 4)
    with pytest.raises(InputError, match="4 of 4 prompts are longer than the 120 tokens"):
        run.train()


def test_no_prompts_and_methods_that_change_what_trains_are_refused():
    with pytest.raises(InputError, match="no prompts"):
        PolicyTrainer(*build_tiny_llava(seed=0), [], vowels)
    with pytest.raises(InputError, match="AdaLoRA"):
        trainer(method="adalora")
    with pytest.raises(InputError, match="unfreeze"):
        trainer(method="full", unfreeze=[Unfreeze(1, {"language_model": "all"})])


# how far the policy goes


def test_target_kl_ends_a_steps_updates():
    changes = {"num_epochs": 6, "kl_coef": 0.0, "clip": 10.0}
    run = trainer(settings(target_kl=0.01, **changes), learning_rate=1e-2, max_steps=1)
    [entry] = run.train().history
    assert entry["stopped_early"] == 1 and 2 <= entry["updates"] < 6
    free = trainer(settings(**changes), learning_rate=1e-2, max_steps=1)
    [other] = free.train().history
    assert other["stopped_early"] == 0 and other["updates"] == 6
    assert other["approx_kl"] > entry["approx_kl"] > 0


@pytest.mark.parametrize("target, up", [(1e-6, True), (50.0, False)])
def test_the_kl_coefficient_follows_its_target(target, up):
    policy = settings(kl_target=target, kl_horizon=24, kl_kind="k3", num_epochs=2)
    run = trainer(policy, max_steps=4, learning_rate=5e-3)
    history = run.train().history
    coefs = [entry["kl_coef"] for entry in history]
    assert coefs[0] == 0.1, "the coefficient that the step was made with"
    for before, after, entry in zip(coefs, [*coefs[1:], run.controller.coef], history, strict=True):
        error = max(-0.2, min(0.2, entry["kl_per_sequence"] / target - 1))
        assert after == pytest.approx(before * (1 + error * 0.5))
    assert (coefs[-1] > coefs[0]) == up


# memory and precision


def test_checkpointed_blocks_run_again_and_change_nothing():
    found = {}
    for checkpointing in (False, True):
        run = trainer(max_steps=2, gradient_checkpointing=checkpointing)
        calls, block = [], run.model.model.language_model.layers[0].mlp
        block.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(torch.is_grad_enabled())
        )
        history = run.train().history
        found[checkpointing] = weights(run.model), unclocked(history), sum(calls)
    (plain, one, once), (same, other, twice) = found[False], found[True]
    assert once == 2 and twice == 4, "one forward with gradients a step, and another in backward"
    assert all(torch.equal(plain[n], same[n]) for n in plain)
    assert one == other


@pytest.mark.parametrize("shared", [None, False])
def test_bfloat16_autocast_runs(shared):
    policy = settings(algorithm="ppo", kl_in="reward", shared_prefix=shared)
    run = trainer(policy, mixed_precision="bf16", gradient_checkpointing=True)
    history = run.train().history
    assert all(1e-6 < e["mismatch"] < 0.1 for e in history), "rounded, and not more than that"
    assert {p.dtype for p in run.forward.parameters()} == {torch.float32}
    assert all(e["grad_norm"] > 0 for e in history)
