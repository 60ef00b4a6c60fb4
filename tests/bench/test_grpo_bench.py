"""`labs bench grpo`: both sides compute the same on given answers, and the checks see it where not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from labs.bench import grpo
from labs.bench import grpo_models as shared

pytest.importorskip("trl")


@pytest.mark.slow
def test_a_step_of_each_way_on_the_same_given_answers(monkeypatch):
    # Two rounds of eight answers are too few for their lengths to agree.
    monkeypatch.setattr(grpo, "LENGTHS_AGREE", 10.0)
    result = grpo.run(
        sizes=("tiny",),
        prompts=2,
        generations=4,
        micro_batch=4,  # two of them: their losses and gradients have to add up
        max_new_tokens=12,
        steps=1,
        turns=1,
    )
    row = result["sizes"]["tiny"]
    values = {"prompts", "completions", "logprobs", "reference_logprobs", "advantages", "loss"}
    assert set(row["difference"]["trl"]) == values | {"gradient"}
    assert set(row["difference"]["trl as it comes"]) == values
    for found in row["difference"].values():
        assert found["prompts"] == found["completions"] == 0
        assert all(difference <= 1e-4 for difference in found.values())
    for way in grpo.WAYS:
        logged = row["logged"][way]
        assert 1 <= logged["response_length"] <= 12
        assert 0 <= logged["reward"] <= 1 and logged["entropy"] > 0 and logged["grad_norm"] > 0
        assert row["completions_per_second"][way] > 0 and row["peak_mb"][way] > 1
    assert len(grpo.tables(result)) == 2


TENSORS = {"logprobs": torch.tensor([-1.0, -2.0]), "gradient": torch.tensor([0.5])}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"logprobs": torch.tensor([-1.0, -2.0002])}, "differs in logprobs"),
        ({"logprobs": torch.tensor([-1.0, math.nan])}, "differs in logprobs"),
        ({"logprobs": torch.tensor([-1.0])}, "of shape"),
        ({"gradient": torch.tensor([0.6])}, "differs in gradient"),
    ],
)
def test_other_numbers_are_not_comparable(tmp_path, changed, said):
    def setups(theirs, way="trl", **other):
        found = {}
        for name, tensors in (("labs", TENSORS), (way, theirs)):
            path = tmp_path / f"{name}.safetensors"
            save_file(tensors, path)
            found[name] = {"check": str(path), "weights": "w", "adapter": "a"}
        found[way] |= other
        return found

    near = {name: tensor + 2e-5 for name, tensor in TENSORS.items()}
    found = grpo._check_same(setups(near), "tiny")
    assert found == {"trl": pytest.approx({"logprobs": 2e-5, "gradient": 2e-5}, rel=0.02)}
    with pytest.raises(grpo.NotComparable, match=said):
        grpo._check_same(setups(TENSORS | changed), "tiny")
    if "gradient" in changed:  # whose gradient has one more term
        found = grpo._check_same(setups(TENSORS | changed, "trl as it comes"), "tiny")
        assert found == {"trl as it comes": {"logprobs": 0}}
    for what in ("weights", "adapter"):
        with pytest.raises(grpo.NotComparable, match=f"another {what}"):
            grpo._check_same(setups(near, **{what: "other"}), "tiny")


@pytest.mark.parametrize("theirs", [11.2, 8.8, math.nan])
def test_answers_of_another_length_are_other_work(theirs):
    grpo._check_lengths({"labs": 10.0, "trl": 10.8}, "tiny")
    with pytest.raises(grpo.NotComparable, match=r"ours 10\.00"):
        grpo._check_lengths({"labs": 10.0, "trl": theirs}, "tiny")


def test_a_turn_is_whole_steps(monkeypatch):
    from labs.bench import grpo_child

    clock_face = iter([10.0, 16.0, 20.0])
    monkeypatch.setattr(grpo_child.time, "perf_counter", lambda: next(clock_face))
    monkeypatch.setattr(grpo_child.time, "process_time", lambda: 1.0)
    said = []

    class Turns:
        def wait(self):
            said.append("wait")

        def report(self, measured):
            said.append(measured)

    clock = grpo_child.Clock(Turns(), {"steps": 2, "prompts": 3, "generations": 4}, level=0)
    clock.start()
    clock.step({"reward": 1.0})
    assert said == ["wait"]
    clock.step({"reward": 2.0})
    assert said[1]["seconds_per_completion"] == 6.0 / (2 * 3 * 4)
    assert said[1]["logged"] == {"reward": 1.5}
    assert said[2:] == ["wait"] and clock.logged == []


words = st.text("ab c.", max_size=12)


@given(words, words)
def test_score_is_the_f1_of_letters(said, answer):
    left, common = list(answer), 0
    for letter in said:
        if letter in left:
            left.remove(letter)
            common += 1
    precision, recall = common / max(1, len(said)), common / max(1, len(answer))
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    assert shared.score(said.upper(), answer) == pytest.approx(f1)


@pytest.fixture(scope="module")
def adapted():
    """tiny-sft under our LoRA and under PEFT's, filled by the bench."""
    from peft import LoraConfig, get_peft_model

    from labs.models.lora import add_lora

    own, processor = shared.start("tiny-sft")
    bare, _ = shared.start("tiny-sft")
    other, _ = shared.start("tiny-sft")
    add_lora(own, shared.RANK, shared.ALPHA)
    own.requires_grad_(False)
    for parameter in shared.lora_tensors(own).values():
        parameter.requires_grad_(True)
    config = LoraConfig(
        r=shared.RANK, lora_alpha=shared.ALPHA, target_modules=shared.adapted_layers(other)
    )
    theirs = get_peft_model(other, config)
    for model in (own, theirs):
        shared.fill_adapter(model)
        model.eval()
    return bare.eval(), own, theirs, processor


