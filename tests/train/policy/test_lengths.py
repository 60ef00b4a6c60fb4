"""Which prompts leave room for an answer."""

from types import SimpleNamespace

import pytest

from labs.errors import InputError
from labs.models import user_message
from labs.models.generation import encode_prompts, render_prompt
from labs.train.policy.config import PolicyConfig
from labs.train.policy.lengths import PromptLengths
from labs.train.policy.prompts import Prompt
from tests.train.policy.policy_runs import PICTURES, prompts


def length(processor, prompt) -> int:
    text = render_prompt(processor, prompt.messages)
    return encode_prompts(processor, [text], [prompt.images])["input_ids"].shape[1]


def wordy(words: int, images: int = 1) -> Prompt:
    text = "Is there " + "a red " * words + "ring?"
    return Prompt(f"w{words}", (user_message(text, images),), tuple(PICTURES[:images]))


@pytest.fixture
def many():
    return [*prompts(6), *(wordy(n, n % 3) for n in range(1, 40, 4))]


@pytest.mark.parametrize("limit", [20, 55, 60, 80, 100, 130])
def test_the_limit_counts_words_and_pictures(model, processor, many, limit):
    lengths = PromptLengths(model, processor, PolicyConfig(max_prompt_length=limit))
    for prompt in many * 2:  # the second time what a picture takes is known
        assert lengths.fits(prompt) == (length(processor, prompt) <= limit), prompt.id


def test_the_answer_needs_room_in_the_models_positions(model, processor):
    positions = model.config.get_text_config().max_position_embeddings
    prompt = prompts(1)[0]
    tokens = length(processor, prompt)
    for room, fits in ((tokens, True), (tokens - 1, False)):
        policy = PolicyConfig(max_new_tokens=positions - room)
        lengths = PromptLengths(model, processor, policy)
        assert lengths.limit == room and lengths.fits(prompt) == fits
    policy = PolicyConfig(max_new_tokens=8, max_prompt_length=10)
    assert PromptLengths(model, processor, policy).limit == 10, "the smaller of the two"


def test_others_are_left_out_and_counted(model, processor):
    lengths = PromptLengths(model, processor, PolicyConfig(max_prompt_length=80))
    short = prompts(3, images=1)
    assert lengths.keep([short[0], wordy(60), short[1], wordy(61), short[2]]) == short
    assert (lengths.seen, lengths.overlong) == (5, 2)


def test_a_step_without_a_prompt_is_none(model, processor):
    lengths = PromptLengths(model, processor, PolicyConfig(max_prompt_length=5))
    with pytest.raises(InputError, match="2 of 2 prompts are longer than the 5 tokens"):
        lengths.keep(prompts(2))


def test_too_many_stop_the_run_once_there_are_a_hundred(model, processor):
    lengths = PromptLengths(model, processor, PolicyConfig(max_prompt_length=80))
    short, long = prompts(1, images=1)[0], wordy(60)
    assert len(lengths.keep([short] * 97 + [long] * 2)) == 97, "two of 99: too few to tell"
    with pytest.raises(InputError, match="2 of 100 prompts"):
        lengths.keep([short])
    lengths = PromptLengths(model, processor, PolicyConfig(max_prompt_length=80))
    lengths.keep([short] * 99 + [long])
    assert lengths.overlong == 1, "one in a hundred is let pass"


def test_without_positions_or_a_limit_everything_fits(processor):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    lengths = PromptLengths(SimpleNamespace(config=config), processor, PolicyConfig())
    assert lengths.limit is None and lengths.fits(wordy(500))
