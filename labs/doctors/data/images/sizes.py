"""How large the pictures are: counts by width, height, shape, pixels, mode and format.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import bisect
import collections
from dataclasses import dataclass, field
from typing import Any

from labs.doctors.data.images.verdict import ImageVerdict

# Lower edges of the bins. Sides in pixels, shape in per cent (width over height), area in thousand
# pixels.
EDGES = {
    "width": (0, 8, 32, 64, 128, 224, 336, 448, 640, 800, 1024, 1536, 2048, 3072, 4096, 8192),
    "height": (0, 8, 32, 64, 128, 224, 336, 448, 640, 800, 1024, 1536, 2048, 3072, 4096, 8192),
    "shape": (0, 5, 20, 33, 50, 66, 80, 95, 105, 125, 150, 200, 300, 500, 2000),
    "area": (0, 1, 10, 50, 100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000),
}
UNITS = {
    "width": "pixels",
    "height": "pixels",
    "shape": "% width over height",
    "area": "thousand pixels",
}


@dataclass
class Sizes:
    """Counts over all pictures whose header could be read; sizes are as shown, after EXIF's turn.

    bins: quantity (a key of EDGES) -> bin's index -> pictures. modes, formats: Pillow's name ->
    pictures. bytes: of all files, readable or not. smallest, largest: (width, height) by area.
    """

    pictures: int = 0
    bytes: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    bins: dict[str, collections.Counter] = field(
        default_factory=lambda: {name: collections.Counter() for name in EDGES}
    )
    modes: collections.Counter = field(default_factory=collections.Counter)
    formats: collections.Counter = field(default_factory=collections.Counter)

    def add(self, verdict: ImageVerdict) -> None:
        self.bytes += verdict.bytes
        if verdict.size is None or 0 in verdict.size:
            return
        width, height = verdict.size
        self.pictures += 1
        values = {
            "width": width,
            "height": height,
            "shape": 100 * width // height,
            "area": width * height // 1000,
        }
        for name, value in values.items():
            self.bins[name][bisect.bisect_right(EDGES[name], value) - 1] += 1
        self.modes[verdict.mode] += 1
        self.formats[verdict.format] += 1
        sizes = [size for size in (self.smallest, self.largest, verdict.size) if size]
        self.smallest = min(sizes, key=_area)
        self.largest = max(sizes, key=_area)

    def histogram(self, name: str) -> list[tuple[int, int, int]]:
        """(lowest, highest, pictures) from the first bin with pictures to the last, both ends included.

        The last bin of all is open above: it ends where the largest picture does.
        """
        counts, edges = self.bins[name], EDGES[name]
        if not counts:
            return []
        last = len(edges) - 1
        return [
            (edges[i], edges[i + 1] - 1 if i < last else max(edges[i], self._top(name)), counts[i])
            for i in range(min(counts), max(counts) + 1)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "pictures": self.pictures,
            "bytes": self.bytes,
            "smallest": self.smallest,
            "largest": self.largest,
            "modes": dict(self.modes.most_common()),
            "formats": dict(self.formats.most_common()),
        }

    def _top(self, name: str) -> int:
        width, height = self.largest
        return {"area": _area(self.largest) // 1000, "shape": 100 * width // height}.get(
            name, max(width, height)
        )


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
