"""Flip, crop, colour jitter and rotation of a conversation's picture, its text kept true."""

import dataclasses
import re
from collections.abc import Sequence
from decimal import Decimal

from PIL import Image, ImageEnhance

from labs.data.augment import words
from labs.data.augment.boxes import Box, find_boxes, rewrite_boxes
from labs.data.augment.left_right import mirror_words
from labs.data.augment.refused import Refused
from labs.errors import InputError
from labs.formats import Conversation, Turn, load_image

_FRAME, _LOOK = (words.PLACES, words.SIZES), (words.COLOURS, words.LIGHT)
Share = tuple[float, float, float, float]  # left, top, right, bottom as shares of the side


def flip_horizontal(conversation: Conversation, box_scale: int = 100) -> Conversation:
    """The mirrored picture, with left and right exchanged in every turn and boxes mirrored.

    box_scale: units a side in which boxes [left, top, right, bottom] are written (100: percent).
    Raises Refused: "several_pictures" or "no_picture"; "writing" (letters and digits of the picture
    become unreadable); "clock", "turning" (clockwise), "compass"; "left_or_right" where a place
    cannot be told from "correct" or "remaining"; "coordinates" of an unknown form. Chapter 2.
    """
    image, texts = _picture(conversation), _texts(conversation)
    words.refuse_if(words.WRITING, texts, "writing", "the text speaks of writing in the picture")
    words.refuse_if(words.TURNING, texts, "turning", "a mirrored turn goes the other way")
    words.refuse_if(words.CLOCK, texts, "clock", "a mirrored clock shows another time")
    words.refuse_if(words.COMPASS, texts, "compass", "a mirrored map is wrong")

    def mirrored(box: Box, unit: Decimal) -> Box:
        left, top, right, bottom = box
        return unit - right, top, unit - left, bottom

    turns, question = [], ""
    for turn in conversation.turns:
        text = mirror_words(turn.text, question)
        turns.append(Turn(turn.role, rewrite_boxes(text, mirrored, box_scale)))
        question = turn.text
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _changed(conversation, flipped, turns, "flip_horizontal", [words.PLACES])


