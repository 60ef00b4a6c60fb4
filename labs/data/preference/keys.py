"""When two pairs are the same pair, and two answers the same answer."""

import hashlib
from collections.abc import Callable, Sequence

from PIL import Image

from labs.formats import Turn


def pair_key(prompt: Sequence[Turn], images: Sequence, answers: tuple[str, str]) -> tuple:
    """Equal for the same two answers, in whichever order, to the same turns and pictures.

    Pictures are compared by path, or by their pixels where they are open.
    """
    shown = tuple(image_key(image) for image in images)
    return tuple(prompt), shown, frozenset(answers)


def image_key(image) -> str:
    """The path as it is; of an open picture a digest of its mode, size and pixels."""
    if not isinstance(image, Image.Image):
        return str(image)
    digest = hashlib.blake2b(f"{image.mode}{image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def truncated(text: str, tokenize: Callable[[str], Sequence], max_tokens: int) -> tuple:
    """The tokens of the text that are left of it, to compare."""
    return tuple(tokenize(text)[:max_tokens])
