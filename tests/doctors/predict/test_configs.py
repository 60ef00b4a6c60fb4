"""Where a configuration can come from, and what is said when it cannot."""

import json

import pytest

from labs.doctors.memory.setup.configs import load_source
from labs.errors import InputError
from tests.doctors.predict.conftest import RAW


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return folder


def raw(kind: str, **changes) -> dict:
    made = {"model_type": kind, **RAW[kind], **changes}
    return {key: value for key, value in made.items() if value is not None}


@pytest.mark.parametrize("kind", RAW)
def test_a_folder_and_the_bare_file_give_the_same(tmp_path, kind):
    folder = write(tmp_path / "model", config=raw(kind))
    bare = write(tmp_path / "bare", any_name=raw(kind)) / "any_name.json"
    one, two = load_source(str(folder)), load_source(str(bare))
    assert one.config.to_dict() == two.config.to_dict()
    assert one.config.get_text_config().hidden_size == 32


def test_the_newer_processor_file_wins(tmp_path):
    folder = write(
        tmp_path / "model",
        config=raw("qwen2_vl"),
        preprocessor_config={"max_pixels": 1, "min_pixels": 2},
        processor_config={"image_processor": {"max_pixels": 3}},
        video_preprocessor_config={"max_pixels": 4},
    )
    source = load_source(str(folder))
    assert source.processor == {"max_pixels": 3, "min_pixels": 2}
    assert source.video == {"max_pixels": 4}


def test_flat_configurations_of_qwen2_vl_are_read(tmp_path):
    flat = raw("qwen2_vl", text_config=None, **RAW["qwen2_vl"]["text_config"])
    flat["model_type"] = "qwen2_vl"
    folder = write(tmp_path / "model", config=flat)
    assert load_source(str(folder)).config.get_text_config().hidden_size == 32


def test_defaults_that_fill_in_are_noted(tmp_path):
    text = {"model_type": "llama", "vocab_size": 32064}
    folder = write(tmp_path / "model", config=raw("llava", text_config=text))
    (note,) = load_source(str(folder)).notes
    assert "hidden_size" in note and "vocab_size" not in note


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("{", r"config.json, line 1: bad JSON"),
        ("[1]", "holds no JSON object"),
        ({}, "has no `model_type`"),
        ({"model_type": "lava"}, "knows no architecture `lava`"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "x.Y"}}, "needs Python code"),
        (raw("llava", vision_config=None), "has no `vision_config`"),
        (raw("llava", text_config=None), "has no `text_config`"),
        (raw("llama", num_hidden_layers=None), "lacks `num_hidden_layers`"),
        (raw("llama", hidden_size="wide"), "no valid `llama` configuration: .*hidden_size"),
        (raw("llama", num_attention_heads=5), "not a multiple of the number of attention heads"),
        (raw("llava", text_config={"model_type": "nothing"}), "no valid `llava` configuration"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, config, what):
    folder = write(tmp_path / "model", config=config)
    with pytest.raises(InputError, match=what) as error:
        load_source(str(folder))
    assert error.value.do.endswith((".", "?"))
    assert len(str(error.value)) < 700


def test_gpt2_names_its_fields_otherwise(tmp_path):
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100}
    assert load_source(str(write(tmp_path / "m", config=config))).config.hidden_size == 32


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no/such/place/at/all", "There is no file or folder"),
        ("missing.json", "There is no file or folder"),
        ("llava-hf/llava-1.5-7b-hf", "is not on this machine, and the hub cannot be reached"),
    ],
)
def test_what_is_nowhere_is_said(name, what):
    with pytest.raises(InputError, match=what):
        load_source(name, allow_network=False)


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_source(str(tmp_path))


def test_remote_code_runs_only_when_asked(tmp_path):
    folder = write(
        tmp_path / "model",
        config={"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine"}, "hidden_size": 7},
    )
    (folder / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Mine(PretrainedConfig):\n    model_type = 'mine'\n"
    )
    with pytest.raises(InputError, match="not run unasked"):
        load_source(str(folder))
    assert not (tmp_path / "ran").exists()
    assert load_source(str(folder), trust_remote_code=True).config.hidden_size == 7
    assert (tmp_path / "ran").exists()
