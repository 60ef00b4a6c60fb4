"""What a rule concludes from a log: a cause, how sure, and the lines that say so.

The rules are in `gpu.py` (arithmetic on PyTorch's sentence), `calls.py` (tracebacks) and `host.py`
(host memory, shared memory, other libraries). Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labs.doctors.finding import Evidence, Finding
from labs.doctors.memory.causes import CAUSES
from labs.doctors.memory.log.lines import Line


@dataclass(frozen=True)
class Guess:
    """What one rule concludes. `first` remedies go before those of the catalogue."""

    cause: str
    confidence: str
    why: str
    evidence: tuple[Line, ...] = ()
    first: tuple[str, ...] = ()

    def finding(self, main: tuple[Line, ...] = ()) -> Finding:
        """The finding, with `main` (the error's own line) ahead of the rule's evidence."""
        lines = dict.fromkeys((*main, *self.evidence))
        evidence = [Evidence(_quoted(line), line.number, line.rank) for line in lines]
        return CAUSES[self.cause].finding(self.confidence, evidence, self.why, first=self.first)


# The advice at the end of PyTorch's sentence is the same in every log.
_ADVICE = re.compile(r" If reserved (?:but unallocated )?memory is (?:large|>>)[^\n]*$")


def _quoted(line: Line) -> str:
    return _ADVICE.sub(" …", line.shown.strip())[:8000]
