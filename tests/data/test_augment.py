"""A changed picture with a true text: held to the world's own mirror, and to English and Chinese grammar."""

import dataclasses
import random
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.data.augment import (
    Outcomes,
    Refused,
    augmented,
    crop,
    flip_horizontal,
    jitter_colour,
    mirror_words,
    rotate,
)
from labs.errors import InputError
from labs.formats import IMAGE, Conversation, Turn, parse_conversation
from labs.shapes import (
    TASKS,
    Mix,
    Object,
    Scene,
    is_correct,
    judge,
    make_record,
    render,
    stream_record,
)
from labs.shapes.language import box_text, caption, place
from labs.shapes.scene import RADIUS
from labs.shapes.vocabulary import CELLS, CHINESE


@pytest.fixture(autouse=True)
def no_grain(monkeypatch):
    """The grain has no mirror image: without it pixels can be compared."""
    monkeypatch.setattr(sys.modules["labs.shapes.render"], "GRAIN", 0)


def mirrored_scene(scene: Scene) -> Scene:
    """The world's own mirror: columns exchanged, jitter turned round."""
    objects = [
        dataclasses.replace(o, cell=o.cell // 3 * 3 + 2 - o.cell % 3, dx=-o.dx)
        for o in scene.objects
    ]
    return dataclasses.replace(scene, objects=tuple(objects))


def other_side(position: str) -> str:
    row, column = divmod(CELLS.index(position), 3)
    return CELLS[row * 3 + 2 - column]


def mirrored_turn(task: str, language: str, scene: Scene, question: str, answer: str):
    """What the world itself would ask and answer of the mirrored scene, built from the scene alone."""
    flipped = mirrored_scene(scene)
    if answer == caption(scene, language):
        # The same objects, in the order in which they were told.
        return question, caption(flipped, language, list(range(len(flipped.objects))))
    for old, new in zip(scene.objects, flipped.objects, strict=True):
        if answer == box_text(old):
            return question, box_text(new)
        if answer == place(old.position, language):
            answer = place(new.position, language)
            break
    sides = sorted(CELLS, key=len, reverse=True)
    for position in sides:
        asked = (
            f"object {place(position, 'en')}?" if language == "en" else f"{CHINESE[position]}的物体"
        )
        if asked in question:
            new = (
                f"object {place(other_side(position), 'en')}?"
                if language == "en"
                else f"{CHINESE[other_side(position)]}的物体"
            )
            return question.replace(asked, new), answer
    question = question.replace("to the left of", "to the right of").replace("的左边吗", "的右边吗")
    return question, answer


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", [t for t in TASKS if t != "ocr"])
@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6))
def test_a_flip_is_the_flip_of_the_scene(task, language, index):
    record = make_record(task, index, "train", language)
    scene = record["meta"]["scene"]
    flipped = flip_horizontal(parse_conversation(record))
    wanted = np.asarray(render(mirrored_scene(scene)), int)
    got = np.asarray(flipped.images[0], int)
    # Pillow draws to the pixel on the far side too: up to a quarter of a pixel at an edge.
    assert np.abs(wanted - got).mean() < 2.5 and np.abs(wanted - got).max() < 130
    turns = [turn.text.replace(IMAGE + "\n", "") for turn in flipped.turns]
    for qa, question, answer in zip(record["meta"]["turns"], turns[::2], turns[1::2], strict=True):
        assert (question, answer) == mirrored_turn(task, language, scene, qa.question, qa.answer)
        if qa.task == "caption":
            assert judge(mirrored_scene(scene), answer).perfect
            symmetrical = {o.cell % 3 for o in scene.objects} == {1}
            assert judge(scene, answer).perfect == (symmetrical or same_mirrored(scene))
    assert flipped.turns[0].text.startswith(IMAGE)


