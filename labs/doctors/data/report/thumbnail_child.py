"""The child that makes small pictures for the page, under limits of time and memory.

One line in: a path, a data URL, or [tar, offset, size], as JSON. One line out: a data URL, or the
empty string where the picture cannot be shown. Needs Pillow; Python 3.9 or newer.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from typing import Any

SIDE = 192  # pixels of the long side: sharp at 96 on a screen of double density


def serve(settings: str) -> None:
    """Make thumbnails until standard input ends. settings: JSON with `max_pixels`, `seconds`, `megabytes`."""
    told = json.loads(settings)
    from PIL import Image, ImageFile

    from labs.doctors.data.images.child import limit_memory

    Image.init()
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # the grey half is what the reader should see
    limit_memory(told["megabytes"])
    answers = os.dup(1)
    with open(os.devnull, "wb") as nowhere:  # whatever a decoder prints is no answer
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, told["seconds"])  # SIGALRM ends the process
        url = thumbnail(json.loads(line), told["max_pixels"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(answers, json.dumps(url).encode() + b"\n")


def thumbnail(source: Any, max_pixels: int) -> str:
    """A picture of at most SIDE pixels as a data URL, the right way up; "" where there is none."""
    from labs.doctors.data.images.source import open_source
    from labs.formats.images import open_image, to_rgb

    try:
        with open_source(source) as (file, _), open_image(file, max_pixels=max_pixels) as image:
            image.draft("RGB", (SIDE, SIDE))  # JPEG's decoder leaves out what is not needed
            image.load()
            small = to_rgb(image)
            small.thumbnail((SIDE, SIDE))
            stream = io.BytesIO()
            small.save(stream, "JPEG", quality=75)
    except Exception:  # the fault is told elsewhere; here there is just nothing to show
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
