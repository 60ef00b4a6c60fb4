"""What a traced step did to memory, as data that travels between processes. No torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from labs.errors import InputError

SCHEMA = "memory-trace/1"
_COLUMNS = ("category", "module", "phase", "op", "place")


@dataclass
class Event:
    """One allocation or free; the fields of the ledger's event, without its need for torch."""

    kind: str
    bytes: int
    storage_id: int
    category: str
    module: str
    phase: str
    op: str
    place: str = "device"


@dataclass
class Trace:
    """What a step does to memory.

    events: every allocation and free in order. marks: (index of an event, phase that starts there).
    layers: layers of each tower that were traced. static: bytes by category that are there between
    steps (weights, optimizer state, buffers). notes: what was assumed.
    """

    events: list[Event]
    static: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)  # total, trainable
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def marks(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for index, event in enumerate(self.events):
            if not found or found[-1][1] != event.phase:
                found.append((index, event.phase))
        return found

    def timeline(self, place: str = "device") -> list[int]:
        """Live bytes after each event."""
        live, line = 0, []
        for event in self.events:
            if event.place == place:
                live += event.bytes if event.kind == "alloc" else -event.bytes
            line.append(live)
        return line

    def peak_bytes(self, place: str = "device") -> int:
        return max(self.timeline(place), default=0)

    def peak_index(self, place: str = "device") -> int:
        """The event after which most is live."""
        line = self.timeline(place)
        return max(range(len(line)), key=line.__getitem__, default=0)

    def live_at(self, index: int, place: str = "device") -> list[Event]:
        """The allocations alive after an event."""
        alive: dict[int, Event] = {}
        for event in self.events[: index + 1]:
            if event.place != place:
                continue
            if event.kind == "alloc":
                alive[event.storage_id] = event
            else:
                alive.pop(event.storage_id, None)
        return list(alive.values())

    def by_category(self, index: int | None = None, place: str = "device") -> dict[str, int]:
        """Bytes by category after an event; at the peak where none is named."""
        return self._sum("category", index, place)

    def by_module(self, index: int | None = None, place: str = "device") -> dict[str, int]:
        return self._sum("module", index, place)

    def by_category_and_module(
        self, index: int | None = None, place: str = "device"
    ) -> dict[str, dict[str, int]]:
        total: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for event in self.live_at(self.peak_index(place) if index is None else index, place):
            total[event.category][event.module] += event.bytes
        return {category: dict(modules) for category, modules in total.items()}

    def _sum(self, key: str, index: int | None, place: str) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for event in self.live_at(self.peak_index(place) if index is None else index, place):
            total[getattr(event, key)] += event.bytes
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict:
        """Events in columns, with every string once."""
        words: dict[str, int] = {}
        rows = [
            [
                1 if e.kind == "alloc" else 0,
                e.bytes,
                e.storage_id,
                *(words.setdefault(getattr(e, column), len(words)) for column in _COLUMNS),
            ]
            for e in self.events
        ]
        return {
            "schema": SCHEMA,
            "words": list(words),
            "events": rows,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    @classmethod
    def from_json(cls, value: dict) -> Trace:
        """Raises InputError for anything but `to_json`'s answer."""
        try:
            if value["schema"] != SCHEMA:
                raise KeyError("schema")
            words = value["words"]
            events = [
                Event("alloc" if kind else "free", size, number, *(words[i] for i in rest))
                for kind, size, number, *rest in value["events"]
            ]
            return cls(events, **{name: value[name] for name in _PLAIN})
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"This is no trace of a training step: {error}.", "Trace the plan again."
            ) from None


_PLAIN = ("static", "layers", "parameters", "notes", "seconds")
