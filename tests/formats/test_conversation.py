"""Every dialect reads as the same conversation; every mistake gets its sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats import Turn, parse_conversation

TURNS = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A ring."))
DIALECTS = {
    "llava": {
        "image": "a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A ring."},
        ],
    },
    "messages": {
        "images": ["a.jpg"],
        "messages": [
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "A ring."},
        ],
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.jpg"},
                    {"type": "text", "text": "\nWhat?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A ring."}]},
        ],
    },
    "parts and images beside them": {
        "images": ["a.jpg"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat?"}]},
            {"role": "assistant", "content": "A ring."},
        ],
    },
    "openai": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "a.jpg"}},
                    {"type": "text", "text": "\nWhat?"},
                ],
            },
            {"role": "assistant", "content": "A ring."},
        ],
    },
    "no roles": {
        "image": "a.jpg",
        "conversations": [{"content": "<image>\nWhat?"}, {"content": "A ring."}],
    },
    "bare strings": {"image": "a.jpg", "conversation": ["<image>\nWhat?", "A ring."]},
    "other names": {
        "image": ["a.jpg"],
        "conversations": [
            {"from": "Human", "value": "<image>\nWhat?"},
            {"from": "chatgpt", "value": "A ring."},
        ],
    },
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(name):
    conversation = parse_conversation({"id": 7, "source": "x", **DIALECTS[name]}, "here")
    assert conversation.turns == TURNS
    assert conversation.images == ("a.jpg",)
    assert conversation.id == "7"
    assert conversation.meta == {"source": "x"}


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("a.jpg,b.png", ("a.jpg", "b.png")),
        ("a.jpg, sub/b.jpeg", ("a.jpg", "sub/b.jpeg")),
        (["a.jpg", "b,c.jpg"], ("a.jpg", "b,c.jpg")),
    ],
)
def test_several_images(value, images):
    record = {"image": value, "conversations": ["<image> and <image>", "two"]}
    assert parse_conversation(record).images == images


@pytest.mark.parametrize("value", ["Paris, 1889.jpg", "data:image/png;base64,AAAA.jpg,b.jpg"])
def test_a_comma_in_one_name(value):
    assert parse_conversation({"image": value, "messages": ["<image>", "a"]}).images == (value,)


def test_image_in_memory_and_system_turn():
    image = Image.new("RGB", (2, 2))
    record = {
        "image": image,
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": ""},
            {"from": "human", "value": "?"},
        ],
    }
    conversation = parse_conversation(record)
    assert conversation.images[0] is image
    assert [turn.role for turn in conversation.turns] == ["system", "user", "assistant", "user"]


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"conversations": []}, "the conversation is empty"),
        ({"text": "a"}, "expected a list of turns under `conversations` or `messages`, found none"),
        ({"messages": "a"}, "found a string under `messages`"),
        (["a"], "must be a JSON object, not a list"),
        (
            {"conversations": [gpt("a")]},
            "roles out of order: turn 1 is assistant where system or us",
        ),
        ({"conversations": [human("a"), human("b")]}, "turn 2 is user where assistant is expected"),
        ({"conversations": [human("a"), gpt("b"), gpt("c")]}, "turn 3 is assistant where user is"),
        (
            {"conversations": [human("a"), {"from": "system", "value": "b"}]},
            "turn 2 is system where assistant is expected",
        ),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "turn 1: unknown role 'tool'"),
        ({"conversations": [{"from": "human"}]}, "turn 1: no text under `value` or `content`"),
        ({"conversations": [{"from": "human", "value": 3}]}, "found a value of type int"),
        ({"conversations": [3]}, "turn 1: a turn must be an object or a string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "neither text nor image",
        ),
        (
            {"image": "a.jpg", "conversations": [human("<image> <image>"), gpt("b")]},
            "2 <image> placeholders in the text, but 1 image.",
        ),
        (
            {"image": "a.jpg,b.jpg", "conversations": [human("<image>"), gpt("b")]},
            "1 <image> placeholder in the text, but 2 images.",
        ),
        ({"image": "a.jpg", "conversations": [human("a"), gpt("b")]}, "0 <image> placeholders"),
        (
            {"conversations": [human("<image>"), gpt("b")]},
            "1 <image> placeholder in the text, but 0",
        ),
        ({"image": 3, "conversations": [human("<image>"), gpt("b")]}, "must be a path or a PIL"),
    ],
)
def test_mistakes_name_the_place(record, sentence):
    with pytest.raises(InputError) as error:
        parse_conversation(record, "data.json, record 5")
    assert sentence in error.value.what
    assert error.value.what.startswith("data.json, record 5")
    assert error.value.what.endswith(".") and error.value.do.endswith(".")
    if isinstance(record, dict):
        with pytest.raises(InputError, match=r"data.json, record 5 \(id s-9\)"):
            parse_conversation({"id": "s-9", **record}, "data.json, record 5")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["from", "value", "role", "content", "type", "text", "image", "url", "meta", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["conversations", "messages", "image", "id", "meta"]), json_values
    )
)
def test_no_json_raises_anything_else(record):
    """Whatever the file holds, it is a conversation or one sentence on what is wrong."""
    try:
        conversation = parse_conversation(record, "x")
    except InputError:
        return
    count = sum(turn.text.count("<image>") for turn in conversation.turns)
    assert conversation.turns and count == len(conversation.images)
