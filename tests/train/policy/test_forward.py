"""Models that do not take the fast way: pictures as pixels, a mask, capped logits."""

import copy

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from labs.errors import InputError
from labs.models import build_tiny_llava, load_lm, user_message
from labs.models.generation import encode_prompts, render_prompt
from labs.models.rollout import sample_completions
from labs.train.policy.forward import PolicyForward
from labs.train.policy.prompts import Prompt
from tests.models.test_rollout import qwen  # noqa: F401 - a fixture
from tests.train.policy.policy_runs import PICTURES, made_rollout, prompts, rows_of, trainer, vowels


def sampled(model, processor, asked, temperature=1.0, generations=3):
    return sample_completions(
        model, processor, [p.messages for p in asked], [p.images for p in asked],
        num_generations=generations, max_new_tokens=10, temperature=temperature, seed=3,
    )  # fmt: skip


def check_rollout(model, processor, asked, forward, temperature):
    rollout = sampled(model, processor, asked, temperature)
    rows = rows_of(processor, rollout)
    pictures = forward.pictures(processor, asked, rollout)
    with torch.no_grad():
        out = forward(rows, **pictures.of(rows, forward.packs))
    assert len(set(rollout.texts)) > 3
    torch.testing.assert_close(
        out.logprobs[rows.mask], rollout.logprobs[rows.mask], atol=1e-4, rtol=0
    )
    return rows, pictures


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_trainers_logprobs_are_the_rollouts(temperature):
    model, processor = build_tiny_llava(seed=0)
    forward = PolicyForward(model.eval(), temperature)
    check_rollout(model, processor, prompts(6), forward, temperature)


def test_qwen2_vl_goes_through_pixels_and_a_mask(qwen):  # noqa: F811
    model, processor = qwen
    forward = PolicyForward(model, value_head=True)
    assert not forward.packs and not forward.by_features and not forward.causal
    asked = [
        Prompt("wide", (user_message("What is it?", 1),), (PICTURES[0].resize((112, 56)),)),
        Prompt("none", (user_message("Is it red or is it blue?"),)),
        Prompt("two", (user_message("Alike?", 2),), (PICTURES[1], PICTURES[2].resize((56, 84)))),
    ]
    rows, pictures = check_rollout(model, processor, asked, forward, 1.0)
    # Whatever rows stand beside it.
    whole = forward(rows, **pictures.of(rows, False))
    for chosen in ([7], [4], [8, 0], [4, 6, 1], [5, 3]):
        part = rows.select(torch.tensor(chosen))
        out = forward(part, **pictures.of(part, False))
        wanted = whole.logprobs[chosen, : part.mask.shape[1]]
        torch.testing.assert_close(out.logprobs[part.mask], wanted[part.mask], atol=1e-5, rtol=0)


def test_qwen2_vl_may_say_its_placeholder(qwen):  # noqa: F811
    """It has no picture for it, and refuses; here it is the word that the rollout took it for."""
    model, processor = qwen
    asked, image = prompts(3), model.config.image_token_id
    places = {(0, 1): image, (1, 5): image, (3, 0): image}
    rollout = made_rollout(processor, asked, [4, 6, 2], 2, tokens=places)
    forward, rows = PolicyForward(model), rows_of(processor, rollout)
    with torch.no_grad():
        out = forward(rows, **forward.pictures(processor, asked, rollout).of(rows, False))
    for r in range(len(rows)):
        answer, p = rows.ids[r][rows.mask[r]], r // 2
        text = render_prompt(processor, asked[p].messages)
        batch = encode_prompts(processor, [text], [asked[p].images])
        model.model.rope_deltas = None  # of the picture before
        with torch.no_grad():
            found = model(**batch)
            wanted = [found.logits[0, -1]]
            for token in answer[:-1]:  # one after another, as a rollout reads them
                found = model(input_ids=token.view(1, 1), past_key_values=found.past_key_values)
                wanted.append(found.logits[0, -1])
        wanted = torch.stack(wanted).log_softmax(-1).gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(out.logprobs[r][rows.mask[r]], wanted, atol=1e-4, rtol=0)


def test_qwen2_vl_trains(qwen):  # noqa: F811
    pair = copy.deepcopy(qwen[0]), qwen[1]
    run = trainer(start=pair, max_steps=2)
    entry = run.train().history[-1]
    assert entry["mismatch"] < 1e-4 and entry["grad_norm"] > 0 and entry["kl"] != 0


@pytest.fixture(scope="module")
def gemma():
    """A language model that caps its logits, and sees through windows."""
    _, tokenizer = load_lm("tiny-lm")
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16,
        final_logit_softcapping=0.5, initializer_range=0.3, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval(), tokenizer


def test_capped_logits_are_the_models_own(gemma):
    model, tokenizer = gemma
    asked = prompts(4, images=0)
    forward = PolicyForward(model, 0.8, value_head=True)
    assert not forward.plain_head and not forward.packs
    rows, _ = check_rollout(model, tokenizer, asked, forward, 0.8)
    # The cap is what makes the difference: without it the numbers are others.
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        uncapped = forward(rows).logprobs[rows.mask]
        model.config.final_logit_softcapping = 0.5
        capped = forward(rows)
    assert (uncapped - capped.logprobs[rows.mask]).abs().max() > 0.01
    # The entropy is that of the capped, tempered distribution.
    logits = model(input_ids=rows.input_ids[:1, : rows.lengths[0]]).logits[0, rows.starts[0] - 1 :]
    wanted = torch.distributions.Categorical(logits=logits[:-1] / 0.8).entropy()
    torch.testing.assert_close(capped.entropy[0][rows.mask[0]], wanted, atol=1e-4, rtol=0)


def test_values_read_the_same_states_under_a_cap(gemma):
    model, _ = gemma
    rows = rows_of(gemma[1], made_rollout(gemma[1], prompts(3, images=0), [3, 1, 5], 2))
    forward = PolicyForward(model, value_head=True)
    with torch.no_grad():
        out = forward(rows)
        states = model.model(
            input_ids=rows.input_ids, attention_mask=rows.attention_mask
        ).last_hidden_state
        wanted = forward.value_head(states[torch.arange(len(rows))[:, None], rows.places])
    torch.testing.assert_close(out.values[rows.mask], wanted[rows.mask], atol=1e-5, rtol=0)


def test_a_shared_prefix_that_cannot_be_is_refused(qwen, gemma):  # noqa: F811
    for model in (qwen[0], gemma[0]):
        with pytest.raises(InputError, match="cannot share"):
            PolicyForward(model, shared_prefix=True)
    assert vowels([], []) == []