def crop(
    conversation: Conversation, box: Share, objects: Sequence[Share] | None, box_scale: int = 100
) -> Conversation:
    """The part of the picture inside `box`; boxes in the text are written anew.

    objects: the boxes of all that the text may speak of. Without them an object that the text names
    may be gone, and the crop is refused ("unknown_objects"); so it is where one is not wholly inside
    ("object_cut_off"), where the text says where in the frame something is ("place") or how large
    ("size"), and "writing". Raises InputError for a box that is none.
    """
    if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise InputError(
            f"The crop {box} is no box.", "Give left, top, right, bottom as shares from 0 to 1."
        )
    image, texts = _picture(conversation), _texts(conversation)
    if objects is None:
        raise Refused("unknown_objects", "nobody knows whether what the text names is still there")
    for obj in objects:
        inside = box[0] <= obj[0] and box[1] <= obj[1] and obj[2] <= box[2] and obj[3] <= box[3]
        if not inside:
            raise Refused("object_cut_off", f"the object at {obj} is not wholly inside {box}")
    words.refuse_if(words.PLACES, texts, "place", "places in the frame change")
    words.refuse_if(words.SIZES, texts, "size", "sizes in the frame change")
    words.refuse_if(words.WRITING, texts, "writing", "the text speaks of writing in the picture")
    width, height = image.size
    # Whole pixels, outwards: nothing inside the box is lost. The text's boxes go by these.
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = -int(-box[2] * width // 1), -int(-box[3] * height // 1)

    def moved(written: Box, unit: Decimal) -> Box:
        sides = [
            (value / unit * whole - start) / (end - start) * unit
            for value, whole, start, end in zip(
                written, (width, height) * 2, (left, top) * 2, (right, bottom) * 2, strict=True
            )
        ]
        return tuple(min(max(side, Decimal(0)), unit) for side in sides)

    turns = [
        Turn(turn.role, rewrite_boxes(turn.text, moved, box_scale)) for turn in conversation.turns
    ]
    return _changed(conversation, image.crop((left, top, right, bottom)), turns, "crop", _FRAME)


def jitter_colour(
    conversation: Conversation,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> Conversation:
    """Factors of brightness, contrast and saturation (1 leaves them), and a turn of the hue (in turns).

    Raises Refused: "colour" where saturation or hue change and the text names a colour or asks for
    one; "light" where brightness or contrast change and the text speaks of light and dark.
    """
    if min(brightness, contrast, saturation) < 0:
        raise InputError("A factor is below 0.", "Give factors around 1, such as 0.8 or 1.2.")
    image, texts = _picture(conversation), _texts(conversation)
    if saturation != 1 or hue % 1:
        words.refuse_if(words.COLOURS, texts, "colour", "the text speaks of colours")
    if brightness != 1 or contrast != 1:
        words.refuse_if(words.LIGHT, texts, "light", "the text speaks of light and dark")
    for factor, enhancer in (
        (brightness, ImageEnhance.Brightness),
        (contrast, ImageEnhance.Contrast),
        (saturation, ImageEnhance.Color),
    ):
        if factor != 1:
            image = enhancer(image).enhance(factor)
    if hue % 1:
        bands = list(image.convert("HSV").split())
        bands[0] = bands[0].point([(value + round(256 * hue)) % 256 for value in range(256)])
        image = Image.merge("HSV", bands).convert("RGB")
    return _changed(conversation, image, list(conversation.turns), "jitter_colour", _LOOK)


def rotate(conversation: Conversation, quarters: int = 1) -> Conversation:
    """The picture turned counter-clockwise by quarters of a turn.

    Raises Refused: "place" where the text says where something is or which way up; "coordinates"
    where it holds boxes; "writing"; "clock"; "compass".
    """
    image, texts = _picture(conversation), _texts(conversation)
    words.refuse_if(words.PLACES, texts, "place", "places and directions turn with the picture")
    words.refuse_if(words.WRITING, texts, "writing", "the text speaks of writing in the picture")
    words.refuse_if(words.CLOCK, texts, "clock", "a turned clock shows another time")
    words.refuse_if(words.COMPASS, texts, "compass", "a turned map is wrong")
    for text in texts:
        rewrite_boxes(text, lambda box, unit: box, 10**6)  # refuses coordinates of other forms
        if find_boxes(text):
            raise Refused("coordinates", f"a box turns with the picture: {find_boxes(text)[0]}")
    turned = image.rotate(90 * quarters, expand=True)
    return _changed(conversation, turned, list(conversation.turns), "rotate", [words.PLACES])


def _picture(conversation: Conversation) -> Image.Image:
    if not conversation.images:
        raise Refused("no_picture", "there is nothing to change")
    if len(conversation.images) > 1:
        raise Refused("several_pictures", "'the left one' may be a picture or a place in one")
    return load_image(conversation.images[0])


def _texts(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns]


def _changed(
    conversation: Conversation,
    image: Image.Image,
    turns: list[Turn],
    name: str,
    untrue: Sequence[re.Pattern],
) -> Conversation:
    """The new conversation. Of `meta` only short words stay that hold nothing of `untrue`: a scene, a
    box or an old caption kept there would now be false."""
    kept = {
        key: value
        for key, value in conversation.meta.items()
        if isinstance(value, str) and len(value) <= 40
        if not any(pattern.search(value) for pattern in (_DIGIT, *untrue))
    }
    done = [*conversation.meta.get("augmented", []), name]
    return dataclasses.replace(
        conversation,
        id=f"{conversation.id}-{name}",
        images=(image,),
        turns=tuple(turns),
        meta={**kept, "augmented": done},
    )


_DIGIT = re.compile(r"\d")
