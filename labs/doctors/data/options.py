"""What one check is asked to do. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """path: the file or folder to check. against: files or folders of other splits, to look for leaks.

    image_root: the folder that image paths are relative to (None: what the format or the file's own
    folder says). follow_links: whether links in it may lead out of it. model: a Transformers processor (a name or a folder) for the token checks, or None.
    max_length: tokens a sample may have, or None. clip: a CLIP model (a name or a folder), or None;
    clip_threshold: the score below which a text does not fit its picture (None: the model's own).
    image_seconds, image_memory_mb: what opening one picture may take. workers: processes, None for as
    many as there are cores. min_side in pixels, max_aspect long side over short side. examples: how
    many of each kind are kept.
    """

    path: Path
    against: tuple[Path, ...] = ()
    image_root: Path | None = None
    model: str | None = None
    max_length: int | None = None
    images: bool = True
    near_duplicates: bool = True
    clip: str | None = None
    clip_threshold: float | None = None
    max_pixels: int = 100_000_000
    image_seconds: float = 10.0
    image_memory_mb: int = 1024
    workers: int | None = None
    min_side: int = 8
    max_aspect: float = 20.0
    examples: int = 20
    follow_links: bool = False

    @property
    def processes(self) -> int:
        """How many processes to work with: `workers`, or the cores that this process may use."""
        if self.workers is not None:
            return max(self.workers, 1)
        try:
            return len(os.sched_getaffinity(0))
        except AttributeError:  # not on macOS
            return os.cpu_count() or 1
