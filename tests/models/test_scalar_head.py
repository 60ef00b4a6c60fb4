"""Scalar heads: the right token under any padding; a reward model on disk is the one in memory."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.models import build_tiny_llava
from labs.models.lora import add_lora, lora_layers
from labs.models.reward_files import text_fingerprints
from labs.models.scalar_head import RewardEnsemble, RewardModel, ScalarHead, last_token_index

IMAGE_TOKENS = 36


@pytest.fixture(scope="module")
def processor():
    return build_tiny_llava()[1]


def reward_model(processor, seed=0, lora=True):
    """A tiny reward model whose LoRA does something."""
    vlm = build_tiny_llava(seed=0)[0]
    if lora:
        add_lora(vlm, r=4)
        generator = torch.Generator().manual_seed(seed)
        for layer in lora_layers(vlm).values():
            layer.lora_B.data = 0.1 * torch.randn(layer.lora_B.shape, generator=generator)
    generator = torch.Generator().manual_seed(seed + 1)
    return RewardModel(vlm, processor, "tiny-random", generator).eval()


def rows(processor, lengths=(3, 9, 20), seed=0):
    """Random rows: one picture each, then so many random tokens."""
    generator = torch.Generator().manual_seed(seed)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    made = [
        torch.cat([torch.full((IMAGE_TOKENS,), image), torch.randint(20, 400, (n,), generator=generator)])
        for n in lengths
    ]  # fmt: skip
    return made, torch.randn(len(made), 3, 48, 48, generator=generator)


def padded(made, pixels, side="right", more=0):
    length = max(map(len, made)) + more
    ids, mask = torch.zeros(len(made), length, dtype=torch.long), torch.zeros(len(made), length, dtype=torch.long)  # fmt: skip
    for row, tokens in enumerate(made):
        place = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
        ids[row, place], mask[row, place] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@given(st.data())
def test_last_token_index_is_a_search_from_the_end(data):
    rows_, length = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    mask = np.zeros((rows_, length), dtype=np.int64)
    for row in mask:  # any run of real tokens: padding left, right, or on both sides
        start = data.draw(st.integers(0, length - 1))
        row[start : data.draw(st.integers(start + 1, length))] = 1
    wanted = [max(t for t in range(length) if row[t]) for row in mask]
    assert last_token_index(torch.from_numpy(mask)).tolist() == wanted


@pytest.mark.parametrize("mask", [torch.zeros(2, 3), torch.tensor([[1, 1], [0, 0]]), torch.ones(2, 0)])  # fmt: skip
def test_a_row_without_a_real_token_is_refused(mask):
    with pytest.raises(InputError, match="no real token"):
        last_token_index(mask.long())


def test_the_head_is_small_and_float32():
    head = ScalarHead(256, torch.Generator().manual_seed(0))
    hidden = torch.randn(7, 5, 256, dtype=torch.bfloat16)
    values = head(hidden)
    assert values.shape == (7, 5) and values.dtype == torch.float32
    assert 0 < values.abs().max() < 0.5
    torch.testing.assert_close(values, hidden.float() @ head.weight + head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(hidden), values), "autocast must not round rewards"


def test_padding_does_not_change_a_reward(processor):
    model = reward_model(processor)
    made, pixels = rows(processor)
    with torch.no_grad():
        right = model(**padded(made, pixels, "right"))
        for other in (padded(made, pixels, "left"), padded(made, pixels, "right", 17), padded(made, pixels, "left", 17)):  # fmt: skip
            torch.testing.assert_close(model(**other), right, rtol=0, atol=2e-5)
        for row, tokens in enumerate(made):  # each row by itself, without padding, without a mask
            alone = model(input_ids=tokens[None], pixel_values=pixels[row : row + 1])
            torch.testing.assert_close(alone, right[row : row + 1], rtol=0, atol=2e-5)
    assert right.std() > 1e-3, "rewards that are all equal would prove nothing"


def test_the_reward_is_the_head_on_the_last_hidden_state_and_makes_no_logits(processor):
    model = reward_model(processor)
    made, pixels = rows(processor)
    batch = padded(made, pixels)
    with torch.no_grad():
        states = model.vlm(**batch, output_hidden_states=True).hidden_states[-1]
        wanted = torch.stack([states[r, len(t) - 1] for r, t in enumerate(made)])
        wanted = wanted @ model.scalar_head.weight + model.scalar_head.bias
        model.vlm.lm_head.forward = None  # calling it would raise
        torch.testing.assert_close(model.raw(**batch), wanted, rtol=0, atol=1e-5)


def test_every_weight_below_gets_a_gradient_and_pads_get_none(processor):
    model = reward_model(processor)
    made, pixels = rows(processor)
    batch = padded(made, pixels, "right", 5)
    embeds = model.vlm.get_input_embeddings()
    embeds.weight.requires_grad_(True)
    batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], 401)
    model.raw(**batch).sum().backward()
    assert all(layer.lora_A.grad.abs().sum() > 0 for layer in lora_layers(model.vlm).values())
    assert embeds.weight.grad[401].abs().sum() == 0, "a padded token moved a reward"


def test_normalised_rewards_have_mean_0_and_spread_1(processor):
    model = reward_model(processor)
    batch = padded(*rows(processor, range(2, 12)))
    with torch.no_grad():
        raw = model.raw(**batch)
        model.normalise(float(raw.mean()), float(raw.std()))
        found = model(**batch)
        assert torch.equal(model.raw(**batch), raw)
    assert found.mean().abs() < 1e-5
    assert abs(float(found.std()) - 1) < 1e-5
    for mean, std in ((0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(InputError, match="cannot be normalised"):
            model.normalise(mean, std)


@pytest.mark.parametrize("kind", ["lora", "head", "trunk"])
def test_save_and_load_give_the_same_bits(tmp_path, processor, kind):
    model = reward_model(processor, lora=kind == "lora")
    if kind == "trunk":  # a connector that was trained beside the head
        for name, parameter in model.vlm.named_parameters():
            if "projector" in name:
                parameter.data += 0.01
                model.trained.add(name)
    model.normalise(0.3, 1.7)
    batch = padded(*rows(processor))
    model.save(tmp_path / "rm")
    model.save(tmp_path / "rm")  # over an older one
    loaded = RewardModel.load(tmp_path / "rm", base=build_tiny_llava(seed=0))
    with torch.no_grad():
        assert torch.equal(model(**batch), loaded(**batch))
    assert not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == ["rm"], "something temporary was left"
    assert (tmp_path / "rm" / "adapter").exists() == (kind == "lora")
    assert sum(f.stat().st_size for f in (tmp_path / "rm").rglob("*")) < 1_000_000, "the base too?"


def test_peft_reads_the_adapter(tmp_path, processor):
    import peft

    model = reward_model(processor)
    model.save(tmp_path / "rm")
    base = peft.PeftModel.from_pretrained(build_tiny_llava(seed=0)[0], tmp_path / "rm" / "adapter")
    batch = padded(*rows(processor))
    with torch.no_grad():
        theirs = base.eval()(**batch, output_hidden_states=True).hidden_states[-1]
        ours = model.vlm(**batch, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_shipped_base_is_found_by_its_name(tmp_path):
    from labs.models import load_vlm

    vlm, processor = load_vlm("tiny-sft")
    model = RewardModel(vlm, processor, "tiny-sft", torch.Generator().manual_seed(0)).eval()
    model.save(tmp_path / "rm")
    batch = padded(*rows(processor))
    with torch.no_grad():
        assert torch.equal(RewardModel.load(tmp_path / "rm")(**batch), model(**batch))


def broken_folders(folder):
    """Ways to break a saved reward model, with a word of the message."""
    card = json.loads((folder / "reward_model.json").read_text())

    def rewrite(**changes):
        (folder / "reward_model.json").write_text(json.dumps(card | changes))

    yield "no reward_model.json", lambda: (folder / "reward_model.json").unlink()
    yield "is damaged", lambda: (folder / "reward_model.json").write_text('{"version": 1')
    yield "is damaged", lambda: (folder / "reward_model.json").write_text("[1]")
    yield "is damaged", lambda: rewrite(files=3)
    yield "is damaged", lambda: rewrite(trained=None, base=None, files={})
    yield "is missing", lambda: (folder / "head.safetensors").unlink()
    yield "is cut", lambda: (folder / "head.safetensors").write_bytes(b"12")
    yield "is cut", lambda: (folder / "adapter" / "adapter_config.json").write_text("{}")
    yield "another base model", lambda: rewrite(base="0123456789abcdef")
    yield "another tokenizer", lambda: rewrite(tokenizer="0123456789abcdef")
    yield "another chat template", lambda: rewrite(chat_template="0123456789abcdef")


@pytest.mark.parametrize("number", range(11))
def test_a_broken_folder_is_named(tmp_path, processor, number):
    reward_model(processor).save(tmp_path / "rm")
    shutil.copytree(tmp_path / "rm", tmp_path / "copy")
    word, damage = list(broken_folders(tmp_path / "copy"))[number]
    damage()
    with pytest.raises(InputError, match=word):
        RewardModel.load(tmp_path / "copy", base=build_tiny_llava(seed=0))


def test_another_base_is_refused(tmp_path, processor):
    reward_model(processor).save(tmp_path / "rm")
    with pytest.raises(InputError, match="another base model"):
        RewardModel.load(tmp_path / "rm", base=build_tiny_llava(seed=1))
    vlm = build_tiny_llava(seed=0)[0]
    add_lora(vlm, r=2)
    with pytest.raises(InputError, match="already carries adapters"):
        RewardModel.load(tmp_path / "rm", base=(vlm, processor))
    with pytest.raises(InputError, match="no model 'tiny-random'"):
        RewardModel.load(tmp_path / "rm")


def test_another_tokenizer_is_refused(processor):
    model = reward_model(processor)
    model.check_tokenizer(build_tiny_llava()[1])
    padded_differently = build_tiny_llava()[1]
    padded_differently.tokenizer.padding_side = "left"
    padded_differently.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=4)
    model.check_tokenizer(padded_differently)  # moods of a tokenizer do not make it another
    other = build_tiny_llava()[1]
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match="another tokenizer"):
        model.check_tokenizer(other)
    with pytest.raises(InputError, match="another tokenizer"):
        RewardEnsemble([model, RewardModel(model.vlm, other)])
    template = build_tiny_llava()[1]
    template.chat_template = template.chat_template.replace("assistant", "helper")
    with pytest.raises(InputError, match="another chat template"):
        model.check_tokenizer(template)
    assert text_fingerprints(processor)["tokenizer"] != text_fingerprints(other)["tokenizer"]


def test_an_ensembles_members_are_its_models(processor):
    models = [reward_model(processor, seed) for seed in (0, 5)]
    models[0].normalise(0.2, 2.0)
    ensemble = RewardEnsemble(models).eval()
    batch = padded(*rows(processor))
    with torch.no_grad():
        rewards = ensemble(**batch)
        for row, model in zip(rewards, models, strict=True):
            assert torch.equal(row, model(**batch))
    mean, std = RewardEnsemble.mean_std(rewards)
    torch.testing.assert_close(std, (rewards[0] - rewards[1]).abs() / 2)
    torch.testing.assert_close(RewardEnsemble.pessimistic(rewards, 1.0), rewards.amin(0))
    assert torch.equal(RewardEnsemble.pessimistic(rewards, 0.0), mean)
    with pytest.raises(InputError, match="no reward models"):
        RewardEnsemble([])


def test_heads_on_one_trunk_share_one_pass(processor):
    model = reward_model(processor)
    ensemble = RewardEnsemble.of_heads(model, 3).eval()
    passes = []
    model.vlm.model.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        rewards = ensemble(**padded(*rows(processor)))
    assert len(passes) == 1 and rewards.shape == (3, 3)
    assert (rewards.std(0) > 0).all()
    weights = sum(p.numel() for p in ensemble.parameters())
    assert weights == sum(p.numel() for p in model.parameters()) + 2 * (128 + 1)
