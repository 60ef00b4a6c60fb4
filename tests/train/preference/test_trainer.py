"""Whole runs: they learn, start at log 2, log what they should, resume, and refuse bad input."""

import dataclasses
import math

import pytest
import torch
from train_helpers import quiet, weights

from labs.errors import InputError
from labs.models import load_vlm
from labs.models.lora import add_lora
from labs.train.config import LoraSettings
from labs.train.preference.config import PreferenceConfig
from labs.train.preference.trainer import check_tokenizers, train_preference
from tests.train.preference.preference_runs import fresh, pair, shake, some_pairs

LOGGED = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "entropy"}  # fmt: skip


def run(processor, pairs=None, loss="dpo", model=None, held_out=None, *, given=None, **changes):
    model = model or fresh()
    settings = {"method": "lora", "lora": LoraSettings(r=4, alpha=8), "learning_rate": 3e-3}
    preference = PreferenceConfig(loss, **(given or {}))
    options = {k: changes.pop(k) for k in list(changes) if k in ("stored", "eval_stored", "reference_model", "reference_processor", "useless_limit", "resume", "on_log")}  # fmt: skip
    config = quiet(**settings | changes)
    result = train_preference(model, processor, pairs or some_pairs(8), held_out, config, preference, keep=True, **options)  # fmt: skip
    return model, result


def test_a_run_learns_16_pairs(tmp_path):
    model, processor = load_vlm("tiny-base")
    before = weights(model)
    pairs = [pair(i, task) for task in ("existence", "colour") for i in range(8)]
    _, result = run(
        processor, pairs, model=model, held_out=pairs, max_steps=12, eval_steps=6,
        per_device_train_batch_size=16, learning_rate=1e-2, lora=LoraSettings(r=8, alpha=16),
        output_dir=str(tmp_path), save_final=True,
    )  # fmt: skip
    first, *_, last = (e for e in result.history if "loss" in e)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/accuracies"] == 0.5, "ties"
    assert last["rewards/accuracies"] == 1.0 and last["rewards/margins"] > 1
    assert last["loss"] < 0.3
    evals = [e for e in result.history if "eval_loss" in e]
    assert [e["step"] for e in evals] == [6, 12]
    assert evals[-1]["eval_rewards/accuracies"] == 1.0 and evals[-1]["eval_rewards/margins"] > 1
    after = {n.replace(".base.", "."): p for n, p in model.named_parameters()}
    assert all(torch.equal(after[n], p) for n, p in before.items()), "the base has to stay"
    for entry in result.history:
        prefix = "eval_" if "eval_loss" in entry else ""
        assert {prefix + name for name in LOGGED} <= entry.keys()
        assert not any(k.endswith("_loss") and "/" in k for k in entry)
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["robust", "kto", "simpo", "orpo", "mdpo", "mpo"])
def test_every_method_widens_its_margin(processor, method):
    given = {"label_smoothing": 0.1} if method in ("robust", "cdpo") else {}
    _, result = run(processor, some_pairs(4), method, given=given, max_steps=4)
    _, margins = result.losses("rewards/margins")
    assert margins[-1] > margins[0]
    assert ("rewards/corrupted" in result.history[0]) == (method == "mdpo")
    assert ("kl" in result.history[0]) == (method == "kto")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_three_references_are_one_run(processor, tmp_path, method):
    changes = {"method": method, "learning_rate": 1e-3, "max_steps": 3}
    histories = [
        run(processor, given={"reference": how}, **changes, **extra)[1].losses()[1]
        for how, extra in (
            ("adapter_off", {}),
            ("model", {"reference_model": fresh()}),
            ("stored", {"stored": tmp_path / "ref.safetensors"}),
            ("stored", {"stored": tmp_path / "ref.safetensors"}),
        )
    ]
    assert histories[2] == histories[3], "read back"
    for other in histories[1:]:
        assert other == pytest.approx(histories[0], abs=1e-5)
    assert histories[0][-1] < math.log(2) - 1e-3


