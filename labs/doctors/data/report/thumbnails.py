"""Small pictures of what was found, for the page. Standard library only here; the child needs Pillow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 5.0  # one picture may take; who decoded slowly before is not asked again
MEGABYTES = 1024

# What is said in place of a picture that is not opened a second time, or cannot be.
UNSEEN = {
    "missing_image": "no such file",
    "unsafe_path": "outside the data folder: not opened",
    "web_address": "on the web: not fetched",
    "symlink_loop": "a loop of links",
    "unreadable_file": "may not be read",
    "empty_image": "zero bytes",
    "not_an_image": "no image",
    "image_too_large": "over the limit of pixels",
    "image_too_slow": "over the limit of time or memory",
}
NOTHING = "cannot be shown"


def thumbnails(sources: Iterable[Any], max_pixels: int) -> Iterator[str]:
    """A data URL for each source (a path, a data URL, or (tar, offset, size)), or what there is to say.

    Pictures are opened one after the other in a child under limits of time and memory; one that dies
    of a picture is replaced. No file is opened in this process.
    """
    child = None
    try:
        for source in sources:
            if child is None:
                child = _start(max_pixels)
            url = _ask(child, source)
            if url is None:
                _end(child)
                child = None
            yield url or NOTHING
    finally:
        if child is not None:
            _end(child)


def _start(max_pixels: int) -> subprocess.Popen:
    import labs

    root = str(Path(labs.__file__).resolve().parents[1])  # a folder, or the zip this runs from
    code = (
        f"import sys; sys.path.insert(0, {root!r}); "
        "from labs.doctors.data.report.thumbnail_child import serve; serve(sys.argv[1])"
    )
    settings = {"max_pixels": max_pixels, "seconds": SECONDS, "megabytes": MEGABYTES}
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its child
        env={**os.environ, "PYTHONWARNINGS": "ignore", "MALLOC_ARENA_MAX": "1"},
    )


def _ask(child: subprocess.Popen, source: Any) -> str | None:
    """The child's answer; None where it died of the question."""
    wanted = list(source) if isinstance(source, (tuple, list)) else os.fspath(source)
    try:
        child.stdin.write(json.dumps(wanted).encode() + b"\n")
        child.stdin.flush()
    except BrokenPipeError:
        return None
    line = child.stdout.readline()
    return json.loads(line) if line else None


def _end(child: subprocess.Popen) -> None:
    child.kill()
    child.stdin.close()
    child.stdout.close()
    child.wait()
