"""A recipe of the stages ppo and grpo as a run: prompts, rewards, trainer. Chapter 5."""

from labs.recipes import DataSpec, Recipe, WorldSpec


def run_policy(recipe: Recipe, model, processor, resume=None, on_ready=None, on_log=None):
    """Train `model` by the recipe's reward; returns the run's TrainResult."""
    from labs.train.policy.trainer import PolicyTrainer
    from labs.train.policy.watch import world_watch

    trainer = PolicyTrainer(
        model,
        processor,
        build_prompts(recipe.data),
        build_reward(recipe, processor),
        recipe.train,
        recipe.policy,
        watch=world_watch,
        on_log=on_log,
    )
    if on_ready:
        on_ready(trainer)
    result = trainer.train(resume)
    trainer.finish(recipe.model.name)
    return result


def build_prompts(spec: DataSpec):
    """The prompts of a `data` section: questions of the world, or of a file."""
    from labs.train.policy.world import FilePrompts

    if spec.path:
        return FilePrompts(spec.path, spec.image_root)
    return world_prompts(spec.world, ("data", "world"))


def world_prompts(world: WorldSpec, prefix: tuple[str, ...]):
    """Questions of the offline world, one a picture; `prefix` is where the section stands."""
    from labs.errors import InputError
    from labs.settings import fill
    from labs.shapes import Mix
    from labs.train.policy.world import WorldPrompts

    if world.lessons:
        raise InputError(
            f"`{'.'.join(prefix)}.lessons` are not for prompts, which are drawn one by one.",
            "Give one mix.",
        )
    mix = fill(Mix, world.mix, "the recipe", prefix=(*prefix, "mix"))
    return WorldPrompts(world.length, mix, world.split, world.seed)


def build_reward(recipe: Recipe, processor):
    """The recipe's rewards as one. A reward model is held beside the policy, in float32."""
    from labs.train.policy import rewards

    made = {
        "world": rewards.WorldReward,
        "answer": rewards.AnswerReward,
        "hallucination": rewards.HallucinationPenalty,
        "yes_bias": rewards.YesBiasBonus,
        "reward_model": lambda: _model_reward(recipe, processor),
    }
    return rewards.MixedReward({n: (made[n](), w) for n, w in recipe.weights.items()})


def _model_reward(recipe: Recipe, processor):
    from labs.models.scalar_head import RewardModel
    from labs.train.policy.rewards_model import ModelReward

    return ModelReward(RewardModel.load(recipe.reward_model), processor, facts=recipe.facts)