def test_packed_accumulated_and_plain_are_one_run(processor):
    plain = run(processor, given={"shared_prefix": False})[1]
    packed = run(processor, given={"shared_prefix": True})[1]
    parts = run(processor, per_device_train_batch_size=1, gradient_accumulation_steps=4)[1]
    for name in ("loss", "rewards/margins", "logps/chosen", "grad_norm"):
        assert packed.losses(name)[1] == pytest.approx(plain.losses(name)[1], rel=1e-3, abs=1e-4)
        assert parts.losses(name)[1] == pytest.approx(plain.losses(name)[1], rel=1e-3, abs=1e-4)


def test_checkpointing_and_peft_change_nothing_they_should_not(processor):
    plain = run(processor)[1].losses()[1]
    assert run(processor, gradient_checkpointing=True)[1].losses()[1] == pytest.approx(plain, abs=1e-5)  # fmt: skip
    peft = run(processor, lora=LoraSettings(r=4, alpha=8, implementation="peft"))[1].losses()[1]
    assert peft[0] == pytest.approx(math.log(2), abs=1e-6) and peft[-1] < peft[0]


def test_a_resumed_run_is_the_same_run(processor, tmp_path):
    for method in ("lora", "full"):
        changes = {"method": method, "learning_rate": 1e-3, "save_steps": 2, "output_dir": str(tmp_path / method)}  # fmt: skip
        straight, result = run(processor, **changes)
        resumed, again = run(processor, resume=tmp_path / method / "checkpoint-2", **changes)
        assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True))  # fmt: skip
        assert again.losses()[1] == result.losses()[1]


def test_a_lora_that_the_model_carries_trains_on_with_another_reference(processor):
    def carrying():
        model = fresh()
        model.requires_grad_(False)
        add_lora(model, 4)
        for name, p in model.named_parameters():
            p.requires_grad_("lora" in name)
        shake(model)
        return model

    with pytest.raises(InputError, match="carries an adapter"):
        run(processor, model=carrying())
    for how, extra in (("stored", {}), ("model", {"reference_model": carrying()})):
        _, result = run(processor, model=carrying(), given={"reference": how}, **extra)
        assert result.losses()[1][0] == pytest.approx(math.log(2), abs=1e-5)
        assert result.losses()[1][-1] < math.log(2) - 1e-3


def test_useless_pairs_are_refused_unless_told(processor):
    tied = [pair(i, chosen="no", rejected="no") for i in range(2)]
    pairs = some_pairs(10) + tied
    with pytest.raises(InputError, match="teach nothing"):
        run(processor, pairs)
    run(processor, pairs, useless_limit=1, max_steps=1)
    other = some_pairs(8)
    other[0] = dataclasses.replace(other[0], meta={"rejected_images": ["elsewhere.png"]})
    with pytest.raises(InputError, match="1 with answers to different images"):
        run(processor, other, num_train_epochs=1, max_steps=None)
    with pytest.raises(InputError, match="None of the"):
        run(processor, given={"max_length": 5})
    with pytest.raises(InputError, match="no preference pairs"):
        train_preference(fresh(), processor, [])


def test_kto_needs_two_pairs_a_batch(processor):
    with pytest.raises(InputError, match="per_device_train_batch_size to 2"):
        run(processor, loss="kto", per_device_train_batch_size=1)


def test_a_reference_of_another_tokenizer_is_refused(processor):
    import copy

    other = copy.deepcopy(processor)
    other.tokenizer.add_tokens(["<new>"])
    check_tokenizers(processor, copy.deepcopy(processor))
    with pytest.raises(InputError, match=r"another tokenizer: 1 of its"):
        run(processor, given={"reference": "model"}, reference_model=fresh(), reference_processor=other)  # fmt: skip


def test_an_sft_term_holds_the_chosen_answer_up(processor):
    """Likelihood displacement: with DPO alone both answers may sink; weights 1, 0, w repair it."""
    pairs = [pair(i, "caption", rejected=None) for i in range(4)]
    pairs = [dataclasses.replace(p, rejected=p.chosen.replace(" a ", " the ", 1) + " a ring.") for p in pairs]  # fmt: skip
    last = {}
    for name, method, given in (("dpo", "dpo", {}), ("held", "mpo", {"weights": (1.0, 0.0, 1.0)})):
        _, result = run(processor, pairs, method, given=given, max_steps=6)
        last[name] = result.losses("logps/chosen")[1][-1] - result.losses("logps/chosen")[1][0]
    assert last["held"] > last["dpo"] and last["held"] > 0
