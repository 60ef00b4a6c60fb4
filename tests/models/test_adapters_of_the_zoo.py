"""A zoo model that is stored as an adapter loads, answers, and is asked like any other."""

import json

import pytest
import torch

from labs.cli.main import main
from labs.errors import InputError
from labs.models import generate, load_vlm, loading, user_message
from labs.models.lora import add_lora, lora_layers, merge_lora, save_lora
from labs.models.places import ADAPTERS, NAMES, ZOO
from labs.shapes import make_record
from labs.suites.answerers import kind_of, load_answerer

QUESTION = "Is there a ring?"


def ask(model, processor, count: int = 8) -> list[str]:
    images = [[make_record("existence", i, "test")["image"]] for i in range(count)]
    conversations = [[user_message(QUESTION, 1)]] * count
    return generate(model, processor, conversations, images, max_new_tokens=12)


def changed():
    """tiny-sft with an adapter that changes what it says, in numbers that half precision has."""
    model, processor = load_vlm("tiny-sft")
    add_lora(model, r=4)
    generator = torch.Generator().manual_seed(0)
    for layer in lora_layers(model).values():
        for matrix, scale in ((layer.lora_A, 0.1), (layer.lora_B, 0.1)):
            values = torch.randn(matrix.shape, generator=generator) * scale
            matrix.data = values.half().float()
    return model, processor


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo with tiny-ppo built in it, half precision as the builder stores it."""
    monkeypatch.setattr(loading, "ZOO", tmp_path)
    for name in ("tiny-sft", "tokenizer"):
        (tmp_path / name).symlink_to(ZOO / name)
    model, _ = changed()
    (tmp_path / "tiny-ppo").mkdir()
    save_lora(model.half(), tmp_path / "tiny-ppo", "tiny-sft")
    return tmp_path


def test_it_is_its_base_with_the_adapter_on_and_nothing_merged(zoo):
    model, processor = load_vlm("tiny-ppo")
    merged = merge_lora(changed()[0])
    assert ask(model, processor) == ask(merged, processor)
    base = load_vlm("tiny-sft")[0]
    assert ask(model, processor) != ask(base, processor)
    with model.disable_adapter():
        assert ask(model, processor) == ask(base, processor)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_its_configuration_names_the_base_by_its_zoo_name(zoo):
    config = json.loads((zoo / "tiny-ppo" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == ADAPTERS["tiny-ppo"] in NAMES
    assert str(zoo) not in json.dumps(config)


def test_evaluation_and_chat_take_it(zoo, tmp_path, capsys):
    assert kind_of("tiny-ppo") == "vlm"
    answerer = load_answerer("tiny-ppo", device="cpu")
    assert answerer.name == "tiny-ppo"
    out = tmp_path / "results"
    arguments = ["eval", "tiny-ppo", "--suite", "existence", "--n", "8", "--output", str(out)]
    assert main([*arguments, "--device", "cpu"]) == 0
    picture = tmp_path / "scene.png"
    make_record("existence", 0, "test")["image"].save(picture)
    capsys.readouterr()
    chat = ["chat", "--model", "tiny-ppo", "--image", str(picture), "--prompt", QUESTION]
    assert main([*chat, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["turns"][0]["answer"]
    assert said == ask(*load_vlm("tiny-ppo"), count=1)[0]


def test_one_that_is_not_built_says_so(zoo):
    with pytest.raises(InputError, match="tiny-grpo is not built here"):
        load_vlm("tiny-grpo")
