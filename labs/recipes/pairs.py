"""A recipe's `pairs` section: preference pairs from a file or from a model's own answers. Chapter 5."""

import random
from collections.abc import Sequence
from dataclasses import replace

from labs.errors import InputError
from labs.formats import Preference
from labs.recipes import PairsSpec, WorldSpec
from labs.recipes.policy import world_prompts


def build_pairs(
    spec: PairsSpec, model, processor, seed: int = 0
) -> tuple[list[Preference], list[Preference] | None]:
    """(pairs to train on, pairs held out or None). model, processor: who answers, unless `sampler`.

    Lessons stay in front, in order, and are not held out. Raises InputError where nothing is left to
    train on.
    """
    if spec.path:
        from labs.formats import read_preferences

        # A pair of equal answers teaches nothing; the published sets hold a few.
        pairs = [p for p in read_preferences(spec.path, spec.image_root) if not p.tied]
        return held_apart(pairs, spec.held_out, seed)
    if spec.sampler and spec.corrected < 1:
        from labs.models import load_vlm

        model, processor = load_vlm(spec.sampler)
    world, lessons = spec.world, []
    for number, lesson in enumerate(world.lessons, 1):
        part = WorldSpec(lesson.length, [], world.split, world.seed + 1000 * number, lesson.mix)
        lessons += sampled_pairs(replace(spec, world=part, corrected=1.0), None, processor, seed)
    left = world.length - sum(lesson.length for lesson in world.lessons)
    if left < 1:
        raise InputError(
            f"pairs.world.length is {world.length}, and its lessons leave nothing of that.",
            "Raise it: it counts the lessons too.",
        )
    rest = replace(spec, world=replace(world, length=left, lessons=[]))
    pairs, held = held_apart(sampled_pairs(rest, model, processor, seed), spec.held_out, seed)
    return lessons + pairs, held


def sampled_pairs(spec: PairsSpec, model, processor, seed: int = 0) -> list[Preference]:
    """Pairs of answers to the world's questions, labelled by a panel of simulated annotators."""
    from labs.data.preference import panel
    from labs.train.preferences import sample_pairs

    people = panel(
        spec.annotators, seed, noise=spec.noise, length_bias=spec.length_bias,
        position_bias=spec.position_bias, yes_bias=spec.yes_bias,
    )  # fmt: skip
    pairs, report = sample_pairs(
        model,
        processor,
        world_prompts(spec.world, ("pairs", "world")),
        spec.num_generations,
        spec.temperature,
        people,
        seed,
        corrected=spec.corrected,
        max_new_tokens=spec.max_new_tokens,
        per_prompt=spec.per_prompt,
        max_tokens=spec.max_length,
    )
    if not pairs:
        raise InputError(
            f"No pair came of {report.prompts} prompts: {dict(report.dropped)} were dropped.",
            "Ask more questions, or sample more answers at a higher temperature.",
        )
    return pairs


def held_apart(
    pairs: Sequence[Preference], count: int, seed: int = 0
) -> tuple[list[Preference], list[Preference] | None]:
    """(the rest, at least `count` pairs held out): all pairs of a picture are on one side."""
    if not count:
        return list(pairs), None
    groups: dict[tuple, list[Preference]] = {}
    for pair in pairs:
        # An open picture is one object in all pairs of its prompt; without any, the prompt counts.
        key = tuple(i if isinstance(i, str) else id(i) for i in pair.images) or pair.prompt
        groups.setdefault(key, []).append(pair)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held: list[Preference] = []
    while order and len(held) < count:
        held += order.pop()
    if not order:
        raise InputError(
            f"Of {len(pairs)} pairs {count} are to be held out, and none is left to train on.",
            "Lower pairs.held_out, or make more pairs.",
        )
    return [pair for group in order for pair in group], held
