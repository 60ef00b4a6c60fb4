"""PyTorch's out-of-memory sentences, every layout from 1.0 to today, parsed into bytes.

The sentence has changed five times (`cached`, `reserved in total`, the "capacty" of 2.1, private
pools, the list of processes); it may come from CUDA, HIP, XPU, NPU or MPS, be cut off, be wrapped
by a terminal, or have another rank's sentence printed into its middle. So it is read clause by
clause, and a whole sentence is lifted out of the text before the pieces around it are read again.
Layouts: pytorch/c10/cuda/CUDACachingAllocator.cpp by release, aten/src/ATen/mps/MPSAllocator.mm.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

UNITS = {"bytes": 1, "byte": 1, "B": 1}
for _power, _letter in enumerate("KMGTPE", 1):
    UNITS[f"{_letter}iB"] = UNITS[f"{_letter}B"] = 1024**_power

_NUMBER = r"(\d[\d,]{0,24}(?:\.\d{1,6})?)"
_UNIT = r"(bytes?|[KMGTPE]i?B|B)\b"
_S = r"[\s│┃]+"  # a blank, or a line broken by a terminal or by a box around the traceback


def _pattern(words: str) -> re.Pattern:
    """`SIZE`, `INT` and blanks of `words` become what they stand for."""
    words = words.replace("SIZE", rf"{_NUMBER} {_UNIT}").replace("INT", r"(\d+)")
    return re.compile(words.replace(" ", _S))


def to_bytes(number: str, unit: str) -> int:
    """("1.50", "GiB") -> 1610612736. PyTorch's "MB" are MiB, as MPS prints them."""
    return round(float(number.replace(",", "")) * UNITS[unit])


START = _pattern(
    r"(?:(?:(CUDA|HIP|XPU|NPU|MPS|MUSA|MLU|HPU|GPU)(?: backend)? )?[Oo]ut of memory"
    r"(?: \(MPS allocated: SIZE, other allocations: SIZE, max allowed: SIZE\))?\.?"
    r"|OutOfMemoryError:) Tried to allocate (more than 1EB memory|SIZE)"  # shortened by a person
)
# (field, pattern of the clause); they are tried in any order, each at the place where one ended.
CLAUSES = (
    # PyTorch 2.2 and 2.3 print the number as a character that cannot be seen.
    ("gpu", _pattern(r"\(?(?:GPU|XPU|NPU|HPU)(?: INT)?(?: has a)?")),
    ("total", _pattern(r"(?:total capaci?ty of )SIZE")),
    ("total", _pattern(r"SIZE total capacity")),
    ("free", _pattern(r"of which SIZE is free")),
    ("free", _pattern(r"SIZE free(?![\w])")),
    ("process", _pattern(r"Process INT has SIZE memory in use")),
    ("own", _pattern(r"Including non-PyTorch memory, this process has SIZE memory in use")),
    ("allowed", _pattern(r"SIZE allowed")),
    ("allocated", _pattern(r"Of the allocated memory SIZE is allocated by PyTorch")),
    ("allocated", _pattern(r"SIZE already allocated")),
    ("active", _pattern(r"SIZE current active")),
    ("pools", _pattern(r"(?:with|and) SIZE (?:is )?allocated in private pools \(e\.g\., CUDA Graphs\)")),
    ("unallocated", _pattern(r"and SIZE is reserved by PyTorch but unallocated")),
    ("reserved", _pattern(r"SIZE reserved in total by PyTorch")),
    ("cached", _pattern(r"SIZE cached")),
    ("inactive", _pattern(r"SIZE inactive")),
    ("pool", _pattern(r"on (?:private|shared) pool")),
)  # fmt: skip
# The cudaMallocAsync backend: no reserved memory, a table over several lines.
ASYNC_FIELDS = ("allocated", "tried", "total", "free")
ASYNC = re.compile(
    r"Allocation on device (?P<gpu>\d+) would exceed allowed memory\. \(out of memory\)\s+"
    r"Currently allocated\s*: (?P<allocated>[\d.]+) (?P<allocated_unit>\w+)\s+"
    r"Requested\s*: (?P<tried>[\d.]+) (?P<tried_unit>\w+)\s+"
    r"Device limit\s*: (?P<total>[\d.]+) (?P<total_unit>\w+)\s+"
    r"Free \(according to CUDA\)\s*: (?P<free>[\d.]+) (?P<free_unit>\w+)"
    r"(?:\s+PyTorch limit \(set by user-supplied memory fraction\)"
    r"\s*: (?P<allowed>[\d.]+) (?P<allowed_unit>\w+))?"
)
BETWEEN = re.compile(r"[\s│┃.,;)]*")
HINT = re.compile(
    r"[\s│┃]*If reserved (?:but unallocated )?memory is[^\n]{0,160}?(max_split_size_mb|PYTORCH_\w*ALLOC_CONF)"
    r"(?:[^\n]{0,200}?(?:\(https?://[^\s)]{1,200}\)|Management and PYTORCH_(?:CUDA_|HIP_)?ALLOC_CONF))?"
)
# What stands before the sentence on the same line, when a rank printed it.
LEAD = re.compile(
    r"(?:\[rank\d+\]:\s*)?"
    r"(?:(?:torch\.(?:cuda\.)?)?(?:OutOfMemoryError|RuntimeError|AcceleratorError):\s*)?$"
)


