"""Recipes of rewards and policies: their sections, their pairs and prompts, and what is refused."""

import json
import math
import re

import pytest
import yaml
from PIL import Image

from labs.cli.main import main
from labs.errors import InputError
from labs.formats import Preference, Turn
from labs.models import load_vlm
from labs.models.scalar_head import RewardModel
from labs.recipes import Lesson, PairsSpec, load, recipe_names
from labs.recipes.pairs import build_pairs, held_apart
from labs.recipes.policy import build_prompts, build_reward
from labs.recipes.run import run_recipe
from labs.train import train
from labs.train.policy.completion import Completion

POLICIES = ["tiny_ppo", "tiny_grpo", "llava_rlhf_ppo", "qwen2.5_vl_grpo"]


def test_overrides_reach_their_section():
    recipe = load("tiny_grpo", ["policy.kl_coef=0.1", "rewards.hallucination=0.5", "lora.r=4"])
    before = load("tiny_grpo")
    assert (recipe.policy.kl_coef, recipe.train.lora.r) == (0.1, 4)
    assert recipe.policy.num_generations == before.policy.num_generations
    assert recipe.weights == {**before.weights, "hallucination": 0.5}
    off = ["reward_model=null", "rewards.reward_model=null"]
    assert load("llava_rlhf_ppo", off).weights == {"yes_bias": 2.0}
    pairs = load("tiny_rm", ["pairs.path=mine.jsonl", "pairs.held_out=9"]).pairs
    assert (pairs.path, pairs.world, pairs.held_out) == ("mine.jsonl", None, 9)


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("tiny_grpo", "policy.kl_coeff=1", r"policy\.kl_coeff`.*`kl_coef`"),
        ("tiny_grpo", "policy.num_generations=1", "num_generations must be 2"),
        ("tiny_grpo", "policy.algorithm=ppo", "policy.algorithm of its own.*Use grpo or rloo"),
        ("tiny_ppo", "policy.algorithm=grpo", "policy.algorithm of its own.*Use ppo"),
        ("tiny_grpo", "rewards.wrld=1", "command line: there is no reward `wrld`"),
        ("tiny_grpo", "rewards.world=null", "names none"),
        ("tiny_grpo", "reward_model=tiny-rm", "go together"),
        ("tiny_grpo", "rewards.reward_model=1", "go together"),
        ("tiny_sft", "rewards.world=1", "not for the stage sft"),
        ("tiny_sft", "pairs.path=a.jsonl", "`pairs` are not for the stage sft"),
        ("tiny_rm", "pairs.temprature=2", "temperature"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(name, override, words):
    with pytest.raises(InputError) as refused:
        load(name, [override])
    assert re.search(words, f"{refused.value.what} {refused.value.do}")


@pytest.mark.parametrize(("name", "section"), [("tiny_rm", "pairs"), ("tiny_grpo", "data")])
def test_where_learning_comes_from_is_needed(tmp_path, name, section):
    from labs.recipes import FOLDER

    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    del values[section]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=f"needs a section `{section}`"):
        load(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", POLICIES)
def test_tiny_keeps_what_the_recipe_is_about(name):
    full, tiny = load(name), load(name, tiny=True)
    kept = "algorithm num_epochs kl_coef kl_kind kl_in clip clip_high aggregate lam temperature"
    for key in kept.split():
        assert getattr(tiny.policy, key) == getattr(full.policy, key), key
    answers = [r.policy.prompts_per_step * r.policy.num_generations for r in (full, tiny)]
    updates = [
        a // (r.policy.minibatch_size or a) for a, r in zip(answers, (full, tiny), strict=True)
    ]
    assert updates[0] == updates[1]
    assert sum(tiny.weights.values()) == pytest.approx(sum(full.weights.values()))
    assert tiny.reward_model is None and tiny.model.name == "tiny-sft"


def test_prompts_are_the_recipes_stretch_of_the_world():
    recipe = load("tiny_grpo", ["data.world.length=12", "data.world.mix.chinese=0"])
    prompts = build_prompts(recipe.data)
    assert len(prompts) == 12 and {p.about["language"] for p in prompts} == {"en"}
    assert {p.task for p in prompts} <= set(recipe.data.world.mix["tasks"]) | {"ocr"}
    recipe.data.world.lessons.append(1)
    with pytest.raises(InputError, match=r"data\.world\.lessons"):
        build_prompts(recipe.data)


def test_rewards_are_made_by_name_and_a_reward_model_by_its_folder(tmp_path):
    model, processor = load_vlm("tiny-sft")
    RewardModel(model, processor, "tiny-sft").save(tmp_path / "rm")
    overrides = [f"reward_model={tmp_path / 'rm'}", "rewards.reward_model=0.5"]
    recipe = load("tiny_ppo", [*overrides, "rewards.hallucination=2", "rewards.yes_bias=1"])
    prompts = build_prompts(recipe.data)[:6]
    said = [Completion(p.answer, 5, True) for p in prompts]
    reward = build_reward(recipe, processor)
    mixed = reward.score(prompts, said)
    assert set(mixed.parts) == {"world", "reward_model", "hallucination", "yes_bias"}
    assert mixed.parts["world"] == [1.0] * 6  # true answers
    assert all(math.isfinite(v) for v in mixed.parts["reward_model"])
    weights = recipe.weights
    for i, value in enumerate(mixed.values):
        said_of = {n: part[i] for n, part in mixed.parts.items() if part[i] is not None}
        assert value == pytest.approx(sum(weights[n] * v for n, v in said_of.items()))


def test_pairs_of_one_picture_stay_on_one_side():
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
    turn = (Turn("user", "<image>\nwhat?"),)
    pairs = [Preference(f"{i}", (pictures[i % 6],), turn, "a", "b") for i in range(18)]
    pairs += [Preference(f"f{i}", (f"{i % 2}.png",), turn, "a", "b") for i in range(6)]
    rest, held = held_apart(pairs, 7, seed=1)
    assert len(held) >= 7 and sorted(p.id for p in rest + held) == sorted(p.id for p in pairs)
    names = [{i if isinstance(i, str) else id(i) for p in side for i in p.images} for side in (rest, held)]  # fmt: skip
    assert names[0] and not names[0] & names[1]
    assert [p.id for p in held] == [p.id for p in held_apart(pairs, 7, seed=1)[1]]
    assert held_apart(pairs, 0) == (pairs, None)
    with pytest.raises(InputError, match="none is left"):
        held_apart(pairs, 24)


def test_pairs_come_from_a_file_without_the_tied_ones(tmp_path):
    rows = [
        {"id": str(i), "prompt": f"question {i}", "chosen": "yes", "rejected": "no" if i else "yes"}
        for i in range(5)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rest, held = build_pairs(PairsSpec(path=str(path), held_out=2), None, None)
    assert len(rest) == 2 and len(held) == 2 and "0" not in {p.id for p in rest + held}


def test_sampled_pairs_are_the_samplers_answers_judged_by_the_panel():
    recipe = load("tiny_rm", ["pairs.annotators=1", "pairs.noise=0"], tiny=True)
    recipe.pairs.held_out = 0
    pairs, _ = build_pairs(recipe.pairs, *load_vlm("tiny-sft"), seed=3)
    assert len(pairs) >= 5
    assert {p.meta["task"] for p in pairs} <= set(recipe.pairs.world.mix["tasks"]) | {"ocr"}
    for pair in pairs:  # without noise the better one is chosen, always
        assert pair.meta["quality"][0] > pair.meta["quality"][1]
    recipe.pairs.length_bias = -100.0  # brevity above all
    short, _ = build_pairs(recipe.pairs, *load_vlm("tiny-sft"), seed=3)
    unequal = [p for p in short if len(p.chosen) != len(p.rejected)]
    assert unequal and all(len(p.chosen) < len(p.rejected) for p in unequal)


def test_lessons_are_corrected_pairs_in_front_and_the_world_follows():
    recipe = load("tiny_rm", ["pairs.noise=0"], tiny=True)
    spec = recipe.pairs
    spec.world.length, spec.world.mix["tasks"], spec.corrected = 30, {"count": 1.0}, 1.0
    spec.world.lessons = [Lesson(8, {"tasks": {"existence": 1.0}, "digits": 0.0})]
    pairs, held = build_pairs(spec, None, None, seed=3)  # nobody is asked
    assert [p.meta["task"] for p in pairs[:8]] == ["existence"] * 8
    assert {p.meta["task"] for p in [*pairs[8:], *held]} <= {"count", "ocr"}
    assert len(pairs) + len(held) == 30 and all(p.meta["corrected"] for p in pairs)
    spec.world.length = 8
    with pytest.raises(InputError, match="leave nothing"):
        build_pairs(spec, None, None)
    with pytest.raises(InputError, match="between 0 and 1"):
        load("tiny_rm", ["pairs.corrected=2"])


def test_the_command_trains_a_policy(tmp_path, capsys):
    arguments = ["train", "grpo", "--recipe", "tiny_grpo", "--tiny", "--output", str(tmp_path)]
    assert main([*arguments, "--json", "max_steps=1", "report_to=none"]) == 0
    shown = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert shown["stage"] == "grpo" and shown["steps"] == 1
    assert shown["reward"] == shown["history"][-1]["reward"]
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "tiny-sft"


def test_stages_with_a_trainer_of_their_own_are_not_run_as_sft():
    with pytest.raises(InputError, match="PolicyTrainer"):
        train(None, None, [1], stage="ppo")
    assert {load(name).stage for name in recipe_names()} >= {"reward", "ppo", "grpo"}
    with pytest.raises(InputError, match="no reward model"):
        run_recipe(load("tiny_ppo", ["reward_model=absent", "rewards.reward_model=1"]))
