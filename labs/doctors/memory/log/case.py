"""One log, read: where memory ran out, the traceback that led there, and what stands around it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from labs.doctors.memory.log.context import Context, Growth, context_of, growth_of
from labs.doctors.memory.log.frames import Traceback, phase_of, traceback_before
from labs.doctors.memory.log.lines import Line, Log, Text
from labs.doctors.memory.log.messages import OutOfMemory, parse_messages
from labs.doctors.memory.log.pasted import Pasted, pasted_in
from labs.doctors.memory.log.signs import GPU, Sign, signs_of


@dataclass
class Event:
    """One place where memory ran out: a sentence of PyTorch's, or a sign without one."""

    line: Line
    region: int
    index: int
    message: OutOfMemory | None = None
    sign: str | None = None


@dataclass
class Case:
    """Everything read from one log, before any conclusion."""

    log: Log
    context: Context
    pasted: Pasted
    events: list[Event] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)
    growth: Growth | None = None
    survived: int = 0
    went_on: bool = False  # steps were finished after the last error, too
    primary: Event | None = None
    traceback: Traceback = field(default_factory=Traceback)
    phase: str | None = None
    steps: int | None = None

    @property
    def messages(self) -> list[OutOfMemory]:
        return [event.message for event in self.events if event.message]


def examine(log: Log) -> Case:
    """Read sentences, signs, tables, progress and the decisive traceback."""
    lines = log.lines
    case = Case(log, context_of(log), pasted_in(lines))
    case.growth = growth_of(case.context)
    for number, region in enumerate(log.regions):
        text = Text(region)
        told = set()
        for message in parse_messages(text.text):
            index = text.index(message.start)
            told.update(range(index, text.index(message.end) + 1))
            case.events.append(Event(region[index], number, index, message))
        for sign in signs_of(region, number):
            if sign.id == "bare_oom" and sign.index in told:
                continue
            case.signs.append(sign)
            if sign.id in GPU:
                case.events.append(Event(sign.line, number, sign.index, None, sign.id))
    case.events.sort(key=lambda event: (event.region, event.index))
    _choose(case)
    return case


def _choose(case: Case) -> None:
    """The primary event: the first after which no training step was finished any more."""
    group: list[Event] = []
    for event in case.events:
        if group and _progressed(case.context, group[-1].line.number, event.line.number):
            case.survived += len(group)
            group = []
        group.append(event)
    if not group:
        return
    case.went_on = _progressed(case.context, group[-1].line.number, 1 << 62)
    first = group[0]
    # The same error is often printed twice (logger and traceback): take the one that says most.
    near = [event for event in group if event.line.rank == first.line.rank]
    with_numbers = [event for event in near if event.message and event.message.complete]
    some = [event for event in near if event.message]
    case.primary = (with_numbers or some or [first])[0]
    tracebacks = (
        traceback_before(case.log.regions[event.region], event.index)
        for event in [case.primary, *near[:8]]
    )
    case.traceback = next((found for found in tracebacks if found.frames), Traceback())
    case.phase = phase_of(case.traceback)
    case.steps = case.context.steps_before(case.primary.line.number)


def _progressed(context: Context, start: int, end: int) -> bool:
    return context.steps_between(start, end) >= 3
