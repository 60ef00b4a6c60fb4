"""Augmentation that keeps the answers true: the picture changes, the text follows, or it is refused.

A flip that leaves "left" standing teaches the model to confuse the sides; a crop that cuts off what
the caption names teaches it to hallucinate (RLHF-V, arXiv:2312.00849). Each change here either
rewrites what it makes false or raises `Refused` with the reason; `augmented` counts both. What the
text does not speak of it cannot know: writing in the background is mirrored all the same.
"""

from labs.data.augment.changes import crop, flip_horizontal, jitter_colour, rotate
from labs.data.augment.left_right import mirror_words
from labs.data.augment.refused import Outcomes, Refused, augmented

__all__ = [
    "Outcomes", "Refused", "augmented", "crop", "flip_horizontal", "jitter_colour", "mirror_words", "rotate",
]  # fmt: skip
