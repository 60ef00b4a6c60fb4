"""Lines of a log: numbered, without colour codes, apart from the prefixes that tools put before them.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)|\x1b[@-Z\\^_=>]"
)
# `[rank3]:` torch; `[default3]:` and `[3]:` torchrun; `[1,3]<stderr>:` mpirun; `3: ` srun --label.
RANK = re.compile(
    r"\s{0,8}(?:\[(?:rank\s?|default|Rank\s?|RANK\s?|GPU\s?)(\d{1,5})\]:?|\[\d+,(\d+)\]<std\w+>:"
    r"|\[(\d{1,5})\]:|(\d{1,5}):(?= +(?:File|Traceback|torch|\w*Error)|\s{2,}))\s?"
)
# Prefixes that carry no rank: Ray workers, container time stamps, pdsh's `worker-1: `.
PREFIX = re.compile(
    r"\(\w[\w.:<>,= \-]{0,80} pid=\d+(?:, ip=[\d.a-f:]+)?\)\s?"
    r"|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./]{1,60}\.py:\d+\] ?"  # vLLM
    r"|[a-z][\w.\-]{0,60}\s+\| (?=\(|[A-Z]{4,8} |Traceback|\[|[\w.]*Error|\s+File)"  # docker compose
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)\s(?:std(?:err|out) [FP] )?"
    r"|[\w.\-]{1,64}: (?=\[rank\d|Traceback \(most|  File \")"
)
RANK_WORD = re.compile(r"\b(?:local_)?rank[\s:=#]{1,2}(\d{1,5})\b|:\d+:\d+ \[(\d+)\] NCCL ", re.I)


@dataclass(frozen=True)
class Line:
    """One line: its number in the file (from 1), its text without colour codes, its rank if printed.

    `text` is what stands after rank and tool prefixes; `shown` still has them.
    """

    number: int
    text: str
    rank: int | None
    shown: str


@dataclass
class Log:
    """What was read of a log: runs of neighbouring lines, in the order of the file."""

    name: str
    size: int
    regions: list[list[Line]] = field(default_factory=list)
    samples: list[list[Line]] = field(default_factory=list)
    encoding: str = "utf-8"

    @property
    def lines(self) -> list[Line]:
        return [line for region in self.regions for line in region]


def clean(raw: str) -> tuple[str, str, int | None]:
    """(text without prefixes, text as shown, rank) of one line."""
    shown = ANSI.sub("", raw) if "\x1b" in raw else raw
    shown = shown.replace("\x00", "").rstrip()
    text, rank = shown, None
    for _ in range(4):  # a Ray prefix before a rank prefix, and the like
        match = PREFIX.match(text)
        if match:
            text = text[match.end() :]
            continue
        match = RANK.match(text) if rank is None else None
        if not match:
            break
        rank = int(next(group for group in match.groups() if group))
        text = text[match.end() :]
    if rank is None and ("ank" in shown or "ANK" in shown or "NCCL" in shown):
        word = RANK_WORD.search(shown[:400])
        if word:
            rank = int(word.group(1) or word.group(2))
    return text, shown, rank


def split(data: bytes, number: int) -> list[Line]:
    """Decode `data`, whose first line has this number, into lines.

    A carriage return also ends a line (progress bars rewrite theirs), but is not counted: the
    numbers are those of `grep -n`.
    """
    lines = []
    for row in data.decode("utf-8", "replace").split("\n"):
        for part in row.split("\r"):
            if part and not part.isspace():
                text, shown, rank = clean(part)
                if shown:
                    lines.append(Line(number, text, rank, shown))
        number += 1
    return lines


class Text:
    """The lines of one region as one string, and the way back from an offset to its line."""

    def __init__(self, lines: list[Line]):
        self.lines = lines
        self.starts, parts, at = [], [], 0
        for line in lines:
            self.starts.append(at)
            parts.append(line.text)
            at += len(line.text) + 1
        self.text = "\n".join(parts)

    def index(self, offset: int) -> int:
        """The index in `lines` of the line that holds this offset."""
        return max(0, bisect_right(self.starts, offset) - 1)
