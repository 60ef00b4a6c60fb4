"""The label mask against an oracle: what is labelled, decoded, is what the assistant said."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from labs.data import IGNORE, ChatFormat, build_labels, encode
from labs.errors import InputError
from tests.data.conftest import END, LEAD, MAKERS, get_processor, picture, talk

WORDS = [
    "ring",
    "two red rings",
    "有两个圆环",
    "🟥",
    "assistant",
    "ASSISTANT:",
    "\n",
    "  ",
    "a\n\nb",
]
CONTROL = ["<|im_end|>", "<|im_start|>assistant\n", "</s>", "<s>", "<|endoftext|>", "USER: "]
alphabet = st.characters(exclude_categories=("Cs", "Co"))
answers = st.lists(st.sampled_from(WORDS) | st.text(alphabet, max_size=6), max_size=4).map("".join)
questions = st.lists(
    st.sampled_from(WORDS + CONTROL) | st.text(alphabet, max_size=6), max_size=4
).map("".join)


def is_clean(text: str) -> bool:
    # "▁" is how Llama's tokenizer writes a space: it cannot tell the two apart.
    return not any(word in text for word in ("<image>", "<|image_pad|>", "▁"))


@pytest.mark.parametrize("name", list(MAKERS))
@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.tuples(questions, answers), min_size=1, max_size=5),
    images=st.integers(0, 3),
    system=st.none() | questions,
)
def test_labelled_tokens_decode_to_the_answers(name, turns, images, system):
    processor = get_processor(name)
    texts = [text for pair in turns for text in pair]
    if not all(map(is_clean, [*texts, system or ""])):
        return
    if name == "parts":  # this template strips: the oracle is what it is asked to say
        oracle = [answer.strip() for _, answer in turns]
    else:
        oracle = [answer for _, answer in turns]
    sample = encode(talk(*texts, images=images, system=system), processor)
    ids, labels = sample["input_ids"], sample["labels"]
    labelled = labels != IGNORE
    assert torch.equal(labels[labelled], ids[labelled])
    said = processor.tokenizer.decode(ids[labelled], skip_special_tokens=False)
    assert said == "".join(LEAD[name] + answer + END[name] for answer in oracle)
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    assert int((ids == image_id).sum()) == sum(sample["num_image_tokens"])
    assert len(sample["num_image_tokens"]) == images


def test_ids_equal_the_processors_own(named_processor):
    """Ours are tokenised with one image token and repeated; theirs with the text expanded."""
    _, processor = named_processor
    conversation = talk(
        "What is this?", "A ring  ", " 几个？", "two\n", images=2, system="Be kind."
    )
    images = list(conversation.images)
    text = ChatFormat.of(processor).render(conversation.turns)
    bos = processor.tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    theirs = processor(text=text, images=images, return_tensors="pt", add_special_tokens=special)
    ours = encode(conversation, processor)
    assert torch.equal(ours["input_ids"], theirs["input_ids"][0])
    for key in theirs:
        if key not in ("input_ids", "attention_mask", "mm_token_type_ids"):
            assert torch.equal(ours[key], theirs[key]), key
    if "mm_token_type_ids" in theirs:
        assert torch.equal(ours["mm_token_type_ids"], theirs["mm_token_type_ids"][0])
    if bos:
        assert ours["input_ids"][0] == processor.tokenizer.bos_token_id
        assert ours["labels"][0] == IGNORE


def test_expanded_text_gives_the_same_labels(processor):
    """The path for processors that write more than one token repeated, forced on this one."""
    conversation = talk("Look: ", "a ring", "and", "二", images=2)
    import labs.data.labels as module

    fast = build_labels(conversation, processor, ["<image>" * 36, "<image>" * 5])
    before, module._repeats = module._repeats, lambda *_: None
    try:
        slow = build_labels(conversation, processor, ["<image>" * 36, "<image>" * 5])
    finally:
        module._repeats = before
    assert torch.equal(fast.input_ids, slow.input_ids)
    assert torch.equal(fast.labels, slow.labels)
    assert fast.image_spans == slow.image_spans


def test_replacement_with_other_tokens_inside(processor):
    """An image that stands for rows of image tokens with line breaks between them."""
    conversation = talk("Look.", "a ring", "yes?", "no", images=1)
    row = "<image>" * 3 + "\n"
    tokens = build_labels(conversation, processor, [row * 2])
    (start, end) = tokens.image_spans[0]
    assert processor.tokenizer.decode(tokens.input_ids[start:end]) == row * 2
    said = tokens.input_ids[tokens.labels != IGNORE]
    assert processor.tokenizer.decode(said) == "a ring<|im_end|>no<|im_end|>"


def test_agrees_with_generation_tags(processor):
    """Transformers' mask from {% generation %}, where a template has the tags."""
    conversation = talk("What?", " a 圆环\n", "And?", "", "<|im_end|>", "b", images=0, system="s")
    messages = ChatFormat.of(processor).messages(conversation.turns)
    theirs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = encode(conversation, processor)
    assert torch.equal(ours["input_ids"], torch.tensor(theirs["input_ids"][0]))
    mask = torch.tensor(theirs["assistant_masks"][0], dtype=torch.bool)
    assert mask.any()
    assert torch.equal(ours["labels"] != IGNORE, mask)


