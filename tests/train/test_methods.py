"""LoRA and its kin: the own numbers are PEFT's, and what is frozen stays frozen, bit for bit."""

import json

import peft
import pytest
import torch
from train_helpers import quiet, weights

from labs.errors import InputError
from labs.models import build_tiny_llava
from labs.models.adapters import add_adapters
from labs.models.lora import add_lora, lora_layers, merge_lora, merged_state_dict, save_lora
from labs.models.parts import part_of
from labs.train import LoraSettings, count_parts, prepare, train
from labs.train.methods import OrthogonalRegulariser, quantise_nf4


def logits(model, collate, samples):
    batch = collate(samples.items[:3])
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


def pair(rslora=False, r=6, alpha=10.0):
    """One model with the own LoRA, one with PEFT's, the same random non-zero A and B in both."""
    own, _ = build_tiny_llava(seed=0)
    other, _ = build_tiny_llava(seed=0)
    names = add_lora(own, r, alpha, rslora=rslora)
    config = peft.LoraConfig(r=r, lora_alpha=alpha, target_modules=names, use_rslora=rslora)
    other = peft.get_peft_model(other, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, layer in lora_layers(own).items():
            theirs = other.base_model.model.get_submodule(name)
            for mine, their in [
                (layer.lora_A, theirs.lora_A["default"].weight),
                (layer.lora_B, theirs.lora_B["default"].weight),
            ]:
                mine.copy_(0.1 * torch.randn(mine.shape, generator=generator))
                their.copy_(mine)
    return own.eval(), other.eval()


@pytest.mark.parametrize("rslora", [False, True])
def test_own_lora_is_peft_forward_and_merged(samples, collate, rslora):
    own, other = pair(rslora)
    base = logits(build_tiny_llava(seed=0)[0].eval(), collate, samples)
    mine, theirs = logits(own, collate, samples), logits(other, collate, samples)
    assert (mine - base).abs().max() > 0.1, "an update that does nothing would prove nothing"
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)

    state = merged_state_dict(own)
    merge_lora(own)
    assert not lora_layers(own)
    merged = other.merge_and_unload()
    mine, theirs = dict(own.named_parameters()), dict(merged.named_parameters())
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-6)
        assert torch.equal(state[name], mine[name]), name
    torch.testing.assert_close(
        logits(own, collate, samples), logits(merged, collate, samples), rtol=0, atol=1e-6
    )


def test_own_lora_is_peft_in_gradients_and_training(samples, collate):
    own, other = pair()
    batch = collate(samples.items[:4])
    for model in (own, other):
        model(**batch).loss.backward()
    for name, layer in lora_layers(own).items():
        theirs = other.base_model.model.get_submodule(name)
        for mine, their in [("lora_A", theirs.lora_A), ("lora_B", theirs.lora_B)]:
            torch.testing.assert_close(
                getattr(layer, mine).grad, their["default"].weight.grad, rtol=1e-4, atol=1e-6
            )


def test_a_new_lora_changes_nothing(samples, collate, model):
    model.eval()
    before = logits(model, collate, samples)
    names = add_lora(model, r=4)
    assert torch.equal(before, logits(model, collate, samples))
    assert len(names) == 3 * 7 and all("language_model" in n for n in names)
    assert all(layer.lora_A.abs().sum() > 0 for layer in lora_layers(model).values())


def test_peft_reads_what_own_lora_writes(tmp_path, samples, collate):
    own, _ = pair(rslora=True)
    save_lora(own, tmp_path)
    base, _ = build_tiny_llava(seed=0)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(
        logits(own, collate, samples), logits(loaded, collate, samples), rtol=0, atol=1e-6
    )


def test_a_bottleneck_starts_as_nothing_and_is_the_formula(samples, collate, model):
    model.eval()
    before = logits(model, collate, samples)
    names = add_adapters(model, r=5)
    assert len(names) == 3
    assert torch.equal(before, logits(model, collate, samples))
    adapter = model.get_submodule(names[0])
    with torch.no_grad():
        adapter.adapter_up.weight.normal_()
        x = torch.randn(2, 3, 128)
        h = adapter.base(x)
        inner = torch.nn.functional.gelu(
            h @ adapter.adapter_down.weight.T + adapter.adapter_down.bias
        )
        torch.testing.assert_close(adapter(x), h + inner @ adapter.adapter_up.weight.T)