def same_mirrored(scene: Scene) -> bool:
    def told(s):
        return sorted((o.kind, o.colour, o.size, o.cell) for o in s.objects)

    return told(scene) == told(mirrored_scene(scene))


def test_pixels_are_those_of_the_file_mirrored_and_the_original_is_untouched(tmp_path):
    record = make_record("position", 5, "train")
    record["image"].save(tmp_path / "a.png")
    record["image"] = str(tmp_path / "a.png")
    conversation = parse_conversation(record)
    before = [turn.text for turn in conversation.turns]
    flipped = flip_horizontal(conversation)
    original = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(flipped.images[0]), original[:, ::-1])
    assert conversation.images == (str(tmp_path / "a.png"),)
    assert [turn.text for turn in conversation.turns] == before
    twice = flip_horizontal(flipped)
    np.testing.assert_array_equal(np.asarray(twice.images[0]), original)
    assert [turn.text for turn in twice.turns] == before


def test_the_stream_that_models_train_on_is_refused_for_its_digits_only():
    """Whole training conversations of six turns: what is refused, is refused for writing."""
    conversations = [parse_conversation(stream_record(Mix(), i)) for i in range(300)]
    digits = sum(bool(c.meta["scene"].digits) for c in conversations)
    outcomes = Outcomes()
    flipped = list(augmented(conversations, flip_horizontal, outcomes))
    assert outcomes.applied == len(flipped) == 300 - digits and digits > 10
    assert dict(outcomes.refused) == {"writing": digits}
    assert outcomes.share == len(flipped) / 300
    assert (
        "digits" in outcomes.examples["writing"]
        or "say" in outcomes.examples["writing"]
        or "写" in outcomes.examples["writing"]
    )


def test_meta_keeps_nothing_that_may_be_false():
    conversation = talk("Where is the ring?", "at the left")
    meta = {
        "task": "position",
        "language": "en",
        "scene": 3,
        "note": "ring at the left",
        "box": "[1,2,3,4]",
    }
    flipped = flip_horizontal(dataclasses.replace(conversation, meta=meta))
    assert flipped.meta == {"language": "en", "augmented": ["flip_horizontal"]}
    assert flip_horizontal(flipped).meta["augmented"] == ["flip_horizontal"] * 2


def talk(*texts, images=1):
    pictures = tuple(Image.effect_noise((40, 30), 60).convert("RGB") for _ in range(images))
    turns = [Turn("assistant" if k % 2 else "user", text) for k, text in enumerate(texts)]
    turns[0] = Turn("user", IMAGE * images + turns[0].text)
    return Conversation("x", pictures, tuple(turns))