def test_both_libraries_hold_the_same_policy_beside_the_same_reference(adapted):
    from labs.bench.grpo_check import identity

    bare, own, theirs, processor = adapted
    assert identity(own) == identity(theirs)
    ids = processor.tokenizer("Is there a ring?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, ours, peft = (m(input_ids=ids).logits for m in (bare, own, theirs))
        with theirs.disable_adapter():
            off = theirs(input_ids=ids).logits
    torch.testing.assert_close(ours, peft, atol=1e-4, rtol=0)
    assert torch.equal(off, expected)
    assert (ours - expected).abs().max() > 1e-2  # else policy and reference could be mixed up


def test_identity_sees_one_number(adapted):
    from labs.bench.grpo_check import identity

    _, own, _, _ = adapted
    before = identity(own)
    name = next(n for n, p in own.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        own.get_parameter(name).view(-1)[0] += 1
        assert identity(own)["weights"] != before["weights"]
        own.get_parameter(name).view(-1)[0] -= 1
        adapter = next(iter(shared.lora_tensors(own).values()))
        adapter.view(-1)[0] += 1
        assert identity(own)["adapter"] != before["adapter"]
        adapter.view(-1)[0] -= 1


def test_prompts_and_given_answers(tmp_path):
    from labs.bench.grpo_child import Prompts
    from labs.models.tiny import tiny_tokenizer

    rows = shared.read_prompts(shared.write_prompts(tmp_path, 8, 48))
    prompts = Prompts(rows)
    assert len(prompts) == 8
    assert [p.task for p in map(prompts.__getitem__, range(8))] == list(shared.TASKS)
    for prompt, row in zip((prompts[i] for i in range(8)), rows, strict=True):
        assert (prompt.text, prompt.answer) == (row["question"], row["answer"])
        assert prompt.images[0].size == (48, 48)

    tokenizer = tiny_tokenizer()
    made = shared.given_completions(tokenizer, rows, 6, 20)
    assert made == shared.given_completions(tokenizer, rows, 6, 20) and len(made) == 48
    assert {1 <= len(ids) <= 20 for ids in made} == {True}
    assert len({len(ids) for ids in made}) > 5
    ends = [ids[-1] == tokenizer.eos_token_id for ids in made]
    assert sum(ends) == 32  # two in three
    special = set(tokenizer.all_special_ids)
    assert not any(special & set(ids[:-1]) for ids in made)
    said = tokenizer.batch_decode(made, skip_special_tokens=True)
    rewards = [shared.score(text, rows[i // 6]["answer"]) for i, text in enumerate(said)]
    assert all(len(set(rewards[i : i + 6])) > 1 for i in range(0, 48, 6))  # a signal in each group
