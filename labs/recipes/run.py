"""From a recipe to a run: the model, the data, and `train` on both."""

from dataclasses import replace
from pathlib import Path

from labs.errors import InputError
from labs.recipes import DataSpec, ModelSpec, Recipe


def run_recipe(
    recipe: Recipe,
    output_dir: str | Path | None = None,
    resume: bool | str | Path | None = None,
    on_ready=None,
    on_log=None,
    start=None,
):
    """Train as the recipe says; returns (model, processor, TrainResult).

    `on_ready(trainer)` is called once everything is built, before the first step (the stage reward
    builds its trainer itself, and does not call it; its model is a RewardModel). `start` is a
    (model, processor) to go on from in place of the recipe's own `model` section.
    """
    from labs.train.stages import finish, prepare

    config = recipe.train
    if output_dir is not None:
        config.output_dir = str(output_dir)
    model, processor = start or build_model(recipe.model)
    stage = recipe.stage
    if stage == "reward":
        return run_reward(recipe, model, processor, resume, on_log)
    if recipe.policy:
        from labs.recipes.policy import run_policy

        return model, processor, run_policy(recipe, model, processor, resume, on_ready, on_log)
    train_data = build_dataset(recipe.data, processor, stage)
    eval_data = build_dataset(recipe.eval_data, processor, stage) if recipe.eval_data else None
    trainer, peft_model = prepare(
        model, processor, train_data, eval_data, config, stage=stage, on_log=on_log
    )
    if on_ready:
        on_ready(trainer)
    result = trainer.train(resume)
    finish(trainer, processor, peft_model, recipe.model.name)
    return model, processor, result


def run_reward(recipe: Recipe, model, processor, resume=None, on_log=None):
    """Train a reward model on `model` by the recipe's pairs; as `run_recipe`."""
    from labs.recipes.pairs import build_pairs
    from labs.train.reward_run import train_reward
    from labs.train.setup import enable_checkpointing

    spec, config = recipe.pairs, recipe.train
    pairs, held_out = build_pairs(spec, model, processor, config.seed)
    if config.gradient_checkpointing:
        # On what the head stands on: a RewardModel has no switch of its own for it.
        enable_checkpointing(model)
        config = replace(config, gradient_checkpointing=False)
    rated, result = train_reward(
        model,
        processor,
        pairs,
        held_out,
        config,
        margin=spec.margin,
        centring=spec.centring,
        facts=recipe.facts,
        max_length=spec.max_length,
        base_model=recipe.model.name,
        resume=resume,
        on_log=on_log,
    )
    return rated, processor, result


def build_model(spec: ModelSpec):
    """(model, processor or tokenizer) of a recipe's `model` section, in training precision."""
    from labs import models

    if spec.only_tiny:
        raise InputError(
            f"{spec.name} cannot be trained here at full size: {spec.only_tiny}.",
            "Run the recipe with --tiny, or put its settings on a model you name (model.name=...).",
        )
    if spec.build:
        model, processor = getattr(models, f"build_{spec.build}")(seed=spec.seed)
    elif spec.assemble:
        from labs.recipes.assemble import assemble_llava

        model, processor = assemble_llava(**spec.assemble, dtype=spec.dtype, seed=spec.seed)
    else:
        loader = getattr(models, f"load_{spec.kind}")
        options = {"dtype": spec.dtype}
        if spec.attn_implementation and spec.kind == "vlm":
            options["attn_implementation"] = spec.attn_implementation
        model, processor = loader(spec.name, **options)
    if spec.parts:
        from labs.recipes.assemble import copy_part

        for part, source in spec.parts.items():
            copy_part(model, part, source)
    return model, processor


def build_dataset(spec: DataSpec, processor, stage: str):
    """The samples of a recipe's `data` section, encoded when they are asked for."""
    if stage in ("contrastive", "fused"):
        return pairs(spec)
    from labs.data import ConversationDataset, Skips

    skips = Skips(allow=spec.allow_skips)
    if spec.path:
        from labs.formats import read_conversations

        root = {"image_root": spec.image_root} if spec.image_root else {}
        conversations = read_conversations(spec.path, **root)
        dataset = ConversationDataset(
            conversations, processor, spec.max_length, spec.overlong, skips=skips
        )
        # Characters are length enough for grouping (LLaVA counts words), and need no tokeniser.
        dataset.lengths = [
            sum(len(turn.text) for turn in c.turns) * (1 if c.images else -1)
            for c in dataset.conversations
        ]
        return dataset
    world = world_of(spec)
    dataset = ConversationDataset(
        [world[0]], processor, spec.max_length, spec.overlong, skips=skips
    )
    dataset.conversations = world  # drawn when asked for, not held
    return dataset


def world_of(spec: DataSpec):
    """The stretch of the offline world's stream that a `world` section names."""
    from labs.data.world import WorldDataset
    from labs.settings import fill
    from labs.shapes import Mix

    world, prefix = spec.world, ("data", "world", "mix")
    mix = fill(Mix, world.mix, "the recipe", prefix=prefix)
    lessons = [(x.length, fill(Mix, x.mix, "the recipe", prefix=prefix)) for x in world.lessons]
    return WorldDataset(world.length, mix, world.split, world.seed, lessons)


def pairs(spec: DataSpec):
    """Image-text pairs: the first image and the first answer of each conversation."""
    if spec.path:
        from labs.formats import read_conversations

        root = {"image_root": spec.image_root} if spec.image_root else {}
        return Pairs(list(read_conversations(spec.path, **root)))
    return CaptionPairs(spec.world)


class Pairs:
    """Conversations as image-text pairs; images are opened when asked for."""

    def __init__(self, conversations: list):
        self.conversations = [c for c in conversations if c.images]
        if not self.conversations:
            raise InputError("No conversation has an image to pair with a text.", "Check the data.")

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        from labs.formats import load_image

        conversation = self.conversations[index]
        answer = next((t.text for t in conversation.turns if t.role == "assistant"), None)
        if answer is None:
            raise InputError(f"Conversation {conversation.id} has no answer.", "Mend or drop it.")
        return {"image": load_image(conversation.images[0]), "text": answer}


class CaptionPairs:
    """Scenes of the offline world with their captions."""

    def __init__(self, world):
        self.world = world

    def __len__(self) -> int:
        return self.world.length

    def __getitem__(self, index: int) -> dict:
        from labs.shapes import make_record, seeded

        rng = seeded("pair", self.world.seed, index, self.world.split)
        language = "zh" if rng.random() < self.world.mix.get("chinese", 0.25) else "en"
        number = self.world.seed * 100_000_000 + index
        record = make_record("caption", number, self.world.split, language)
        return {"image": record["image"], "text": record["conversations"][1]["value"]}