MIRRORED = {
    "A dog on the left.": "A dog on the right.",
    "The dog is to the left of the cat": "The dog is to the right of the cat",
    "Top left: a star; bottom-right, a ring.": "Top right: a star; bottom-left, a ring.",
    "in the upper left corner": "in the upper right corner",
    "The leftmost cup and the right-hand door": "The rightmost cup and the left-hand door",
    "He raises his right hand.": "He raises his left hand.",
    "The dog's left ear": "The dog's right ear",
    "LEFT SIDE": "RIGHT SIDE",
    "on the far right, a tree": "on the far left, a tree",
    "from left to right": "from right to left",
    "Is it on the left or on the right?": "Is it on the right or on the left?",
    "The car turns right.": "The car turns left.",
    "On the right a man sits": "On the left a man sits",
    "On the left, a sign; on the right, one more": "On the right, a sign; on the left, one more",
    "to the right of it stands a horse": "to the left of it stands a horse",
    "the left half of the picture": "the right half of the picture",
    "a man (left) and a woman (on the right)": None,  # "(left)" alone: gone, or there?
    "The one on the right is larger": "The one on the left is larger",
    "moving towards the right": "moving towards the left",
    "second from the left": "second from the right",
    "the dog at the top right in the sun": "the dog at the top left in the sun",
    "a right turn": "a left turn",
    "A right-handed player": "A left-handed player",
    "Left: a dog. Right: a cat.": "Right: a dog. Left: a cat.",
    "左上角有一个圆环": "右上角有一个圆环",
    "它在右侧。": "它在左侧。",
    "从左到右": "从右到左",
    "最左边的人举起右手": "最右边的人举起左手",
    "向左转": "向右转",
    "左右两侧各有一棵树": "左右两侧各有一棵树",
    "大约十米左右，在左边": "大约十米左右，在右边",
    "圆环在方形的左边吗？": "圆环在方形的右边吗？",
    "左": "右",
    "前后左右都是人": "前后左右都是人",
}  # fmt: skip
KEPT = [
    "That's right.", "You are right, it is a dog.", "All right then", "a dog right behind the cat",
    "The right answer is a dog", "right next to the tree", "The sign is right above the door",
    "a right angle and a right triangle", "He has left the room", "left over food", "How many are left?",
    "nothing left on the plate", "They left the house", "human rights and bright copyright", "Right now it rains",
    "It was left behind", "It's a dog, right?", "the right time", "no sides here", "东西很多", "一个十字",
]  # fmt: skip
UNSURE = {
    "left_or_right": [
        "the right one", "the right to vote", "Is this right", "right", "left", "in the right place of the table",
        "the Right Bank", "Put it right", "two people left the left", "the left", "左派", "座右铭", "左右为难",
        "right of way", "the right of the people", "or the right of trial", "左顾右盼", "a left",
    ],
    "writing": [
        "The sign reads STOP", "What does the sign say?", "the letters on the left", "What digits are shown?",
        "a handwritten note", "图片上写着407。", "读出数字。", "车牌号码", "the number 407.",
    ],
    "clock": ["What time is it?", "a clock on the wall", "三点钟", "现在几点？"],
    "turning": ["It turns clockwise", "an anti-clockwise spiral", "逆时针旋转"],
    "compass": ["the east side", "to the north-west", "Southern France", "房子的东侧", "向西"],
    "coordinates": ["<box>(1,2),(3,4)</box>", "at (12, 30)", "[50,10,20,30]", "[1,2,300,400]", '{"bbox": 1}'],
}  # fmt: skip


@pytest.mark.parametrize("text, wanted", MIRRORED.items())
def test_places_are_exchanged(text, wanted):
    if wanted is None:
        with pytest.raises(Refused):
            mirror_words(text)
        return
    assert mirror_words(text) == wanted
    assert mirror_words(wanted) == text


def test_a_mirrored_text_may_be_unsure_itself():
    assert mirror_words("looking left at the ball") == "looking right at the ball"
    with pytest.raises(Refused, match="left_or_right"):
        mirror_words("looking right at the ball")  # straight at it, or to the right?


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_place_stays(text):
    assert mirror_words(text) == text


@pytest.mark.parametrize(
    "reason, text", [(r, text) for r, texts in UNSURE.items() for text in texts]
)
def test_what_is_not_sure_is_refused_with_its_reason(reason, text):
    with pytest.raises(Refused) as refused:
        flip_horizontal(talk("Hm", text))
    assert refused.value.reason == reason, refused.value


def test_an_answer_of_one_word_is_understood_by_its_question():
    assert flip_horizontal(talk("Left or right?", "Left.")).turns[1].text == "Right."
    assert flip_horizontal(talk("On which side is it?", "right")).turns[1].text == "left"
    with pytest.raises(Refused, match="left_or_right"):
        flip_horizontal(talk("Am I wrong?", "right"))


def test_several_pictures_or_none_are_refused():
    for images, reason in ((0, "no_picture"), (2, "several_pictures")):
        with pytest.raises(Refused, match=reason):
            flip_horizontal(talk("What?", "a dog", images=images))