def test_agrees_with_generation_tags_after_images(processor):
    conversation = talk("What?", "a ring", "And?", "none", images=2)
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text}]}
        for turn in conversation.turns
    ]
    messages[0]["content"] = [
        *({"type": "image", "image": image} for image in conversation.images),
        {"type": "text", "text": "What?"},
    ]
    theirs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = encode(conversation, processor)
    assert torch.equal(ours["input_ids"], torch.tensor(theirs["input_ids"][0]))
    assert torch.equal(
        (ours["labels"] != IGNORE).long(), torch.tensor(theirs["assistant_masks"][0])
    )


def test_text_only_tokenizer(processor):
    tokenizer = processor.tokenizer
    sample = encode(talk("hello", "a", "b", "c"), tokenizer)
    assert (
        tokenizer.decode(sample["labels"][sample["labels"] != IGNORE]) == "a<|im_end|>c<|im_end|>"
    )
    assert "pixel_values" not in sample
    with pytest.raises(InputError, match="text only"):
        encode(talk("hello", "a", images=1), tokenizer)


THINKING = (  # drops the thoughts of every answer but the last, as several reasoning models do
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
)
LAST_ONLY = (  # ends only the last turn
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if loop.last %}<|im_end|>{% endif %}\n{% endfor %}"
)
COUNTED = "{{ messages|length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("template", [THINKING, LAST_ONLY, COUNTED])
def test_template_that_rewrites_history(template):
    tokenizer = MAKERS["chatml"]().tokenizer
    tokenizer.chat_template = template
    thought = "<think>hm</think>yes"
    with pytest.raises(InputError, match=r"rewrites history: the text up to turn \d") as error:
        encode(talk("a", thought, "b", thought, id="seven"), tokenizer)
    assert "turn 2" in error.value.what
    if template == THINKING:  # harmless without a thought to drop, or with one answer
        assert "seven" in error.value.what
        assert encode(talk("a", "yes", "b", thought), tokenizer)["labels"].max() > 0
        assert encode(talk("a", thought), tokenizer)["labels"].max() > 0


def test_template_that_refuses_a_role():
    tokenizer = MAKERS["chatml"]().tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system turn') }}{% endif %}{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(InputError, match=r"refuses the turns.*no system turn"):
        encode(talk("a", "b", system="s"), tokenizer)


def test_no_template_and_no_offsets(processor):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(InputError, match="no chat template"):
        encode(talk("a", "b"), bare)


def test_image_token_typed_by_a_user():
    """Qwen2-VL's own placeholder inside a user's text is not an image."""
    processor = get_processor("qwen2_vl")
    with pytest.raises(InputError, match=re.escape("Sample x: the rendered text holds 2")):
        encode(talk("what is <|image_pad|>?", "a token", images=1), processor)


def test_generation_prompt_is_what_comes_before_the_answer(named_processor):
    """At inference the model continues exactly what it was trained to continue."""
    _, processor = named_processor
    conversation = talk("q", "answer", images=1)
    chat = ChatFormat.of(processor)
    rendered = chat.locate(conversation)
    prompt = chat.render(conversation.turns[:1], generation_prompt=True)
    assert rendered.text[: rendered.spans[0][0]] == prompt


def test_line_break_after_the_image_is_written_once():
    processor = get_processor("parts")
    text = ChatFormat.of(processor).render(talk("what?", "a", images=1).turns)
    assert text.startswith("USER: <image>\nwhat?")


def test_changing_the_template_is_noticed():
    processor = MAKERS["chatml"]()
    encode(talk("a", "b"), processor)
    processor.chat_template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    sample = encode(talk("a", "b"), processor)
    said = processor.tokenizer.decode(sample["labels"][sample["labels"] != IGNORE])
    assert said == "b<|endoftext|>"


def test_truncation_never_cuts_an_image(processor):
    conversation = talk("first", "a ring", "second <image> third", "an answer of words", images=1)
    conversation = type(conversation)("x", (picture(0), picture(1)), conversation.turns)
    whole = encode(conversation, processor)
    spans = _runs(whole["input_ids"] == processor.image_token_id)
    assert [end - start for start, end in spans] == [36, 36]
    for limit in range(1, len(whole["input_ids"]) + 1):
        try:
            sample = encode(conversation, processor, limit, overlong="truncate")
        except Exception as skip:
            assert getattr(skip, "reason", None) == "no_label"
            assert not (whole["labels"][:limit] != IGNORE).any()
            continue
        length = len(sample["input_ids"])
        assert length <= limit
        assert torch.equal(sample["input_ids"], whole["input_ids"][:length])
        assert torch.equal(sample["labels"], whole["labels"][:length])
        images = len(sample["num_image_tokens"])
        assert int((sample["input_ids"] == processor.image_token_id).sum()) == 36 * images
        assert sample["pixel_values"].shape[0] == images
        assert torch.equal(sample["pixel_values"], whole["pixel_values"][:images])
        if length < limit:  # only an image in the way makes it shorter than it may be
            assert any(start == length and end > limit for start, end in spans)


def test_overlong_policies(processor):
    conversation = talk("a question", "an answer", id="long")
    with pytest.raises(InputError, match=r"Sample long has \d+ tokens, more than max_length = 5"):
        encode(conversation, processor, 5, overlong="error")
    with pytest.raises(Exception, match="more than max_length = 5") as skip:
        encode(conversation, processor, 5)
    assert skip.value.reason == "overlong"
    with pytest.raises(InputError, match="'cut' is unknown"):
        encode(conversation, processor, 5, overlong="cut")


def _runs(mask: torch.Tensor) -> list[tuple[int, int]]:
    edges = torch.diff(mask.int(), prepend=torch.tensor([0]), append=torch.tensor([0]))
    starts, ends = torch.where(edges == 1)[0], torch.where(edges == -1)[0]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
