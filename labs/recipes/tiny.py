"""The small form of every recipe: `--tiny`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labs.recipes import Recipe


def tiny_changes(recipe: "Recipe") -> dict[str, Any]:
    """What --tiny does to every recipe: the tiny model, shapes for data, three short steps.

    Learning rates, schedule, freezing, method and accumulation in more than one micro-batch stay:
    they are what the recipe is about. Rewards and policies start from tiny-sft: what a model with
    random weights says is all equally wrong, and teaches nothing.
    """
    kind = {"contrastive": "clip", "fused": "blip"}.get(recipe.stage, recipe.model.kind)
    build = {"clip": "tiny_clip", "blip": "tiny_blip", "lm": "tiny_lm", "vlm": "tiny_llava"}[kind]
    trained = "tiny-sft" if recipe.stage in ("reward", "ppo", "grpo") else None
    text_only = {"described": 1.0, "digits": 0.0} if kind == "lm" else {}
    mix = recipe.data.world.mix if recipe.data and recipe.data.world else {}
    world = {"length": 24, "split": "train", "seed": 0, "mix": {"turns": 2, **mix, **text_only}}
    data = {"path": None, "image_root": None, "world": world, "max_length": None}
    train = recipe.train
    changes = {
        "model": {
            "name": trained,
            "build": None if trained else build,
            "assemble": None,
            "parts": {},
            "dtype": "float32",
            "attn_implementation": None,
            "only_tiny": None,
        },
        "data": data,
        "eval_data": {**data, "world": {**world, "length": 4, "split": "val"}},
        "train": {
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "gradient_accumulation_steps": min(train.gradient_accumulation_steps, 2),
            "dataloader_num_workers": 0,
            "group_by_length": False,
            "logging_steps": 1,
            "warmup_steps": 1 if (train.warmup_ratio or train.warmup_steps) else 0,
            "eval_steps": 3,
            "save_steps": None,
            "mixed_precision": "no",
            "torch_compile": False,
        },
    }
    if recipe.stage == "reward":
        del changes["data"], changes["eval_data"]
        # Questions of which tiny-sft's answers differ, so that there are pairs.
        tasks = {"caption": 2.0, "existence": 1.0}
        world = {"length": 24, "split": "train", "seed": 0, "mix": {"tasks": tasks}}
        changes["pairs"] = {
            "path": None, "image_root": None, "world": world, "sampler": None, "num_generations": 4,
            "max_new_tokens": 24, "held_out": 4, "max_length": None,
        }  # fmt: skip
    if recipe.policy:
        del changes["eval_data"]
        changes |= _tiny_policy(recipe)
    return changes


def _tiny_policy(recipe: "Recipe") -> dict[str, Any]:
    """Small rollouts with as many updates each; the oracle where a reward model would be loaded."""
    policy = recipe.policy
    generations = min(policy.num_generations, 4)
    answers = 16 if generations > 1 else 8  # a step; of two or three groups none may differ
    changes: dict[str, Any] = {
        "prompts_per_step": answers // generations,
        "num_generations": generations,
        "max_prompt_length": None,
        "max_new_tokens": 24,
    }
    if policy.minibatch_size is not None:
        parts = max(1, policy.prompts_per_step * policy.num_generations // policy.minibatch_size)
        changes["minibatch_size"] = max(1, answers // parts)
    # A file's answers are checked by `answer`; in the world they are checked by its oracle.
    rewards: dict[str, float | None] = dict.fromkeys(recipe.rewards)
    for name, weight in recipe.weights.items():
        name = "world" if name in ("answer", "reward_model") else name
        rewards[name] = (rewards.get(name) or 0.0) + weight
    return {"policy": changes, "rewards": rewards, "reward_model": None}