@settings(deadline=None)
@given(
    st.integers(0, 99), st.integers(0, 99), st.integers(1, 100), st.integers(1, 100), st.booleans()
)
def test_boxes_are_mirrored_in_their_own_writing(left, top, right, bottom, shares):
    left, right = min(left, right - 1), max(left + 1, right)
    top, bottom = min(top, bottom - 1), max(top + 1, bottom)

    def write(numbers, joint):
        body = joint.join(f"{n / 100:.2f}" if shares else str(n) for n in numbers)
        return f"[{body}] and no [1, 2, 3]"

    for joint in (",", ", ", " , "):
        text = write((left, top, right, bottom), joint)
        flipped = flip_horizontal(talk("The box?", text)).turns[1].text
        assert flipped == write((100 - right, top, 100 - left, bottom), joint)


def test_boxes_of_another_scale_are_mirrored_in_it():
    conversation = talk("The box?", "[100,200,300,999]")
    assert flip_horizontal(conversation, box_scale=1000).turns[1].text == "[700,200,900,999]"
    with pytest.raises(Refused, match="coordinates"):
        flip_horizontal(conversation)


# Crop


def test_a_crop_needs_to_know_what_is_there():
    conversation = talk("What is it?", "a dog")
    with pytest.raises(Refused, match="unknown_objects"):
        crop(conversation, (0, 0, 0.9, 0.9), None)
    with pytest.raises(Refused, match="object_cut_off"):
        crop(conversation, (0, 0, 0.5, 0.5), [(0.1, 0.1, 0.6, 0.4)])
    assert crop(conversation, (0, 0, 0.5, 0.5), [(0.1, 0.1, 0.5, 0.4)]).images[0].size == (20, 15)
    for wrong in ((0.5, 0, 0.4, 1), (0, 0, 1.2, 1)):
        with pytest.raises(InputError):
            crop(conversation, wrong, [])


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a dog on the left", "place"),
        ("a large dog", "size"),
        ("The sign says stop", "writing"),
        ("狗在上方", "place"),
    ],
)
def test_a_crop_is_refused_where_the_frame_counts(text, reason):
    with pytest.raises(Refused, match=reason):
        crop(talk("Tell me.", text), (0, 0, 1, 1), [])


@pytest.mark.parametrize("task", ["count", "colour_of", "existence", "conjunction", "grounding"])
def test_a_crop_around_all_objects_keeps_every_answer_true(task):
    """The scene is cropped by itself: boxes computed from its geometry, colours read from its pixels."""
    rng, applied = random.Random(3), 0
    for index in range(60):
        wanted = {"by": "kind"} if task == "colour_of" else {}
        record = make_record(task.removesuffix("_of"), index, "train", resolution=96, **wanted)
        scene = record["meta"]["scene"]
        # The tips of a star reach a tenth of its radius out of its box.
        out = np.array([-0.016, -0.016, 0.016, 0.016])
        grown = [np.array(o.box) + out for o in scene.objects]
        boxes = [tuple(np.clip(box, 0, 1).tolist()) for box in grown]
        edges = [min(b[0] for b in boxes), min(b[1] for b in boxes)]
        edges += [max(b[2] for b in boxes), max(b[3] for b in boxes)]
        box = (
            rng.uniform(0, max(edges[0], 0)), rng.uniform(0, max(edges[1], 0)),
            rng.uniform(edges[2], 1), rng.uniform(edges[3], 1),
        )  # fmt: skip
        cropped = crop(parse_conversation(record), box, boxes)
        applied += 1
        pixels = np.asarray(record["image"])
        small = np.asarray(cropped.images[0])
        ink = (np.ptp(pixels.astype(int), axis=-1) > 40).sum()
        assert (np.ptp(small.astype(int), axis=-1) > 40).sum() == ink  # no object lost a pixel
        if task != "grounding":
            assert cropped.turns == parse_conversation(record).turns
            continue
        left, top = int(box[0] * 96), int(box[1] * 96)
        written = [int(n) for n in re.findall(r"\d+", cropped.turns[1].text)]
        true = [float(n) * 0.96 for n in re.findall(r"\d+", record["meta"]["turns"][0].answer)]
        back = [
            w / 100 * s + o
            for w, s, o in zip(written, small.shape[1::-1] * 2, (left, top) * 2, strict=True)
        ]
        np.testing.assert_allclose(back, true, atol=0.6)
    assert applied == 60


