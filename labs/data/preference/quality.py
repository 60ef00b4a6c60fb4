"""How good an answer about a known scene is: one number, for rewards and for simulated annotators."""

from labs.shapes import QA, Scene, is_correct, judge


def caption_quality(
    scene: Scene, text: str, hallucination: float = 1.5, mistake: float = 0.5
) -> float:
    """What a description gets right, less what it makes up.

        q = (right - hallucination · invented - mistake · mistaken) / shown, clipped to [-1, 1]

    right: objects described without contradiction. invented: objects said that are not there, or
    said twice. mistaken: objects of a kind that is there, with a wrong colour, size or place. shown:
    objects of the scene. An object left out costs 1 / shown, so with `hallucination` above 1 an
    invented object costs more than a missed one, and with `mistake` above 0 a guessed attribute
    costs more than silence. A description without fault is worth 1, an empty one 0.

    Raises ValueError for hallucination <= 1 or mistake < 0. Chapter 5.
    """
    if hallucination <= 1 or mistake < 0:
        raise ValueError("hallucination must be above 1 and mistake at least 0")
    found = judge(scene, text)
    value = len(found.right) - hallucination * len(found.hallucinated)
    value -= mistake * len(found.mistaken)
    return max(-1.0, min(1.0, value / max(len(scene.objects), 1)))


def answer_quality(
    qa: QA, scene: Scene, text: str, hallucination: float = 1.5, mistake: float = 0.5
) -> float:
    """`caption_quality` of a description; of any other answer 1 if it is right, else 0.

    An answer that cannot be read as one is worth 0, like a wrong one. Chapter 5.
    """
    if qa.task == "caption":
        return caption_quality(scene, text, hallucination, mistake)
    return float(is_correct(qa.task, scene, qa.answer, text) is True)
