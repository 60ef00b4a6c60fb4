"""Preference pairs in the dialects of TRL, LLaVA-RLHF and RLHF-V read as the same pair."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats import Turn, load_image
from labs.formats.preference import Preference, read_preferences, write_preferences

GOOD, BAD = "Two cats.", "Two cats and a dog."


def said(text, role="assistant"):
    return [{"role": role, "content": [{"type": "text", "text": text}]}]


# Each says: on a.jpg, asked "What is here?", GOOD is better than BAD.
DIALECTS = {
    "trl, as in rlaif-v": {
        "images": ["a.jpg"],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat is here?"}]}],
        "chosen": said(GOOD),
        "rejected": said(BAD),
    },
    "trl, plain messages and no marker": {
        "image": "a.jpg",
        "prompt": [{"role": "user", "content": "What is here?"}],
        "chosen": [{"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "assistant", "content": BAD}],
    },
    "trl, strings": {"images": ["a.jpg"], "prompt": "What is here?", "chosen": GOOD, "rejected": BAD},
    "trl, implicit prompt": {
        "images": ["a.jpg"],
        "chosen": said("What is here?", "user") + said(GOOD),
        "rejected": said("What is here?", "user") + said(BAD),
    },
    "llava-rlhf": {
        "id": "22564",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat is here?"}, {"from": "gpt", "value": "to be replaced"}],
        "output_1": {"from": "llava", "value": BAD},
        "output_2": {"from": "llava", "value": GOOD},
        "preference": 2,
        "hallucination": True,
    },
    "rlhf-v": {
        "ds_name": "RLHF-V", "image": "a.jpg",
        "text": json.dumps({"question": "What is here?", "chosen": GOOD, "rejected": BAD}),
        "origin_dataset": "LCS-558K", "origin_split": '{"model": "Qwen-VL-Chat"}', "idx": 0, "image_path": "llava1.5/x.jpg",
    },
    "rlaif-v": {"ds_name": "RLAIF-V", "question": "What is here?", "chosen": GOOD, "rejected": BAD, "idx": 3, "image_path": "a.jpg"},
}  # fmt: skip


def written(tmp_path, *records, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(tmp_path, name):
    (pair,) = read_preferences(written(tmp_path, DIALECTS[name]))
    assert pair.images == (str(tmp_path / "a.jpg"),)
    assert pair.prompt == (Turn("user", "<image>\nWhat is here?"),)
    assert (pair.chosen, pair.rejected, pair.tied) == (GOOD, BAD, False)
    assert pair.to_conversation().turns == (*pair.prompt, Turn("assistant", GOOD))
    assert pair.to_conversation(chosen=False).turns[-1].text == BAD


def test_ids_and_what_else_a_record_holds(tmp_path):
    rows = [DIALECTS[name] for name in ("llava-rlhf", "rlhf-v", "rlaif-v", "trl, strings")]
    pairs = list(read_preferences(written(tmp_path, *rows)))
    assert [p.id for p in pairs] == ["22564", "0", "3", "line 4"]
    assert pairs[0].meta == {"hallucination": True}
    assert pairs[1].meta["origin_split"] == '{"model": "Qwen-VL-Chat"}' and pairs[1].meta["idx"] == 0  # fmt: skip
    assert pairs[3].meta == {}


def test_several_turns_images_and_none(tmp_path):
    path = tmp_path / "list.json"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First <image>, then <image>?"},
        {"role": "assistant", "content": "Cats."},
        {"role": "user", "content": "How many?"},
    ]
    text = {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Rome."}
    many = {"images": ["a.jpg", "b.jpg"], "prompt": messages, "chosen": "Two.", "rejected": "Two."}
    path.write_text(json.dumps([many, text, {**text, "images": []}]))
    first, *rest = read_preferences(path)
    assert [t.role for t in first.prompt] == ["system", "user", "assistant", "user"]
    assert len(first.images) == 2 and first.prompt[1].text.count("<image>") == 2
    assert first.tied
    assert all(p.images == () and p.prompt[0].text == "Capital of France?" for p in rest)


def test_two_images_without_markers_go_before_the_first_question(tmp_path):
    (pair,) = read_preferences(
        written(tmp_path, {**DIALECTS["trl, strings"], "images": ["a.jpg", "b.jpg"]})
    )
    assert pair.prompt[0].text == "<image><image>\nWhat is here?"


def without(name, *keys, **change):
    return {**{k: v for k, v in DIALECTS[name].items() if k not in keys}, **change}


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (without("trl, strings", "chosen"), "the field `chosen` is missing"),
        (without("trl, strings", "prompt"), "the field `prompt` is missing"),
        (without("trl, strings", rejected=""), "`rejected` must be a text"),
        (without("trl, strings", rejected=7), "`rejected` must be a text or a list of messages"),
        (without("trl, strings", prompt=[]), "`prompt` must be a text or a list of messages"),
        (without("trl, strings", images=["../a.jpg"]), "leaves the data folder"),
        (without("trl, strings", prompt="<image> or <image>?"), "2 <image> placeholders"),
        (without("trl, strings", chosen=said("a") + said("b")), "`chosen` has 2 messages"),
        (without("trl, strings", chosen=said("Hm?", "user")), "roles out of order"),
        (without("trl, strings", chosen=said(" ")), "the chosen answer is missing or empty"),
        (without("trl, strings", prompt=said("Hello.")), "roles out of order"),
        (without("trl, implicit prompt", rejected=said("Else?", "user") + said(BAD)), "differ before their last"),
        (without("trl, implicit prompt", rejected=said("What is here?", "user")), "differ before their last"),
        (without("llava-rlhf", preference=0), "`preference` is 0"),
        (without("llava-rlhf", preference="left"), "`preference` must be a whole number"),
        (without("llava-rlhf", "preference"), "`preference` is missing"),
        (without("llava-rlhf", "output_2"), "`output_2` is missing"),
        (without("llava-rlhf", output_1="text"), "`output_1` has no text"),
        (without("llava-rlhf", output_1={"from": "llava", "value": ""}), "rejected answer is missing or empty"),
        (without("llava-rlhf", conversations=[{"from": "human", "value": "<image>\nq"}]), "ends with the user"),
        (without("llava-rlhf", "image"), "1 <image> placeholder in the text, but 0 images"),
        (without("rlhf-v", text="{"), "`text` is not JSON"),
        (without("rlhf-v", text="[1]"), "`text` is no JSON object"),
        (without("rlhf-v", text='{"question": "q", "chosen": "a"}'), "`rejected` is missing"),
        (without("rlaif-v", question=" "), "`question` must be a text"),
        (["chosen", "rejected"], "must be a JSON object"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, record, sentence):
    path = written(tmp_path, DIALECTS["trl, strings"], record)
    with pytest.raises(InputError) as error:
        list(read_preferences(path))
    assert sentence in error.value.what and f"{path}, line 2" in error.value.what


def test_no_pairs(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match="not even a preference pair"):
        list(read_preferences(tmp_path / "none.jsonl"))


# "<image>" is no text but the place of a picture; hypothesis knows the word from the code.
piece = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda s: "<image>" not in s)
answer = piece.filter(str.strip)


@st.composite
def made(draw):
    prompt, count = [], 0
    if draw(st.booleans()):
        prompt.append(Turn("system", draw(piece)))
    for turn in range(draw(st.integers(0, 1)) * 2 + 1):
        pieces = draw(st.lists(piece, min_size=1, max_size=3)) if turn % 2 == 0 else [draw(piece)]
        count += len(pieces) - 1
        prompt.append(Turn(("user", "assistant")[turn % 2], "<image>".join(pieces)))
    meta = draw(st.dictionaries(st.sampled_from(["score", "source"]), st.integers() | piece))
    images = tuple(f"images/{i}.jpg" for i in range(count))
    return Preference(draw(answer), images, tuple(prompt), draw(answer), draw(answer), meta)


@settings(max_examples=50)
@given(st.lists(made(), min_size=1, max_size=4))
def test_round_trip(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("pairs")
    assert write_preferences(pairs, folder / "pairs.jsonl") == len(pairs)
    back = list(read_preferences(folder / "pairs.jsonl"))
    for pair, read in zip(pairs, back, strict=True):
        assert read.images == tuple(str(folder / image) for image in pair.images)
        assert (read.id, read.prompt, read.meta) == (pair.id, pair.prompt, pair.meta)
        assert (read.chosen, read.rejected) == (pair.chosen, pair.rejected)
    write_preferences(back, folder / "again.jsonl")
    assert (folder / "again.jsonl").read_bytes() == (folder / "pairs.jsonl").read_bytes()


def test_pictures_in_memory_and_trl_takes_what_was_written(tmp_path):
    """TRL's own function puts the pictures into the messages, and refuses other numbers of them."""
    data_utils = pytest.importorskip("trl.data_utils")
    image = Image.new("RGB", (2, 2), "red")
    pair = Preference("1", (image, image), (Turn("user", "a <image> b <image>"),), GOOD, BAD)
    write_preferences([pair], tmp_path / "pairs.jsonl")
    (back,) = read_preferences(tmp_path / "pairs.jsonl")
    assert load_image(back.images[1]).getcolors() == [(4, (255, 0, 0))]
    record = json.loads((tmp_path / "pairs.jsonl").read_text())
    assert data_utils.is_conversational(record)
    messages = data_utils.prepare_multimodal_messages(record["prompt"], images=record["images"])
    kinds = [part["type"] for part in messages[0]["content"]]
    assert kinds == ["text", "image", "text", "image"]
    assert [p["image"] for p in messages[0]["content"] if p["type"] == "image"] == record["images"]


def test_nothing_bad_is_written(tmp_path):
    good = Preference("1", (), (Turn("user", "q"),), "a", "b")
    for bad, sentence in [
        ([], "nothing to write"),
        ([Preference("1", (), (Turn("user", "q"),), "a", "b", {"prompt": "x"})], "`meta` holds `prompt`"),
        ([good, Preference("2", ("../a.jpg",), (Turn("user", "<image>"),), "a", "b")], "leaves the data folder"),
        ([good, Preference("2", (), (Turn("user", "<image>"),), "a", "b")], "1 <image> placeholder"),
        ([good, Preference("2", (), (Turn("user", "q"),), "a", " ")], "the rejected answer is missing"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            write_preferences(bad, tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
