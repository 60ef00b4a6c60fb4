"""The moments of a traced step that can be its peak, each with what is alive then by category.

A step is cut where it passes from one part of the model to another: (phase, module outside of its
layers' numbers, place in the tower). Of each stretch only the fullest instant is kept. In a tower of
equal layers memory grows or shrinks by the same amount from layer to layer, so a peak is at one of
its ends: the places are the first layer, the last but one and the last (LLaVA takes its features from
the last but one), and "" outside of towers. What happens in the middle is told by "middle".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

_LAYER = re.compile(r"^(.*?\.)?(layers|layer|blocks|block|h)\.(\d+)(?=\.|$)")
Key = tuple[str, str, str]  # phase, tower or top-level module, place in the tower


@dataclasses.dataclass(frozen=True)
class Moment:
    """The fullest instant of one stretch: after which event, and bytes by category."""

    index: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def tower_of(module: str) -> tuple[str, int | None]:
    """("model.vision_tower.encoder.layers", 3) of a module inside layer 3; (module, None) outside."""
    found = _LAYER.match(module)
    if not found:
        return module, None
    return (found[1] or "") + found[2], int(found[3])


def moments_of(events: Iterable, place: str = "device") -> dict[Key, Moment]:
    """The moments of a trace's events, on the device or on the host.

    events: in order, with kind, bytes, storage_id, category, module, phase and place.
    """
    events = list(events)
    towers: dict[str, int] = {}
    places: dict[str, tuple[str, int | None]] = {}
    for event in events:
        if event.module not in places:
            stem, layer = places[event.module] = tower_of(event.module)
            if layer is not None:
                towers[stem] = max(towers.get(stem, 0), layer + 1)
    keys: dict[tuple[str, str], Key] = {}
    live: dict[str, int] = {}
    total = 0
    best: dict[Key, tuple[int, int, dict[str, int]]] = {}
    for index, event in enumerate(events):
        if event.place != place:
            continue
        change = event.bytes if event.kind == "alloc" else -event.bytes
        live[event.category] = live.get(event.category, 0) + change
        total += change
        if change <= 0:  # memory that shrinks is not at its fullest
            continue
        pair = (event.phase, event.module)
        key = keys.get(pair)
        if key is None:
            stem, layer = places[event.module]
            key = keys[pair] = (event.phase, stem, _place(layer, towers.get(stem, 0)))
        if key not in best or total > best[key][0]:
            best[key] = (total, index, dict(live))
    return {
        key: Moment(index, {name: size for name, size in parts.items() if size})
        for key, (_, index, parts) in best.items()
    }


def _place(layer: int | None, count: int) -> str:
    if layer is None:
        return ""
    if layer >= count - 2:
        return f"{layer - count}"
    return "first" if layer == 0 else "middle"
