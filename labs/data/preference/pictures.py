"""Open pictures of pairs saved once each, however many pairs show them."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from labs.data.preference.keys import image_key
from labs.formats import Preference, atomic_write


def with_saved_pictures(
    pairs: Iterable[Preference], root: str | os.PathLike
) -> Iterator[Preference]:
    """The pairs with paths of files under `root`/images in place of open pictures.

    A file's name is a digest of its pixels: two files of pairs in one folder share pictures and never
    overwrite each other's, which names counted from 1 would.
    """
    folder, names = Path(os.path.abspath(root), "images"), set()
    for pair in pairs:
        paths = []
        for image in pair.images:
            if isinstance(image, Image.Image):
                path = folder / f"{image_key(image)}.png"
                if path not in names:
                    with atomic_write(path, "wb") as file:
                        image.save(file, format="PNG")
                    names.add(path)
                image = str(path)
            paths.append(image)
        yield dataclasses.replace(pair, images=tuple(paths))
