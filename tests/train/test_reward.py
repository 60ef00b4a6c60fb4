"""Reward training: pairs to batches, the loss, and a run that learns, saves and refuses."""

import dataclasses

import pytest
import torch
from train_helpers import quiet

from labs.data.skips import Skip
from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.formats import Preference, Turn
from labs.models import build_tiny_llava, load_vlm
from labs.models.lora import lora_layers
from labs.models.scalar_head import RewardEnsemble, RewardModel
from labs.shapes import caption, make_record
from labs.train.config import LoraSettings
from labs.train.facts import add_facts, facts_of
from labs.train.reward import (
    RewardCollator,
    RewardObjective,
    RewardPairDataset,
    encode_pair,
    encode_rated,
)
from labs.train.reward_run import pair_scores, score_pairs, train_reward


def pair(index=0, chosen=None, rejected=None, task="existence", **meta):
    """A pair about a scene: the right answer, and the wrong one."""
    record = make_record(task, index, "train")
    qa = record["meta"]["turns"][0]
    wrong = {"yes": "no", "no": "yes"}.get(qa.answer, "a")
    return Preference(
        record["id"],
        (record["image"],),
        (Turn("user", "<image>\n" + qa.question),),
        qa.answer if chosen is None else chosen,
        wrong if rejected is None else rejected,
        {"scene": record["meta"]["scene"], **meta},
    )


def text(processor, encoded):
    return processor.tokenizer.decode(encoded["input_ids"]).replace("<image>" * 36, "<image>")


def swapped(pair):
    return dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def test_a_rated_answer_ends_with_its_end_token_or_without(processor):
    conversation = pair(chosen="yes it is").to_conversation()
    whole = text(processor, encode_rated(conversation, processor))
    assert whole.endswith("<|im_start|>assistant\nyes it is<|im_end|>"), "and no line break"
    open_ended = text(processor, encode_rated(conversation, processor, finished=False))
    assert whole == open_ended + "<|im_end|>"
    empty = pair(chosen="").to_conversation()
    assert text(processor, encode_rated(empty, processor, finished=False)).endswith("assistant\n")
    cut = encode_rated(conversation, processor, len(encode_rated(conversation, processor)["input_ids"]) - 2)  # fmt: skip
    assert text(processor, cut).endswith("yes it"), "the cut takes the end"


def test_facts_stand_between_picture_and_question_in_both_answers(processor):
    given = pair()
    told = encode_pair(given, processor, facts=True)
    plain = encode_pair(given, processor)
    fact = caption(given.meta["scene"])
    question = given.prompt[0].text.removeprefix("<image>\n")
    for side in ("chosen", "rejected"):
        assert f"<image>\n{fact}\n{question}<|im_end|>" in text(processor, told[side])
        assert fact not in text(processor, plain[side])
        assert text(processor, told[side]).replace(fact + "\n", "") == text(processor, plain[side])
        assert torch.equal(told[side]["pixel_values"], plain[side]["pixel_values"])


def test_where_facts_come_from():
    scene = make_record("existence", 3, "train")["meta"]["scene"]
    assert facts_of({"scene": scene, "language": "zh"}, "x") == caption(scene, "zh")
    assert facts_of({"scene": scene, "facts": "a cat. <image>"}, "x") == "a cat. "
    assert facts_of({"facts": [" one ", "", "two"]}, "x") == "one\ntwo"
    for nothing in ({}, {"facts": "  "}, {"facts": []}, {"facts": 7}, {"facts": [1]}):
        with pytest.raises(InputError, match="comes without facts"):
            facts_of(nothing, "x")


def test_facts_go_into_the_first_user_turn():
    turns = (Turn("system", "s"), Turn("user", "<image><image>\nq"), Turn("assistant", "a"), Turn("user", "b"))  # fmt: skip
    told = add_facts(turns, "F")
    assert (
        told[1].text == "<image><image>\nF\nq" and told[::2] == turns[::2] and told[3] == turns[3]
    )
    assert add_facts([Turn("user", "q <image>")], "F")[0].text == "F\nq <image>"
    with pytest.raises(InputError, match="no place for facts"):
        add_facts([Turn("system", "s")], "F")


def test_pairs_without_a_difference_are_skipped(processor):
    same = pair(chosen="yes", rejected="yes")
    with pytest.raises(Skip, match="the same") as caught:
        encode_pair(same, processor)
    assert caught.value.reason == "no_difference"
    late = pair(chosen="yes " * 20 + "yes", rejected="yes " * 20 + "no")
    whole = len(encode_pair(late, processor)["chosen"]["input_ids"])
    with pytest.raises(Skip, match=f"within max_length = {whole - 3}"):
        encode_pair(late, processor, whole - 3)
    with pytest.raises(Skip) as caught:
        encode_pair(late, processor, 40)
    assert caught.value.reason == "no_label"


