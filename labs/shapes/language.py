"""How the world is talked about: captions, questions and answers, in English and Chinese."""

import random

from labs.shapes.digits import digit_value
from labs.shapes.scene import Object, Scene
from labs.shapes.vocabulary import say

LANGUAGES = ("en", "zh")

# Several wordings a task, so that the model learns the question and not one string.
QUESTIONS = {
    "en": {
        "caption": ("Describe the image.", "What is in the picture?"),
        "existence": ("Is there a {what}?",),
        "conjunction": ("Is there a {what}?",),
        "count": ("How many {what} are there?",),
        "colour": ("What colour is the {what}?",),
        "colour_at": ("What colour is the object {place}?",),
        "position": ("Where is the {what}?",),
        "grounding": ("Give the box of the {what}.",),
        "ocr": ("What does the image say?", "Read the digits."),
        "more": ("Are there more {a} objects than {b} ones?",),
        "same_colour": ("Do the {a} and the {b} have the same colour?",),
        "larger": ("Which is larger, the {a} or the {b}?",),
        "left_of": ("Is the {a} to the left of the {b}?",),
        "it_colour": ("What colour is it?",),
        "it_position": ("Where is it?",),
    },
    "zh": {
        "caption": ("描述这张图片。", "图中有什么？"),
        "existence": ("图中有{what}吗？",),
        "conjunction": ("图中有{what}吗？",),
        "count": ("图中有几个{what}？",),
        "colour": ("{what}是什么颜色？",),
        "colour_at": ("{place}的物体是什么颜色？",),
        "position": ("{what}在哪里？",),
        "grounding": ("给出{what}的边界框。",),
        "ocr": ("图片上写了什么？", "读出数字。"),
        "more": ("{a}物体比{b}物体多吗？",),
        "same_colour": ("{a}和{b}颜色相同吗？",),
        "larger": ("{a}和{b}哪个更大？",),
        "left_of": ("{a}在{b}的左边吗？",),
        "it_colour": ("它是什么颜色？",),
        "it_position": ("它在哪里？",),
    },
}


def ask(template: str, language: str, rng: random.Random, **slots: str) -> str:
    """One wording of the question, its slots filled."""
    return rng.choice(QUESTIONS[language][template]).format(**slots)


def noun(obj: Object, language: str, colour: bool = True, size: bool = True) -> str:
    """ "large red ring" or 大红色圆环."""
    words = [obj.size] * size + [obj.colour] * colour + [obj.kind]
    return ("" if language == "zh" else " ").join(say(w, language) for w in words)


def plural(word: str) -> str:
    return word + ("es" if word.endswith("s") else "s")


def place(position: str, language: str) -> str:
    """ "at the top left", "in the centre"; 左上角."""
    if language == "zh":
        return say(position, language)
    return {"centre": "in the centre"}.get(position, f"at the {position}")


def mention(obj: Object, language: str) -> str:
    """One object of a caption: "a large red ring at the top left", 左上角有一个大红色圆环."""
    if language == "zh":
        return f"{place(obj.position, language)}有一个{noun(obj, language)}"
    return f"a {noun(obj, language)} {place(obj.position, language)}"


def caption(scene: Scene, language: str = "en", order: list[int] | None = None) -> str:
    """Every object with size, colour, kind and place, in reading order (or the order given)."""
    if scene.digits:
        number = read_digits(scene)
        return f"图片上写着{number}。" if language == "zh" else f"the number {number}."
    objects = scene.objects if order is None else [scene.objects[i] for i in order]
    joint, end = ("，", "。") if language == "zh" else (", ", ".")
    return joint.join(mention(o, language) for o in objects) + end


def read_digits(scene: Scene) -> str:
    """The number written in the picture: "407"."""
    return "".join(str(digit_value(index)) for index in scene.digits)


def box_text(obj: Object) -> str:
    """The box in percent of the side, as Qwen-VL and its kin write theirs: [left,top,right,bottom]."""
    return "[" + ",".join(str(round(100 * v)) for v in obj.box) + "]"
