"""The tiny models are what any hub model is: they save, load, generate, and agree with themselves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoProcessor

from labs.errors import InputError
from labs.models import (
    build_tiny_clip,
    build_tiny_llava,
    generate,
    load_vlm,
    tiny_tokenizer,
    user_message,
)
from labs.models.generation import encode_prompts, render_prompt
from labs.shapes import make_record


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny_llava(seed=0)
    return model.eval(), processor


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_words_of_the_world_are_single_tokens_and_digits_stand_alone():
    tokenizer = tiny_tokenizer()
    assert tokenizer.tokenize("a large red ring") == ["a", "Ġlarge", "Ġred", "Ġring"]
    assert len(tokenizer.tokenize("407")) == 3
    assert len(tokenizer.tokenize("三角形")) == 3


def test_under_a_million_parameters_and_36_image_tokens(tiny):
    model, processor = tiny
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    image = make_record("caption", 0, "val")["image"]
    prompt = render_prompt(processor, [user_message("Describe the image.", 1)])
    batch = encode_prompts(processor, [prompt], [[image]])
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == 36


def test_saves_and_loads_like_any_hub_model(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    image = make_record("caption", 0, "val")["image"]
    prompt = render_prompt(processor, [user_message("Describe the image.", 1)])
    batch = encode_prompts(AutoProcessor.from_pretrained(tmp_path), [prompt], [[image]])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, again(**batch).logits)
    loaded, _ = load_vlm(tmp_path)
    assert not loaded.training


def test_the_template_marks_what_the_assistant_says(tiny):
    _, processor = tiny
    messages = [
        {"role": "user", "content": "Is there a ring?"},
        {"role": "assistant", "content": "no"},
    ]
    out = processor.tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert processor.tokenizer.decode(said) == "no<|im_end|>"


def test_answers_do_not_depend_on_the_batch(tiny):
    """Mixed lengths, with and without pictures: left padding must not leak into an answer."""
    model, processor = tiny
    image = make_record("caption", 1, "val")["image"]
    asked = [
        ([user_message("Is there a ring?", 1)], [image]),
        ([user_message("a small red ring at the top left.\nWhat colour is the ring?")], []),
        ([user_message("Describe the image.", 2)], [image, image]),
    ]
    together = generate(model, processor, *zip(*asked, strict=True), max_new_tokens=8)
    alone = [generate(model, processor, [m], [i], max_new_tokens=8)[0] for m, i in asked]
    assert together == alone


def test_greedy_generation_picks_the_argmax_each_step(tiny):
    """The slow oracle: no cache, one forward pass a token."""
    model, processor = tiny
    image = make_record("caption", 2, "val")["image"]
    messages = [user_message("Describe the image.", 1)]
    [fast] = generate(model, processor, [messages], [[image]], max_new_tokens=6)
    batch = encode_prompts(processor, [render_prompt(processor, messages)], [[image]])
    ids = batch["input_ids"]
    said = []
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=batch["pixel_values"]).logits
        token = int(logits[0, -1].argmax())
        if token == processor.tokenizer.eos_token_id:
            break
        said.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert fast == processor.tokenizer.decode(said, skip_special_tokens=True)


def test_sampling_is_seeded(tiny):
    model, processor = tiny
    ask = [[user_message("a red ring.\nIs there a ring?")]]
    options = {"temperature": 1.0, "num_return_sequences": 4, "max_new_tokens": 6}
    first = generate(model, processor, ask, seed=1, **options)
    assert first == generate(model, processor, ask, seed=1, **options)
    assert first != generate(model, processor, ask, seed=2, **options)
    assert len(first[0]) == 4


def test_placeholders_must_match_the_images(tiny):
    model, processor = tiny
    with pytest.raises(InputError, match="Conversation 0 has 1 image placeholders and 0 images"):
        generate(model, processor, [[user_message("Describe the image.", 1)]], [[]])


def test_a_clip_text_is_read_at_its_end():
    """Its feature has seen every word: another last word, another feature."""
    model, processor = build_tiny_clip()
    tokenizer = processor.tokenizer
    texts = [f"a large yellow {kind}" for kind in ("ring", "star")]
    batch = tokenizer([t + tokenizer.eos_token for t in texts], return_tensors="pt", padding=True)
    assert (batch["input_ids"][:, -1] == tokenizer.eos_token_id).all()
    with torch.no_grad():
        first, second = model.get_text_features(**batch).pooler_output
    assert (first - second).norm() > 0.01 * first.norm()
