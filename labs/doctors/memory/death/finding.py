"""A cause of the catalogue, found in a run that has ended."""

from __future__ import annotations

from dataclasses import replace

from labs.doctors.finding import Evidence, Finding
from labs.doctors.memory.causes import CAUSES, RUN


def finding(
    cause: str, confidence: str, lines: list[str], why: str, title: str | None = None
) -> Finding:
    """A finding of the shared catalogue, with this run's evidence."""
    found = CAUSES[cause].finding(confidence, map(Evidence, lines), why, title)
    # What `run` would find out is found out already.
    return replace(found, next_command=None) if found.next_command == RUN else found