@pytest.mark.parametrize(
    "method,implementation",
    [
        ("full", "own"),
        ("lora", "own"),
        ("lora", "peft"),
        ("rslora", "own"),
        ("qlora", "own"),
        ("qlora", "peft"),
        ("dora", "peft"),
        ("adalora", "peft"),
        ("bottleneck", "own"),
    ],
)
def test_what_is_frozen_stays_and_what_trains_moves(
    tmp_path, processor, samples, collate, method, implementation
):
    model, _ = build_tiny_llava(seed=0)
    config = quiet(
        method=method,
        lora=LoraSettings(r=4, implementation=implementation),
        trainable={"connector": "all"},
        max_steps=5,
        learning_rate=5e-3,
        output_dir=str(tmp_path),
        save_final=True,
    )
    trainer, peft_model = prepare(model, processor, samples, samples.items[:4], config)
    before = weights(model)
    first = trainer.evaluate()
    trainer.train()
    after = weights(model)
    assert trainer.evaluate() < first
    for name, old in before.items():
        part = part_of(name)
        trains = name in trainer.names
        if part == "vision_tower":
            assert not trains
        elif part == "lora":
            assert trains or "ranknum" in name
        elif part == "connector":
            assert trains
        else:
            assert trains == (method == "full"), name
        # k_proj.bias has no gradient but rounding: softmax ignores what all keys share. AdaLoRA may
        # have pruned a layer's ranks to zero.
        if trains and not name.endswith("k_proj.bias") and "lora_E" not in name:
            assert not torch.equal(old, after[name]), f"{name} did not move"
        elif not trains:
            assert torch.equal(old, after[name]), f"{name} is frozen and moved"
    assert method != "adalora" or any(w.any() for n, w in after.items() if "lora_E" in n)
    counts = {c.part: c for c in count_parts(model)}
    if method != "full":
        assert counts["language_model"].trainable == 0
        assert counts["language_model"].total >= 500_000  # 4-bit weights are counted unpacked
        assert 0 < counts["lora"].trainable < 100_000

    from labs.train.stages import finish

    finish(trainer, processor, peft_model)
    mergeable = method in ("full", "lora", "rslora", "dora", "adalora")
    assert (tmp_path / "model").exists() == mergeable
    assert (tmp_path / "adapter").exists() == (method != "full")
    if mergeable:  # what was saved is what was trained
        from labs.models import load_vlm

        loaded, _ = load_vlm(tmp_path / "model")
        model.eval()
        torch.testing.assert_close(
            logits(loaded, collate, samples), logits(model, collate, samples), rtol=1e-4, atol=1e-4
        )
    if method == "lora":
        files = {p.name for p in (tmp_path / "adapter").iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json"} <= files
        assert "other_trainables.safetensors" in files  # the connector has to be shipped too
        assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_nf4_is_four_bits_and_close(samples, collate, model):
    import bitsandbytes as bnb

    from labs.models.lora import linear_targets

    model.eval()
    before = logits(model, collate, samples)
    names = linear_targets(model, "all-linear", ["language_model"])
    exact = {n: model.get_submodule(n).weight.detach().clone() for n in names}
    quantise_nf4(model, names, quiet())
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, bnb.nn.Linear4bit) and layer.weight.dtype == torch.uint8
        assert layer.weight.numel() * 2 == exact[name].numel()
        back = bnb.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)
        error = (back - exact[name]).pow(2).mean() / exact[name].pow(2).mean()
        assert 0 < error < 0.02  # NF4's error on normal weights is about 0.9 % of their power
    after = logits(model, collate, samples)
    # random weights of this size amplify the rounding; the answer is still mostly the same
    similarity = torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0)
    assert 0.9 < similarity < 0.99999


def test_lora_on_four_bits_cannot_be_merged(model):
    from labs.models.lora import linear_targets

    quantise_nf4(model, linear_targets(model, "all-linear", ["language_model"]), quiet())
    add_lora(model, r=2)
    with pytest.raises(InputError, match="cannot be merged"):
        merge_lora(model)
    assert lora_layers(model), "half merged"


def test_adalora_prunes_to_its_target(processor, samples, model):
    config = quiet(
        method="adalora", lora=LoraSettings(r=2, init_r=4, delta_t=1, tfinal=2), max_steps=8
    )
    trainer, peft_model = prepare(model, processor, samples, config=config)
    trainer.train()
    pattern = peft_model.peft_config["default"].rank_pattern
    assert len(pattern) == 3 * 7
    kept = sum(sum(mask) for mask in pattern.values())
    assert kept == 2 * len(pattern)  # 4 a layer at the start, 2 on average at the end
    assert len({sum(mask) for mask in pattern.values()}) > 1, "ranks are equal: nothing was chosen"


def test_the_orthogonal_penalty_is_peft_own(samples, collate, model, processor):
    config = quiet(method="adalora", lora=LoraSettings(r=2, init_r=4), max_steps=8)
    peft_model = prepare(model, processor, samples, config=config)[1]
    batch = collate(samples.items[:4])
    with torch.no_grad():
        plain = model(**batch).loss
        # PeftModel's own forward goes past the tuner, and would leave the penalty out
        theirs = peft_model.base_model(**batch).loss - plain
        ours = OrthogonalRegulariser(0.5)(model)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert ours > 0.1


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"lora": LoraSettings(target_modules=["q_porj"])}, "No linear layer"),
        ({"lora": LoraSettings(r=0)}, "rank of 0"),
        ({"method": "adalora", "lora": LoraSettings(tinit=3, tfinal=3), "max_steps": 5}, "tinit"),
        ({"method": "lroa"}, "method"),
    ],
)
def test_bad_lora_settings_are_named(model, processor, samples, changes, words):
    with pytest.raises(InputError, match=words):
        train(model, processor, samples, config=quiet(**{"method": "lora", **changes}))


def test_adapters_on_adapters_are_an_error(model, processor, samples):
    add_lora(model, r=2)
    with pytest.raises(InputError, match="already carries adapters"):
        train(model, processor, samples, config=quiet(method="lora"))
