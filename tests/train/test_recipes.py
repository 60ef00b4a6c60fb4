"""Every recipe runs with --tiny; what it freezes stays to the bit, what it trains moves."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from train_helpers import weights

from labs.cli.main import main
from labs.errors import InputError
from labs.models import build_tiny_clip, build_tiny_llava, build_tiny_lm, load_vlm
from labs.models.lora import lora_layers
from labs.models.parts import part_of
from labs.recipes import FOLDER, load, recipe_names
from labs.recipes.run import run_recipe

# stage, method, parts that train, parts that stay
EXPECTED = {
    "llava_v1_align": ("align", "full", {"connector"}, {"vision_tower", "language_model"}),
    "llava_v1_sft": ("sft", "full", {"connector", "language_model"}, {"vision_tower"}),
    "llava_v1.5_align": ("align", "full", {"connector"}, {"vision_tower", "language_model"}),
    "llava_v1.5_sft": ("sft", "full", {"connector", "language_model"}, {"vision_tower"}),
    "llava_v1.5_lora": ("sft", "lora", {"connector", "lora"}, {"vision_tower", "language_model"}),
    "qwen_vl_pretrain": ("align", "full", {"vision_tower", "connector"}, {"language_model"}),
    "qwen_vl_multitask": ("sft", "full", {"vision_tower", "connector", "language_model"}, set()),
    "qwen_vl_sft": ("sft", "full", {"connector", "language_model"}, {"vision_tower"}),
    "llava_rlhf_ppo": ("ppo", "lora", {"lora"}, {"vision_tower", "connector", "language_model"}),
    "qwen2.5_vl_grpo": ("grpo", "full", {"vision_tower", "connector", "language_model"}, set()),
}
REWARD = {"llava_rlhf_reward": 64, "tiny_rm": None}  # and their LoRA's rank; None: all weights


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - set(REWARD)))
def test_tiny_run_freezes_and_trains_what_it_says(name):
    recipe = load(name, ["progress=false"], tiny=True)
    before = {}
    model, _, result = run_recipe(
        recipe, on_ready=lambda trainer: before.update(weights(trainer.model))
    )
    assert result.steps == 3 and len(result.losses()[1]) == 3
    assert (result.best_eval_loss is None) == (recipe.eval_data is None)
    moved = {part_of(n) for n, w in model.named_parameters() if not torch.equal(w, before[n])}
    stayed = {part_of(n) for n in before} - moved
    if name in EXPECTED:
        stage, method, trains, frozen = EXPECTED[name]
        assert (recipe.stage, recipe.train.method) == (stage, method)
        assert (moved, stayed) == (trains, frozen)
    else:  # the zoo's: whatever their file says
        for part, policy in recipe.train.trainable.items():
            assert part in (stayed if policy == "frozen" else moved), part
        assert moved


@pytest.mark.parametrize("name", REWARD)
def test_tiny_reward_model_trains_head_and_what_the_method_says(name):
    recipe = load(name, ["progress=false", "learning_rate=1e-2"], tiny=True)
    assert recipe.stage == "reward"
    rated, _, result = run_recipe(recipe)
    assert result.steps == 3 and 0 <= result.losses("eval_accuracy")[1][-1] <= 1
    base = dict(load_vlm("tiny-sft")[0].named_parameters())
    layers = lora_layers(rated.vlm)
    if REWARD[name] is None:
        moved = {part_of(n) for n, w in rated.vlm.named_parameters() if not torch.equal(w, base[n])}
        assert not layers and moved == {"connector", "language_model"}
        assert {part_of(n) for n in rated.trained} == moved and rated.scalar_head.bias != 0
        return
    assert {layer.r for layer in layers.values()} == {REWARD[name]}
    assert all(layer.lora_B.abs().sum() > 0 for layer in layers.values())
    for key, weight in rated.vlm.named_parameters():
        if part_of(key) != "lora":
            assert torch.equal(weight, base[key.replace(".base.", ".")]), key
    assert rated.trained == set() and rated.scalar_head.bias != 0


def test_every_published_system_is_there():
    assert {*EXPECTED, *REWARD} <= set(recipe_names())


@pytest.mark.parametrize("name", [*EXPECTED, "llava_rlhf_reward"])
def test_every_value_has_its_source_beside_it_or_is_named_as_unverified(name):
    recipe = load(name)
    assert recipe.sources and recipe.needs.gpus > 0
    text = (FOLDER / f"{name}.yaml").read_text()
    settings = "".join(re.findall(r"^(?:train|policy):\n((?:  .*\n)+)", text, re.MULTILINE))
    values = [line for line in settings.splitlines() if re.match(r"\s+\w+:\s*[^\s#]", line)]
    assert len(values) >= 12
    for line in values:
        key = line.split(":")[0].strip()
        assert "#" in line or key in " ".join(recipe.unverified), line


def test_published_numbers():
    lora = load("llava_v1.5_lora").train
    assert (lora.lora.r, lora.lora.alpha, lora.lora.dropout) == (128, 256, 0.05)
    assert lora.learning_rate == 2e-4 and lora.learning_rates == {"connector": 2e-5}
    assert load("llava_v1_align").train.learning_rate == 2e-3
    assert load("llava_v1.5_align").train.learning_rate == 1e-3
    qwen = load("qwen_vl_sft").train
    assert (qwen.weight_decay, qwen.adam_beta2, qwen.warmup_ratio) == (0.1, 0.95, 0.01)
    assert isinstance(qwen.learning_rate, float) and qwen.learning_rate == 1e-5
    one = load("qwen_vl_pretrain")
    batch = one.train.per_device_train_batch_size * one.train.gradient_accumulation_steps
    assert batch * one.needs.gpus == 30_720
    rlhf = load("llava_rlhf_ppo")
    policy, gpus = rlhf.policy, rlhf.needs.gpus
    assert (policy.prompts_per_step * gpus, policy.minibatch_size * gpus) == (512, 256)
    assert (policy.kl_coef, policy.lam, policy.vf_coef, policy.num_epochs) == (0.1, 1.0, 0.1, 2)
    assert (policy.missing_eos_penalty, policy.length_penalty) == (8.0, 10.0)
    assert rlhf.train.learning_rate == 3e-5 and rlhf.facts
    grpo = load("qwen2.5_vl_grpo")
    policy, gpus = grpo.policy, grpo.needs.gpus
    assert policy.prompts_per_step * gpus == 512
    assert policy.minibatch_size * gpus == 128 * policy.num_generations == 640
    assert (policy.clip, policy.clip_high, policy.kl_coef, policy.kl_in) == (0.2, 0.3, 0.01, "loss")


def test_full_size_qwen_vl_says_why_it_cannot_run():
    with pytest.raises(InputError, match="remote code"):
        run_recipe(load("qwen_vl_sft"))
    with pytest.raises(InputError, match="LLaVA's own layout"):
        run_recipe(load("llava_rlhf_ppo"))


def test_overrides(tmp_path):
    recipe = load(
        "llava_v1.5_lora", ["learning_rate=3e-4", "lora.r=4", "learning_rates.connector=1e-5"]
    )
    assert recipe.train.learning_rate == 3e-4
    assert recipe.train.lora.r == 4 and recipe.train.lora.alpha == 256
    assert recipe.train.learning_rates == {"connector": 1e-5}
    assert load("llava_v1_sft", ["data.path=mine.json"]).data.path == "mine.json"
    assert load("qwen_vl_sft", ["model.name=tiny-base"]).model.only_tiny is None


@pytest.mark.parametrize(
    "change,words",
    [
        ({"train": {"learning_rat": 1e-4}}, r"mine\.yaml:\d+.*train\.learning_rat.*learning_rate"),
        ({"train": {"learning_rate": "1e-4x"}}, r"mine\.yaml:\d+.*train\.learning_rate.*1e-4x"),
        ({"train": {"max_steps": 2.5}}, r"mine\.yaml:\d+.*train\.max_steps"),
        ({"train": {"lora": {"rank": 4}}}, r"mine\.yaml:\d+.*train\.lora\.rank"),
        ({"trian": {}}, r"mine\.yaml:\d+.*trian.*`train`"),
        ({"stage": "pretrain"}, r"mine\.yaml:\d+.*stage"),
        ({"model": {}}, "exactly one of name, build and assemble"),
        ({"data": {"path": "a", "world": {}}}, "either path or world"),
        ({"data": {"world": {"mix": {"trun": 3}}}}, r"data\.world\.mix\.trun"),
        ({"train": {"unfreeze": [{"step": 3}]}}, "unfreeze"),
    ],
)
def test_bad_recipes_are_named(tmp_path, change, words):
    good = {
        "stage": "sft",
        "description": "d",
        "model": {"build": "tiny_llava"},
        "data": {"world": {"length": 8}},
        "train": {"max_steps": 1, "learning_rate": 1e-3},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(InputError, match=words):
        run_recipe(load(path))


def test_broken_yaml_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, words in [
        ("stage: [sft\n", r"mine\.yaml:\d+ is not valid YAML"),
        ("- 1\n- 2\n", "no mapping"),
        ("stage: sft\nstage: align\n", r"mine\.yaml:2 sets `stage` twice"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            load(path)
    with pytest.raises(InputError, match="There is no file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match=r"llava_v1\.5_sft"):
        load("llava_v15_sft")


# the command


def test_command_trains_saves_and_resumes(tmp_path, capsys):
    arguments = ["train", "sft", "--recipe", "llava_v1.5_lora", "--tiny", "--output", str(tmp_path)]
    arguments += ["--json", "save_steps=2", "lora.r=4"]
    assert main(arguments) == 0
    shown = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert shown["steps"] == 3 and shown["parts"]["language_model"][0] == 0
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "checkpoint-2").is_dir()
    assert main([*arguments, "--resume"]) == 0
    again = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    # the third step, done a second time from checkpoint-2, is the same step
    assert again["loss"] == shown["loss"]


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["sft"], "recipe"),
        (["stf", "--recipe", "llava_v1_sft"], "stage"),
        (["align", "--recipe", "llava_v1_sft"], "labs train sft"),
        (["sft", "--recipe", "llava_v1_stf"], "llava_v1_sft"),
        (["sft", "--recipe", "llava_v1_sft", "--tiny", "lerning_rate=1"], "learning_rate"),
        (["sft", "--recipe", "llava_v1_sft", "--tiny", "learning_rate"], "key=value"),
        (["sft", "--recipe", "llava_v1_sft", "--resume"], "--output"),
        (["sft", "--recipe", "llava_v1_sft", "--tiny", "data.path=absent.json"], "absent.json"),
    ],
)
def test_command_errors_are_two_sentences_and_exit_2(arguments, words, capsys):
    assert main(["train", *arguments]) == 2
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown


def test_command_lists_recipes(capsys):
    assert main(["train", "--list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names == recipe_names()


def test_ctrl_c_exits_130_and_says_how_to_resume(tmp_path):
    command = [sys.executable, "-m", "labs.cli.main", "train", "sft", "--recipe", "llava_v1_sft"]
    command += ["--tiny", "--output", str(tmp_path), "max_steps=100000", "report_to=none"]
    command += ["save_steps=5"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted after step" in shown and "--resume" in shown and "Traceback" not in shown


# models put together


def test_a_llava_assembled_from_two_models_is_their_sum(tmp_path):
    from transformers import AutoProcessor

    from labs.recipes.assemble import assemble_llava, copy_part

    lm, tokenizer = build_tiny_lm(seed=3)
    clip, processor = build_tiny_clip(seed=4)
    lm.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    clip.save_pretrained(tmp_path / "clip")
    processor.image_processor.save_pretrained(tmp_path / "clip")
    model, made = assemble_llava(
        str(tmp_path / "lm"), str(tmp_path / "clip"), feature_layer="-1", seed=5
    )
    other, stock = build_tiny_llava(seed=0)
    copy_part(other, "language_model", str(tmp_path / "lm"))
    copy_part(other, "vision_tower", str(tmp_path / "clip"))
    other.model.multi_modal_projector.load_state_dict(
        model.model.multi_modal_projector.state_dict()
    )
    from PIL import Image

    text = "<image>\nwhat is it?"
    image = Image.new("RGB", (48, 48), "red")
    mine = made(text=text, images=image, return_tensors="pt")
    theirs = stock(text=text, images=image, return_tensors="pt")
    assert torch.equal(mine["input_ids"], theirs["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(model(**mine).logits, other(**theirs).logits)
        ids = tokenizer("where?", return_tensors="pt")
        torch.testing.assert_close(other(**ids).logits, lm(**ids).logits)
    made.save_pretrained(tmp_path / "out")
    assert AutoProcessor.from_pretrained(tmp_path / "out")


def test_a_part_that_does_not_fit_is_named(tmp_path):
    from labs.recipes.assemble import copy_part

    lm = build_tiny_lm()[0]
    lm.save_pretrained(tmp_path)
    model, _ = build_tiny_llava()
    with pytest.raises(InputError, match="does not fit"):
        copy_part(model, "connector", str(tmp_path))
