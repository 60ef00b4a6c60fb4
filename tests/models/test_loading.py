"""Everything a person may point load_vlm at by mistake: one sentence on what, one on what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from labs.errors import InputError
from labs.models import build_tiny_llava, load_vlm


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = build_tiny_llava(seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        load_vlm(path)
    for word in words:
        assert word in caught.value.what + caught.value.do, caught.value
    return caught.value


def test_unknown_name_lists_the_zoo():
    refused("tiny-bse", "tiny-bse", "tiny-base")


def test_missing_folder():
    refused("./nowhere", "nowhere")


def test_a_file_is_not_a_folder(copy):
    refused(copy / "model.safetensors", "not a model folder")


def test_folder_without_config(tmp_path):
    refused(tmp_path, "config.json")


def test_git_lfs_pointer_is_named(copy):
    (copy / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    )
    refused(copy, "Git-LFS pointer", "git lfs pull")


def test_html_page_is_named(copy):
    (copy / "model.safetensors").write_text("<!DOCTYPE html><html>sign in</html>")
    refused(copy, "HTML page")


def test_empty_file_is_named(copy):
    (copy / "model.safetensors").write_bytes(b"")
    refused(copy, "is empty")


def test_truncated_weights(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    refused(copy, "truncated")


def test_a_text_model_is_not_a_vlm(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(tmp_path, "cannot be loaded")


def test_pickled_weights_that_run_code_are_not_run(copy, tmp_path):
    """An old .bin is read with weights_only: a pickle that would write a file is refused."""
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    (copy / "model.safetensors").unlink()
    torch.save({"x": Evil()}, copy / "pytorch_model.bin")
    refused(copy)
    assert not marker.exists()


def test_plain_pickled_weights_load(saved, copy):
    model, _ = load_vlm(saved)
    (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    again, _ = load_vlm(copy)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_loading_quantises_the_language_model_only(saved, kind):
    model, _ = load_vlm(saved, quantization=kind)
    names = {n: type(m).__name__ for n, m in model.named_modules() if "Linear" in type(m).__name__}
    quantised = {n for n, t in names.items() if t in ("Linear4bit", "Linear8bitLt")}
    assert quantised and all("language_model" in n for n in quantised)


def test_unknown_quantisation(saved):
    with pytest.raises(InputError, match="int3"):
        load_vlm(saved, quantization="int3")
