"""A reward model as a reward: what it rates is what the policy said."""

import pytest
import torch

from labs.data import Collator
from labs.errors import InputError
from labs.formats import Conversation, Turn
from labs.models import build_tiny_llava, user_message
from labs.models.generation import encode_prompts, render_prompt
from labs.models.scalar_head import RewardEnsemble, RewardModel
from labs.shapes import make_record
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards_model import ModelReward, turns_of
from labs.train.reward import encode_rated


@pytest.fixture(scope="module")
def rated(processor):
    model = RewardModel(build_tiny_llava(seed=0)[0], processor, generator=torch.Generator().manual_seed(0))  # fmt: skip
    model.normalise(0.1, 0.05)
    return model.eval()


def prompts(count=5):
    made = []
    for i in range(count):
        record = make_record("existence", i, "train")
        meta = record["meta"]
        about = {"scene": meta["scene"], "language": "en"}
        message = user_message(meta["turns"][0].question, 1)
        made.append(Prompt(record["id"], (message,), (record["image"],), "existence", about=about))
    return made


SAID = ["yes", "no, but there is a small red ring at the top left.", "", "a ring", "no"]


def said(texts=SAID, finished=True):
    return [Completion(t, 1, finished) for t in texts]


def test_the_reward_is_the_models_on_prompt_answer_and_end_token(processor, rated):
    """Against the rollout's own way: the rendered prompt, the answer's tokens, the end token."""
    reward = ModelReward(rated, processor, batch_size=2)
    assert reward.name == "reward_model"
    for finished in (True, False):
        found = reward(prompts(), said(finished=finished))
        for prompt, words, value in zip(prompts(), SAID, found, strict=True):
            batch = encode_prompts(processor, [render_prompt(processor, prompt.messages)], [prompt.images])  # fmt: skip
            tail = processor.tokenizer(words + "<|im_end|>" * finished, add_special_tokens=False)
            tail = torch.tensor([tail["input_ids"]], dtype=torch.long)
            ids = torch.cat([batch["input_ids"], tail], 1)
            with torch.no_grad():
                alone = rated(input_ids=ids, pixel_values=batch["pixel_values"])
            assert value == pytest.approx(float(alone), abs=2e-3)  # in units of 0.05
    assert len({round(v, 3) for v in found}) > 3


def test_order_and_batch_size_do_not_matter(processor, rated):
    one = ModelReward(rated, processor, batch_size=1)(prompts(), said())
    many = ModelReward(rated, processor, batch_size=32)(prompts()[::-1], said(SAID[::-1]))
    assert one == pytest.approx(many[::-1], abs=2e-3)
    assert ModelReward(rated, processor)([], []) == []


def test_the_model_is_left_as_it_was(processor, rated):
    rated.train()
    ModelReward(rated, processor)(prompts(2), said(SAID[:2]))
    assert rated.training and all(p.grad is None for p in rated.parameters())
    rated.eval()


def test_facts_reach_the_reward_model_and_must_be_there(processor, rated):
    blind, told = ModelReward(rated, processor), ModelReward(rated, processor, facts=True)
    values = told(prompts(), said())
    assert all(abs(a - b) > 1e-3 for a, b in zip(values, blind(prompts(), said()), strict=True))
    prompt = prompts(1)[0]
    other = Prompt(prompt.id, prompt.messages, prompt.images, about={"facts": "a lie."})
    assert told([other], said(["yes"])) != pytest.approx(told([prompt], said(["yes"])), abs=1e-4)
    with pytest.raises(InputError, match="comes without facts"):
        told([Prompt(prompt.id, prompt.messages, prompt.images)], said(["yes"]))


def test_pessimism_takes_the_doubt_off(processor, rated):
    other = RewardModel(rated.vlm, processor, generator=torch.Generator().manual_seed(9)).eval()
    ensemble = RewardEnsemble([rated, other])
    a, b = (torch.tensor(ModelReward(m, processor)(prompts(), said())) for m in (rated, other))
    for k in (0.0, 1.0, 2.0):
        found = torch.tensor(ModelReward(ensemble, processor, pessimism=k)(prompts(), said()))
        torch.testing.assert_close(found, (a + b) / 2 - k * (a - b).abs() / 2, rtol=0, atol=3e-3)
    with pytest.raises(InputError, match="several opinions"):
        ModelReward(rated, processor, pessimism=1.0)


def test_a_policy_of_another_tokenizer_is_refused(rated):
    other = build_tiny_llava()[1]
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match="another tokenizer"):
        ModelReward(rated, other)
    with pytest.raises(InputError, match="batch of 0"):
        ModelReward(rated, rated.processor, batch_size=0)


def test_a_spelled_placeholder_is_no_picture(processor, rated):
    reward = ModelReward(rated, processor)
    found = reward(prompts(2), said(["yes <image>", "yes "]))
    assert found[0] == pytest.approx(reward(prompts(1), said(["yes "]))[0], abs=2e-3)


def test_turns_render_to_the_policys_own_prompt(processor):
    messages = (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        user_message("What is it?", 2),
        {"role": "assistant", "content": "A ring."},
        user_message("Where?"),
    )
    turns = turns_of(messages, processor)
    assert [t.role for t in turns] == ["system", "user", "assistant", "user"]
    image = make_record("existence", 0, "train")["image"]
    conversation = Conversation("x", (image, image), (*turns, Turn("assistant", "Here.")))
    ids = Collator(processor)([encode_rated(conversation, processor)])["input_ids"]
    wanted = encode_prompts(processor, [render_prompt(processor, messages)], [[image, image]])
    assert torch.equal(ids[:, : wanted["input_ids"].shape[1]], wanted["input_ids"])