# Colour


def test_colour_changes_are_refused_where_a_colour_is_named_or_asked_for():
    for text in ("a red ring", "What colour is it?", "红色圆环", "a silver car", "彩色气球"):
        for change in ({"hue": 0.3}, {"saturation": 0.2}):
            with pytest.raises(Refused, match="colour"):
                jitter_colour(talk("Tell me.", text), **change)
        assert (
            jitter_colour(talk("Tell me.", text), brightness=1.1) if "light" not in text else True
        )
    with pytest.raises(Refused, match="light"):
        jitter_colour(talk("Tell me.", "a dark street at night"), brightness=0.8)
    with pytest.raises(InputError):
        jitter_colour(talk("Tell me.", "a dog"), contrast=-1)


def test_colour_changes_do_what_they_say():
    image = Image.new("RGB", (8, 8), (200, 40, 40))
    conversation = Conversation("x", (image,), (Turn("user", IMAGE), Turn("assistant", "a dog")))
    third = np.asarray(jitter_colour(conversation, hue=1 / 3).images[0])[0, 0].astype(int)
    assert abs(third - [40, 200, 40]).max() < 8
    grey = np.asarray(jitter_colour(conversation, saturation=0).images[0])[0, 0]
    assert np.ptp(grey) == 0
    half = np.asarray(jitter_colour(conversation, brightness=0.5).images[0])[0, 0]
    assert half.tolist() == [100, 20, 20]
    same = jitter_colour(conversation)
    assert (
        np.array_equal(np.asarray(same.images[0]), np.asarray(image)) and same.id != conversation.id
    )


# Rotation


def test_rotation_turns_the_picture_and_refuses_places():
    conversation = talk("How many dogs?", "two")
    turned = rotate(conversation)
    np.testing.assert_array_equal(
        np.asarray(turned.images[0]), np.rot90(np.asarray(conversation.images[0]))
    )
    assert rotate(conversation, 2).images[0].size == (40, 30)
    for text, reason in {
        "a dog on the left": "place", "上方有一只狗": "place", "a standing man": "place", "the word's letters": "writing",
        "[1,2,3,4]": "coordinates", "a clock": "clock", "the western wall": "compass",
    }.items():  # fmt: skip
        with pytest.raises(Refused, match=reason):
            rotate(talk("Tell me.", text))


def test_rotation_keeps_the_worlds_counts_and_colours_true():
    """Turned scenes are again scenes: what is asked of one is answered the same of the other."""
    for index in range(40):
        record = make_record("count", index, "train", "zh" if index % 2 else "en")
        scene, (qa,) = record["meta"]["scene"], record["meta"]["turns"]
        turned = rotate(parse_conversation(record))
        objects = tuple(
            Object(o.kind, o.colour, o.size, (2 - o.cell % 3) * 3 + o.cell // 3, o.dy, -o.dx)
            for o in scene.objects
        )
        other = dataclasses.replace(scene, objects=objects)
        assert is_correct("count", other, qa.answer, turned.turns[1].text)
        for obj in objects:  # the colour at the turned place is the object's
            x, y = (round(c * 48) for c in obj.centre)
            reach = 1 if obj.kind != "ring" else 0
            if obj.kind != "ring" and RADIUS[obj.size] * 48 > 2 * reach:
                wanted = np.asarray(render(other))[y, x].astype(int)
                assert np.abs(np.asarray(turned.images[0])[y, x].astype(int) - wanted).max() < 60