@dataclass(frozen=True)
class OutOfMemory:
    """One sentence. Sizes in bytes, None where the sentence does not say.

    `reserved` is always PyTorch's whole share (allocated + unallocated), whatever the layout
    prints; `start` and `end` are offsets in the text that was parsed. `step` is half the last
    printed digit of `tried`: the true request lies within tried ± step.
    """

    device: str
    tried: int
    step: int
    gpu: int | None = None
    total: int | None = None
    free: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    unallocated: int | None = None
    pools: int | None = None
    allowed: int | None = None
    own: int | None = None
    processes: tuple[tuple[int, int], ...] = field(default=())
    layout: str = "unknown"
    hint: str | None = None
    garbage: bool = False
    start: int = 0
    end: int = 0

    @property
    def complete(self) -> bool:
        return self.reserved is not None

    @property
    def gap(self) -> int | None:
        """total - free - reserved: what something other than PyTorch's allocator holds.

        CUDA context, NCCL and libraries of this process, and every other process on the GPU.
        """
        if self.total is None or self.free is None or self.reserved is None:
            return None
        return self.total - self.free - self.reserved

    @property
    def versions(self) -> str:
        """The PyTorch releases that print this layout."""
        return {
            "cached": "PyTorch 1.4 or older",
            "reserved in total": "PyTorch 1.5 to 2.0",
            "capacty": "PyTorch 2.1",
            "capacity": "PyTorch 2.2 or newer",
            "mps": "PyTorch on Apple MPS",
        }.get(self.layout, "an unknown version of PyTorch")


def _step(number: str, unit: str) -> int:
    decimals = len(number.partition(".")[2])
    return round(UNITS[unit] * 10**-decimals / 2) if UNITS[unit] > 1 else 0


def _sentence(text: str, start: re.Match) -> OutOfMemory:
    """The sentence that begins with this match, as far as its clauses go."""
    device, mps_a, mps_au, mps_o, mps_ou, mps_l, mps_lu, _, number, unit = start.groups()
    found: dict[str, object] = {}
    processes: list[tuple[int, int]] = []
    layout, at = "unknown", start.end()
    while True:
        here = BETWEEN.match(text, at).end()
        for name, pattern in CLAUSES:
            match = pattern.match(text, here)
            if not match:
                continue
            if name == "process":
                processes.append((int(match.group(1)), to_bytes(*match.groups()[1:])))
            elif name == "gpu":
                if "gpu" in found:
                    continue
                found["gpu"] = int(match.group(1)) if match.group(1) else None
            elif name != "pool":
                if name in found:
                    continue
                found[name] = to_bytes(*match.groups())
            if name == "total":
                words = match.group(0)
                layout = (
                    "capacty" if "capacty" in words else "capacity" if "of" in words else layout
                )
            at = match.end()
            break
        else:
            break
    allocated = found.get("allocated")
    reserved, unallocated = found.get("reserved"), found.get("unallocated")
    if "cached" in found:  # up to 1.4: what is cached and not in use
        layout, unallocated = "cached", found["cached"]
    elif reserved is not None:
        layout = "reserved in total"
    if mps_a:
        layout, device = "mps", "MPS"
        allocated = to_bytes(mps_a, mps_au)
        reserved = allocated + to_bytes(mps_o, mps_ou)
        unallocated, found["allowed"] = 0, to_bytes(mps_l, mps_lu)
    if reserved is None and allocated is not None and unallocated is not None:
        reserved = allocated + unallocated
    if unallocated is None and reserved is not None and allocated is not None:
        unallocated = max(0, reserved - allocated)
    while text[at : at + 1] in (")", "."):
        at += 1
    hint = HINT.match(text, at)
    return OutOfMemory(
        device=device or "CUDA",
        tried=to_bytes(number, unit) if number else 2**60,
        step=_step(number, unit) if number else 0,
        gpu=found.get("gpu"),
        total=found.get("total"),
        free=found.get("free"),
        allocated=allocated,
        reserved=reserved,
        unallocated=unallocated,
        pools=found.get("pools"),
        allowed=found.get("allowed"),
        own=found.get("own"),
        processes=tuple(processes),
        layout=layout,
        hint=hint.group(1) if hint else None,
        garbage=number is None,
        start=start.start(),
        end=hint.end() if hint else at,
    )