def test_a_data_set_counts_what_it_skips_and_goes_on(processor):
    pairs = [pair(i) for i in range(4)]
    pairs[1] = pair(1, "no", "no")
    data = RewardPairDataset(pairs, processor)
    assert torch.equal(data[1]["chosen"]["input_ids"], data[2]["chosen"]["input_ids"])
    assert data[1] and data.skipped == {"no_difference": 1}, "counted once, however often asked"
    data.check()  # of 100 pairs or more
    with pytest.raises(IndexError):
        data[4]
    many = RewardPairDataset([pairs[1] if i % 40 == 0 else pairs[0] for i in range(120)], processor, keep=True)  # fmt: skip
    for i in range(120):
        many[i]
    with pytest.raises(InputError, match=r"3 of 120 pairs cannot be used .*same tokens"):
        many.check()
    with pytest.raises(InputError, match="None of the 2 pairs"):
        RewardPairDataset([pairs[1]] * 2, processor)[0]
    with pytest.raises(InputError, match="no preference pairs"):
        RewardPairDataset([], processor)


def test_a_batch_holds_chosen_then_rejected_and_each_rows_picture(processor):
    pairs = [pair(0), pair(1, task="caption", rejected="a ring.", margin=2.5), pair(2)]
    encoded = [encode_pair(p, processor) for p in pairs]
    batch = RewardCollator(processor)(encoded)
    assert batch["input_ids"].shape[0] == len(batch["pixel_values"]) == 6
    assert batch["margins"].tolist() == [1.0, 2.5, 1.0]
    assert "labels" not in batch
    for row, side in enumerate(("chosen", "rejected")):
        for i, item in enumerate(encoded):
            real = batch["attention_mask"][3 * row + i].bool()
            assert torch.equal(batch["input_ids"][3 * row + i][real], item[side]["input_ids"])
            assert torch.equal(batch["pixel_values"][3 * row + i], item[side]["pixel_values"][0])


@pytest.fixture
def rated(processor):
    vlm = build_tiny_llava(seed=0)[0]
    return RewardModel(vlm, processor, generator=torch.Generator().manual_seed(0)).eval()


def some_pairs(count=5):
    return [pair(i, task="caption", rejected="a large red ring.") if i % 2 else pair(i) for i in range(count)]  # fmt: skip


def test_swapping_a_pair_flips_its_margin(processor, rated):
    pairs = some_pairs()
    there = score_pairs(rated, processor, pairs)
    back = score_pairs(rated, processor, [swapped(p) for p in pairs])
    assert torch.allclose(torch.tensor(there.differences), -torch.tensor(back.differences), atol=1e-6)  # fmt: skip
    assert min(abs(d) for d in there.differences) > 1e-5
    assert there.accuracy + back.accuracy == pytest.approx(1)
    assert there.margin == pytest.approx(-back.margin, abs=1e-6)


def test_both_padding_sides_give_one_loss(processor, rated):
    encoded = [encode_pair(p, processor) for p in some_pairs()]
    objective = RewardObjective(rated, margin=0.5, centring=0.1)
    with torch.no_grad():
        right, left = (objective(RewardCollator(processor, side)(encoded), 5) for side in ("right", "left"))  # fmt: skip
    torch.testing.assert_close(right, left, rtol=0, atol=1e-5)


def test_shares_of_micro_batches_add_up_to_the_formula(processor, rated):
    pairs = [dataclasses.replace(p, meta=p.meta | {"margin": m}) for p, m in zip(some_pairs(), (1, 3, 0, 2, 1), strict=True)]  # fmt: skip
    encoded = [encode_pair(p, processor) for p in pairs]
    objective, collate = RewardObjective(rated, margin=0.5, centring=0.1), RewardCollator(processor)
    whole, parts = collate(encoded), [collate(encoded[:2]), collate(encoded[2:])]
    assert [objective.count(b) for b in (whole, *parts)] == [5, 2, 3]
    with torch.no_grad():
        rewards = [rated.raw(**{k: v for k, v in collate([e]).items() if k != "margins"}) for e in encoded]  # fmt: skip
        slow = 0.0
        for (chosen, rejected), p in zip(rewards, pairs, strict=True):
            slow -= torch.log(torch.sigmoid(chosen - rejected - 0.5 * p.meta["margin"])) / 5
            slow += 0.1 * (chosen + rejected) ** 2 / 5
        torch.testing.assert_close(objective(whole, 5), slow, rtol=0, atol=1e-5)
        torch.testing.assert_close(sum(objective(b, 5) for b in parts), slow, rtol=0, atol=1e-5)


def test_pair_scores_by_hand():
    found = pair_scores([2.0, -1.0, 0.0, 3.0])
    assert found.accuracy == 2.5 / 4 and found.margin == 1.0
    assert found.interval == wilson_ci(2, 4)
    with pytest.raises(InputError, match="no pairs"):
        pair_scores([])


