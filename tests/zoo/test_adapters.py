"""Zoo models that are adapters: stored small, loaded by name, scored, and given a card."""

import json

import pytest
import torch

import labs.zoo.build as build
from labs import suites
from labs.cli.main import main
from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.models import load_vlm, loading, reward_files
from labs.models.lora import add_lora, lora_layers
from labs.models.places import ADAPTERS, EVERY, NAMES, REWARD, ZOO
from labs.models.scalar_head import RewardModel
from labs.recipes import load
from labs.zoo import card as cards
from labs.zoo import pairs as zoo_pairs
from labs.zoo.card import Card, read_card


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """An empty zoo but for tiny-sft; every part of labs that looks for it finds this one."""
    for module in (build, cards, loading, reward_files):
        monkeypatch.setattr(module, "ZOO", tmp_path)
    (tmp_path / "tiny-sft").symlink_to(ZOO / "tiny-sft")
    return tmp_path


def adapted(r: int = 4):
    model, processor = load_vlm("tiny-sft")
    add_lora(model, r)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(model).values():
        layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=generator) * 0.1
    return model, processor


def blank(name: str, model) -> Card:
    return Card(
        name, "what it is", list(build.PLANS[name].recipes), 0,
        sum(p.numel() for p in model.parameters()), "data", 3, 1.0, "a machine", {"python": "3"},
        base=ADAPTERS[name], adapter_parameters=build.adapter_parameters(model),
    )  # fmt: skip


def size(folder) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_policy_is_stored_as_its_adapter_and_asked_as_a_model(zoo, capsys, monkeypatch):
    monkeypatch.setattr(suites, "QUESTIONS", {"existence": suites.QUESTIONS["existence"]})
    model, processor = adapted()
    own = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in lora_layers(model).values())
    build.store(blank("tiny-grpo", model), model, processor)
    card = read_card("tiny-grpo")
    assert card.adapter_parameters == own and card.parameters == 973_792 + own
    assert size(zoo / "tiny-grpo") < 2 * own + 40_000  # half precision, and no base
    names = {f.name for f in (zoo / "tiny-grpo").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "card.json", "README.md"}
    assert "the rest is tiny-sft" in (zoo / "tiny-grpo" / "README.md").read_text()
    scores = build.score_again("tiny-grpo", 2, show=False).scores
    assert scores["en"]["existence"]["n"] == 2
    assert read_card("tiny-grpo").scores == json.loads(json.dumps(scores))
    assert main(["zoo", "list", "--json"]) == 0
    listed = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert listed == {"tiny-sft", "tiny-grpo"}  # what is not built is left out


def test_a_reward_model_is_stored_as_adapter_and_head_and_scored_on_pairs(zoo, monkeypatch):
    monkeypatch.setattr(zoo_pairs, "TASKS", ("caption", "existence"))
    torch.manual_seed(0)
    model, processor = adapted()
    rated = RewardModel(model, processor, "tiny-sft")
    rated.normalise(0.5, 2.0)
    head = rated.scalar_head.weight.detach().clone()
    build.store(blank("tiny-rm", rated), rated, processor)
    assert size(zoo / "tiny-rm") < 2 * build.adapter_parameters(rated) + 60_000
    again = RewardModel.load("tiny-rm")
    assert torch.equal(again.scalar_head.weight, head) and float(again.reward_std) == 2.0
    scores = build.score_again("tiny-rm", 8, show=False).scores
    assert "caption" in scores["en"]
    for score in scores["en"].values():
        assert 0 < score["n"] <= 8
        assert score["accuracy"] == score["correct"] / score["n"]
        assert score["ci"] == pytest.approx(wilson_ci(score["correct"], score["n"]))
    readme = (zoo / "tiny-rm" / "README.md").read_text()
    row = scores["en"]["caption"]
    assert f"| caption | en | {row['n']} | {100 * row['accuracy']:.1f} (" in readme
    with pytest.raises(InputError, match="tiny-rm rates answers"):
        load_vlm("tiny-rm")


def test_every_shipped_name_has_a_plan_and_comes_after_what_it_stands_on():
    order = [name for together in build.ROUNDS for name in together]
    assert sorted(order) == sorted(build.PLANS) == sorted(EVERY)
    assert {*NAMES, *REWARD} <= set(order)
    turn = {n: i for i, together in enumerate(build.ROUNDS) for n in together}
    for name, base in ADAPTERS.items():
        assert turn[base] < turn[name]
        recipe = load(build.PLANS[name].recipes[-1])
        method = "full" if recipe.stage == "reward" else "lora"  # what was trained is stored
        assert recipe.model.name == base and recipe.train.method == method
        if recipe.reward_model:
            assert turn[recipe.reward_model] < turn[name]


@pytest.mark.parametrize("name", ["tiny-rm", "tiny-ppo"])
def test_what_is_not_built_says_so(zoo, name):
    with pytest.raises(InputError, match=f"{name} is not built here"):
        read_card(name)
    with pytest.raises(InputError, match=f"{name} is not built here"):
        load_vlm(name)
