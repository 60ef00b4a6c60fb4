"""Rollouts against `generate`, against a plain forward pass, and against the distribution itself."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from labs.errors import InputError
from labs.models import build_tiny_llava, decoding, generate, load_lm, load_vlm, user_message
from labs.models.decoding import Sampling, can_share_prefill
from labs.models.generation import encode_prompts, render_prompt
from labs.models.lora import add_lora, lora_layers
from labs.models.rollout import sample_completions
from labs.shapes import make_record
from tests.data.conftest import get_processor

PICTURES = [make_record("caption", i, "val")["image"] for i in range(3)]
QUESTIONS = [
    ("What is in the picture?", PICTURES[:1]),
    ("What is two plus three?", []),
    ("How many shapes are there?", PICTURES[1:2]),
    ("Is there a ring in both of these pictures?", PICTURES[1:]),
    ("Is there a star?", PICTURES[2:]),
]
ASKED = [[user_message(text, len(images))] for text, images in QUESTIONS]
SHOWN = [images for _, images in QUESTIONS]
LONG = 60


@pytest.fixture(scope="module")
def tiny():
    return load_vlm("tiny-sft")


@pytest.fixture(scope="module")
def qwen():
    """A small Qwen2-VL with random weights: positions by rows and columns, pictures of any size."""
    processor = get_processor("qwen2_vl")
    tokenizer = processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"), vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"), initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, processor


def sample(pair, asked=ASKED, shown=SHOWN, **options):
    return sample_completions(*pair, asked, shown, **{"max_new_tokens": LONG, "seed": 7} | options)


def logits_of(pair, number, answer, asked=ASKED, shown=SHOWN):
    """The logits before each token of an answer: one forward of one sequence, nothing cached."""
    model, processor = pair
    batch = encode_prompts(processor, [render_prompt(processor, asked[number])], [shown[number]])
    width = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], answer[None]], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if "mm_token_type_ids" in batch:
        more = torch.zeros_like(answer[None], dtype=batch["mm_token_type_ids"].dtype)
        batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], more], dim=1)
    with torch.no_grad():
        return model(**batch).logits[0, width - 1 : -1]


def check_logprobs(pair, rollout, temperature, asked=ASKED, shown=SHOWN):
    for row, (ids, mask) in enumerate(zip(rollout.ids, rollout.mask.bool(), strict=True)):
        answer = ids[mask]
        logits = logits_of(pair, row // rollout.num_generations, answer, asked, shown)
        wanted = (logits / temperature).log_softmax(-1).gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs[row][mask], wanted, atol=1e-4, rtol=0)
        assert (rollout.logprobs[row][~mask] == 0).all()


# the same texts as generate


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_greedy_says_what_generate_says(tiny, shared, batch_size):
    wanted = generate(*tiny, ASKED, SHOWN, max_new_tokens=LONG)
    found = sample(tiny, temperature=0, shared_prefill=shared, batch_size=batch_size)
    assert found.texts == wanted
    assert len({len(text) for text in wanted}) > 2, "answers of several lengths"
    check_logprobs(tiny, found, 1.0)


def test_greedy_with_eager_attention_and_padding():
    pair = load_vlm("tiny-sft", attn_implementation="eager")
    assert sample(pair, temperature=0).texts == generate(*pair, ASKED, SHOWN, max_new_tokens=LONG)


def test_a_language_model_without_eyes():
    pair = load_lm("tiny-lm")
    asked = [[user_message("What is two plus three?")], [user_message("Name a colour")]]
    wanted = generate(*pair, asked, max_new_tokens=12)
    found = sample(pair, asked, None, temperature=0, max_new_tokens=12)
    assert can_share_prefill(pair[0]) and found.texts == wanted and found.images == {}
    check_logprobs(pair, found, 1.0, asked, [[], []])


# log-probabilities and the distribution


@pytest.mark.parametrize("shared", [True, False])
def test_logprobs_are_those_of_the_full_distribution(tiny, shared):
    found = sample(
        tiny, num_generations=3, temperature=1.3, top_p=0.95, shared_prefill=shared, batch_size=6
    )
    check_logprobs(tiny, found, 1.3)


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (0.5, 0.8)])
def test_first_tokens_follow_the_softmax(temperature, top_p):
    pair = build_tiny_llava(seed=0)  # untrained, it is of many minds
    count = 5000
    found = sample(
        pair, ASKED[:1], SHOWN[:1], num_generations=count, temperature=temperature, top_p=top_p,
        max_new_tokens=1,
    )  # fmt: skip
    [logits] = logits_of((pair[0].eval(), pair[1]), 0, torch.tensor([0]))
    wanted = (logits / temperature).softmax(-1)
    kept, mass = [], 0.0
    for token in wanted.argsort(descending=True).tolist():
        kept.append(token)
        mass += wanted[token].item()
        if mass >= top_p and top_p < 1:
            break
    drawn = torch.bincount(found.ids[:, 0], minlength=len(wanted))
    assert drawn[kept].sum() == count, "nothing from outside top_p"
    expected = wanted[kept].double() / mass * count
    likely = expected >= 5
    seen, due = drawn[kept][likely], expected[likely]
    if (~likely).any():  # the rare ones as one
        seen = torch.cat([seen, drawn[kept][~likely].sum()[None]])
        due = torch.cat([due, expected[~likely].sum()[None]])
    assert len(due) > 20
    assert chisquare(seen.numpy(), due.numpy() / due.sum().item() * count).pvalue > 0.001


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.05, 1),
    st.floats(0.3, 3),
)
def test_a_draw_is_the_inverse_of_the_distribution(logits, uniform, top_p, temperature):
    row = torch.tensor([logits, logits])
    sampling = Sampling(temperature, top_p, 1, torch.tensor([0]), 0)
    tokens, logprobs = sampling.pick(row, torch.tensor([uniform, uniform], dtype=torch.float64))
    probabilities = (row[0] / temperature).softmax(-1).tolist()
    order = list(range(len(logits)))
    if top_p < 1:
        order.sort(key=lambda i: -probabilities[i])
        mass, kept = 0.0, []
        for i in order:
            kept.append(i)
            mass += probabilities[i]
            if mass >= top_p:
                break
        order = kept
    at = uniform * sum(probabilities[i] for i in order)
    below = 0.0
    for i in order:
        if i == tokens[0]:
            assert below - 1e-6 <= at <= below + probabilities[i] + 1e-6
            break
        below += probabilities[i]
    else:
        # Only rounding at the edge of top_p can take one token more.
        assert abs(sum(probabilities[i] for i in order) - top_p) < 1e-6
    assert tokens[0] == tokens[1]
    assert logprobs[0].exp().item() == pytest.approx(probabilities[tokens[0]], rel=1e-4)


def test_words_that_cannot_be_said_are_never_drawn():
    logits = torch.full((2000, 5), -torch.inf)
    logits[:, 1:3] = 0.0
    sampling = Sampling(1.0, 1.0, 1, torch.tensor([0]), 0)
    uniforms = decoding.draw_uniforms(2000, 1, 0)[:, 0]
    uniforms[0], uniforms[1] = 0.0, (1 - 2**-53) * (1 - 2**-52)
    tokens, _ = sampling.pick(logits, uniforms)
    assert set(tokens.tolist()) == {1, 2}
    assert 850 < (tokens == 1).sum() < 1150


# rows that end, and batches


def seen_by(model, run):
    """(rows, tokens) of every call of the language model, and the pictures its tower has read."""
    calls, pictures = [], []

    def note(module, args, kwargs):
        calls.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    hooks = [
        model.model.language_model.register_forward_pre_hook(note, with_kwargs=True),
        model.model.vision_tower.register_forward_pre_hook(
            lambda module, args: pictures.append(len(args[0]))
        ),
    ]
    try:
        return run(), calls, pictures
    finally:
        for hook in hooks:
            hook.remove()


def test_a_prompt_is_read_once_and_ended_rows_leave(tiny):
    found, calls, pictures = seen_by(tiny[0], lambda: sample(tiny, num_generations=8))
    assert calls[0] == (5, found.prompt_ids.shape[1]), "five prompts, not forty"
    assert sum(pictures) == 5
    rows = [rows for rows, _ in calls[1:]]
    assert rows[0] >= 30 and rows == sorted(rows, reverse=True)
    running = [int((found.mask.sum(1) > step).sum()) for step in range(1, found.mask.shape[1])]
    assert len(rows) == len(running), "no step after the last answer's end"
    for kept, needed in zip(rows, running, strict=True):
        assert needed <= kept and needed > kept * 0.75 - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_when_others_leave(tiny, temperature, monkeypatch):
    found = []
    for share in (0.0, 0.25, 2.0):
        monkeypatch.setattr(decoding, "DROP_SHARE", share)
        found.append(sample(tiny, num_generations=4, temperature=temperature))
    for other in found[1:]:
        assert other.texts == found[0].texts
        torch.testing.assert_close(other.logprobs, found[0].logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_batches_change_nothing_and_the_order_is_the_given_one(tiny, shared):
    whole = sample(tiny, num_generations=4, shared_prefill=True)
    parts = sample(tiny, num_generations=4, batch_size=8, shared_prefill=shared)
    assert whole.texts == parts.texts
    torch.testing.assert_close(whole.logprobs, parts.logprobs, atol=1e-4, rtol=0)
    prompts = [render_prompt(tiny[1], messages) for messages in ASKED]
    encoded = encode_prompts(tiny[1], prompts, SHOWN)
    for rollout in (whole, parts):
        assert torch.equal(rollout.prompt_ids, encoded["input_ids"])
        assert torch.equal(rollout.prompt_mask, encoded["attention_mask"])
        assert list(rollout.images) == ["pixel_values"]
        assert torch.equal(rollout.images["pixel_values"], encoded["pixel_values"])


# ends


def test_the_end_token_belongs_to_the_answer_and_padding_follows(tiny):
    found = sample(tiny, num_generations=4)
    tokenizer = tiny[1].tokenizer
    assert found.finished.all() and found.mask.shape[1] == found.mask.sum(1).max() < LONG
    for ids, mask, text in zip(found.ids, found.mask, found.texts, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (ids[:length] == tokenizer.eos_token_id).nonzero().tolist() == [[length - 1]]
        assert (ids[length:] == tokenizer.pad_token_id).all()
        assert tokenizer.decode(ids[: length - 1]) == text


@pytest.mark.parametrize("shared", [True, False])
def test_an_answer_cut_short_is_not_finished(tiny, shared):
    full = sample(tiny, temperature=0)
    cut = sample(tiny, temperature=0, max_new_tokens=4, shared_prefill=shared)
    lengths = full.mask.sum(1)
    assert cut.finished.tolist() == (lengths <= 4).tolist()
    assert set(cut.finished.tolist()) == {True, False}
    assert torch.equal(cut.mask.sum(1), lengths.clamp(max=4))
    assert torch.equal(cut.ids, full.ids[:, :4])


@pytest.mark.parametrize("shared", [True, False])
def test_any_of_several_end_tokens_ends(tiny, shared):
    model, processor = tiny
    full = sample(tiny, temperature=0)
    comma = processor.tokenizer.convert_tokens_to_ids(",")
    first = (full.ids == comma).float().argmax(1)
    assert (full.ids[0] == comma).any()
    before = model.generation_config
    model.generation_config = copy.deepcopy(before)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, comma]
    try:
        found = sample(tiny, temperature=0, shared_prefill=shared)
    finally:
        model.generation_config = before
    assert found.mask[0].sum() == first[0] + 1 and found.finished.all()
    assert found.texts[1] == full.texts[1]


# seeds


@pytest.mark.parametrize("shared", [True, False])
def test_one_seed_one_rollout_and_the_global_state_untouched(tiny, shared):
    state = torch.random.get_rng_state()
    first = sample(tiny, num_generations=4, shared_prefill=shared)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sample(tiny, num_generations=4).texts == first.texts, "either way, the same draws"
    assert sample(tiny, num_generations=4, seed=8).texts != first.texts


def test_a_generator_goes_on_and_none_is_torchs_own(tiny):
    one = torch.Generator().manual_seed(7)
    first, second = (sample(tiny, num_generations=4, seed=one).texts for _ in range(2))
    assert first == sample(tiny, num_generations=4, seed=7).texts and second != first
    torch.manual_seed(7)
    assert sample(tiny, num_generations=4, seed=None).texts == first


# models in wrappers, models of another make


def with_lora(pair, scale=0.3):
    model = copy.deepcopy(pair[0])
    add_lora(model, r=4, dropout=0.5)
    torch.manual_seed(0)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=scale)
    return model, pair[1]


def test_our_lora(tiny):
    pair = with_lora(tiny, 0.03)
    found = sample(pair, temperature=0)
    assert found.texts == generate(*pair, ASKED, SHOWN, max_new_tokens=LONG)
    assert found.texts != sample(tiny, temperature=0).texts
    check_logprobs((pair[0].eval(), pair[1]), found, 1.0)


def test_pefts_lora(tiny):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(copy.deepcopy(tiny[0]), config).eval()
    found = sample((model, tiny[1]), temperature=0)
    assert found.texts == generate(model, tiny[1], ASKED, SHOWN, max_new_tokens=LONG)
    check_logprobs((model, tiny[1]), found, 1.0)
    with model.disable_adapter():
        plain = sample((model, tiny[1]), temperature=0)
    assert plain.texts == sample(tiny, temperature=0).texts != found.texts


@pytest.mark.parametrize("batch_size", [2, 256])
def test_positions_by_rows_and_columns_are_left_to_generate(qwen, batch_size):
    assert not can_share_prefill(qwen[0])
    shown = [[p.resize((56, 28 + 28 * i)) for p in images] for i, images in enumerate(SHOWN)]
    found = sample(qwen, ASKED, shown, num_generations=2, max_new_tokens=6, batch_size=batch_size)
    check_logprobs(qwen, found, 1.0, ASKED, shown)
    greedy = sample(qwen, ASKED, shown, temperature=0, max_new_tokens=6, batch_size=batch_size)
    assert greedy.texts == generate(*qwen, ASKED, shown, max_new_tokens=6)
    assert set(found.images) == {"pixel_values", "image_grid_thw"}
    assert len(found.images["image_grid_thw"]) == 5
    with pytest.raises(InputError, match="Qwen2VLForConditionalGeneration"):
        sample(qwen, ASKED, shown, shared_prefill=True)


def test_a_models_own_penalties_are_no_part_of_the_policy(tiny):
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    model.generation_config.repetition_penalty = 5.0
    for shared in (True, False):
        found = sample((model, processor), num_generations=2, shared_prefill=shared)
        assert found.texts == sample(tiny, num_generations=2).texts
    assert model.generation_config.repetition_penalty == 5.0


# what it leaves behind


@pytest.mark.parametrize("shared", [True, False])
def test_modes_come_back_and_autograd_takes_the_tensors(tiny, shared):
    model, processor = with_lora(tiny, 0.0)
    model.train()
    model.model.vision_tower.eval()  # frozen towers stay so
    modes = {name: module.training for name, module in model.named_modules()}
    found = sample((model, processor), shared_prefill=shared)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert found.texts == sample(tiny).texts, "no dropout while sampling"
    tensors = [v for v in vars(found).values() if isinstance(v, torch.Tensor)]
    assert not any(t.is_inference() or t.requires_grad for t in tensors)
    ids = torch.cat([found.prompt_ids, found.ids], 1)
    mask = torch.cat([found.prompt_mask, found.mask], 1)
    logits = model(input_ids=ids, attention_mask=mask, **found.images).logits[:, -1]
    (logits * found.logprobs[:, :1]).sum().backward()
    assert all(layer.lora_B.grad is not None for layer in lora_layers(model).values())


def test_modes_come_back_after_an_error(tiny):
    model = copy.deepcopy(tiny[0]).train()
    model.lm_head.weight.data.fill_(torch.nan)
    for shared in (True, False):
        with pytest.raises(InputError, match="not finite"):
            sample((model, tiny[1]), shared_prefill=shared, max_new_tokens=2)
        with pytest.raises(InputError, match="not finite"):
            sample((model, tiny[1]), shared_prefill=shared, temperature=0, max_new_tokens=2)
        assert model.training


@pytest.mark.parametrize(
    "options, word",
    [
        ({"num_generations": 0}, "num_generations"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"shown": [[]] * 5}, "Conversation 0 has 1 image placeholders and 0 images"),
        ({"asked": [], "shown": []}, "no conversations"),
    ],
)
def test_settings_out_of_range_are_named(tiny, options, word):
    with pytest.raises(InputError, match=word):
        sample(tiny, **options)