def parse_messages(text: str) -> list[OutOfMemory]:
    """Every out-of-memory sentence in `text`, in order, also those cut apart by another rank's.

    Whole sentences are lifted out first; what remains is joined and read again, so that the two
    halves of a sentence meet. Pieces that never become whole are returned with what they say.
    """
    offsets, starts = [0], [0]  # pieces of the remaining text: where each lies in the original
    remaining, found = text, []
    for _ in range(8):
        sentences = [_sentence(remaining, match) for match in START.finditer(remaining)]
        whole = [sentence for sentence in sentences if sentence.complete]
        if not whole:
            found += [_moved(sentence, starts, offsets) for sentence in sentences]
            break
        found += [_moved(sentence, starts, offsets) for sentence in whole]
        remaining, starts, offsets = _without(remaining, whole, starts, offsets)
    found += map(_async_sentence, ASYNC.finditer(text))
    return sorted(found, key=lambda sentence: sentence.start)


def _async_sentence(match: re.Match) -> OutOfMemory:
    """The table that the cudaMallocAsync backend prints instead of a sentence."""
    value = {name: to_bytes(*match.group(f"{name}", f"{name}_unit")) for name in ASYNC_FIELDS}
    limit = match.group("allowed")
    allowed = to_bytes(limit, match.group("allowed_unit")) if limit else None
    return OutOfMemory(
        device="CUDA",
        tried=value["tried"],
        step=_step(match.group("tried"), match.group("tried_unit")),
        gpu=int(match.group("gpu")),
        total=value["total"],
        free=value["free"],
        allocated=value["allocated"],
        allowed=allowed if allowed is not None and allowed < 2**50 else None,  # 2**64: no limit set
        layout="cudaMallocAsync",
        start=match.start(),
        end=match.end(),
    )


def _moved(sentence: OutOfMemory, starts: list[int], offsets: list[int]) -> OutOfMemory:
    def original(at: int) -> int:
        piece = bisect_right(starts, at) - 1
        return offsets[piece] + at - starts[piece]

    values = {**sentence.__dict__, "start": original(sentence.start), "end": original(sentence.end)}
    return OutOfMemory(**values)


def _without(
    text: str, whole: list[OutOfMemory], starts: list[int], offsets: list[int]
) -> tuple[str, list[int], list[int]]:
    parts, new_starts, new_offsets, length, at = [], [], [], 0, 0

    def keep(start: int, end: int) -> None:
        nonlocal length
        while start < end:  # one piece of the original at a time
            piece = bisect_right(starts, start) - 1
            stop = min(end, starts[piece + 1] if piece + 1 < len(starts) else end)
            parts.append(text[start:stop])
            new_starts.append(length)
            new_offsets.append(offsets[piece] + start - starts[piece])
            length += stop - start
            start = stop

    for sentence in whole:
        lead = LEAD.search(text, max(at, sentence.start - 120), sentence.start)
        keep(at, lead.start() if lead else sentence.start)
        at = sentence.end
        if text.startswith("\n", at):
            at += 1
    keep(at, len(text))
    return "".join(parts), new_starts or [0], new_offsets or [0]