def test_a_run_learns_16_pairs_and_saves_what_it_learnt(tmp_path):
    vlm, processor = load_vlm("tiny-base")
    pairs = [pair(i, task=task) for task in ("existence", "colour") for i in range(8)]
    before = {n: p.detach().clone() for n, p in vlm.named_parameters()}
    config = quiet(
        max_steps=20, per_device_train_batch_size=16, learning_rate=7e-3, lr_scheduler_type="linear", eval_steps=10,
        method="lora", lora=LoraSettings(r=8, alpha=16), output_dir=str(tmp_path), save_final=True,
    )  # fmt: skip
    model, result = train_reward(
        vlm, processor, pairs, pairs, config, keep=True, base_model="tiny-base"
    )
    assert result.losses()[1][0] == pytest.approx(0.693, abs=0.05), "log 2: it knows nothing yet"
    evals = [e for e in result.history if "eval_loss" in e]
    assert [e["step"] for e in evals] == [10, 20]
    assert evals[-1]["eval_accuracy"] == 1.0 and evals[-1]["eval_margin"] > 1

    found = score_pairs(model, processor, pairs)
    assert found.accuracy == 1.0
    assert evals[-1]["eval_margin"] == pytest.approx(found.margin, rel=1e-4)
    after = {n.replace(".base.", "."): p for n, p in model.vlm.named_parameters()}
    assert all(torch.equal(after[n], p) for n, p in before.items()), "the base has to stay"
    assert lora_layers(model.vlm) and not model.trained

    loaded = RewardModel.load(tmp_path / "reward_model")
    batch = RewardCollator(processor)([encode_pair(p, processor) for p in pairs])
    batch.pop("margins")
    with torch.no_grad():
        rewards = model(**batch)
        assert torch.equal(loaded(**batch), rewards)
    assert rewards.mean().abs() < 1e-4 and abs(float(rewards.std()) - 1) < 1e-4


def test_full_training_is_saved_by_what_it_changed(tmp_path, processor):
    config = quiet(
        max_steps=2, output_dir=str(tmp_path), save_final=True, trainable={"connector": "frozen", "vision_tower": "frozen"},
    )  # fmt: skip
    vlm = build_tiny_llava(seed=0)[0]
    model, _ = train_reward(vlm, processor, some_pairs(), None, config)
    assert model.trained and all("language_model" in n or "embed" in n for n in model.trained)
    loaded = RewardModel.load(tmp_path / "reward_model", base=build_tiny_llava(seed=0))
    batch = RewardCollator(processor)([encode_pair(p, processor) for p in some_pairs()])
    batch.pop("margins")
    with torch.no_grad():
        assert torch.equal(loaded(**batch), model(**batch))


def test_a_resumed_run_is_the_same_run(tmp_path, processor):
    def run(folder, **changes):
        config = quiet(max_steps=4, save_steps=2, output_dir=str(folder), method="lora", lora=LoraSettings(r=2, alpha=4))  # fmt: skip
        return train_reward(build_tiny_llava(seed=0)[0], processor, some_pairs(6), None, config, **changes)[0]  # fmt: skip

    straight = run(tmp_path / "a")
    resumed = run(tmp_path / "a", resume=tmp_path / "a" / "checkpoint-2")
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True))  # fmt: skip


def test_heads_on_one_trunk_train_together(processor):
    vlm = build_tiny_llava(seed=0)[0]
    ensemble = RewardEnsemble.of_heads(RewardModel(vlm, processor), 3)
    config = quiet(max_steps=6, method="lora", lora=LoraSettings(r=4, alpha=8), learning_rate=3e-3)
    before = [m.scalar_head.weight.detach().clone() for m in ensemble.members]
    _, result = train_reward(
        ensemble, processor, some_pairs(4), some_pairs(4), config, centring=0.0
    )
    assert result.losses()[1][-1] < result.losses()[1][0]
    assert all(not torch.equal(m.scalar_head.weight, b) for m, b in zip(ensemble.members, before, strict=True))  # fmt: skip
    assert {float(m.reward_std) for m in ensemble.members} != {1.0}
    parts = RewardEnsemble([RewardModel(build_tiny_llava(seed=s)[0], processor) for s in (0, 1)])
    with pytest.raises(InputError, match="trunks of their own"):
        train_reward(parts, processor, some_pairs(4), None, config)


def test_methods_that_could_not_be_loaded_again_are_refused(processor):
    for config in (quiet(method="dora"), quiet(method="lora", lora=LoraSettings(implementation="peft"))):  # fmt: skip
        with pytest.raises(InputError, match="cannot be trained"):
            train_reward(build_tiny_llava()[0], processor, some_pairs(2), None, config)


def test_checkpointing_changes_no_gradient(processor):
    def run(**changes):
        config = quiet(max_steps=2, method="lora", lora=LoraSettings(r=2, alpha=4), **changes)
        model, result = train_reward(
            build_tiny_llava(seed=0)[0], processor, some_pairs(4), None, config
        )
        assert model.vlm.is_gradient_checkpointing == bool(changes)
        return result.losses()[1]

    assert run(gradient_checkpointing=True) == pytest.approx(run(), abs=1e-6)
