"""Arithmetic on PyTorch's out-of-memory sentence: what the numbers alone prove.

T total, F free, A allocated, U reserved but unallocated, X tried, gap = T - F - A - U. When the
sentence is printed, every block that can be returned has been returned and the request repeated
(c10/cuda/CUDACachingAllocator.cpp), so U is only what cannot be used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from labs.doctors.finding import size
from labs.doctors.memory.log.guess import Guess
from labs.doctors.memory.log.messages import OutOfMemory
from labs.doctors.memory.log.pasted import Pasted

GIB = 1 << 30
# CUDA context, cuBLAS, NCCL and loaded kernels of one process; clean runs were reported at 0.1-3.5 GiB.
OVERHEAD = 4 * GIB
SEGMENT = 20 << 20  # what PyTorch asks of the driver for any tensor between 1 and 10 MiB

# GiB that MIG slices report and no whole GPU does (A100 1g.5gb, 2g.10gb, 3g.20gb and their kin).
MIG_SLICES = (4.75, 9.5, 19.5, 19.62)


def _said(m: OutOfMemory, used: int | None) -> bool:
    """Whether the driver knew: what it cannot say (WSL, containers) it prints as 2**64 bytes."""
    return used is not None and used <= 4 * (m.total or 2**60)


def own_and_foreign(m: OutOfMemory) -> tuple[int | None, int | None, list[int]]:
    """(bytes of this process, bytes of all others, bytes of each other one that is named).

    Inside a container the process sees itself as `Process N`, under its number on the host. So of
    the named processes the one whose size is PyTorch's share plus a context is this one.
    """
    named = [used for _, used in m.processes if _said(m, used)]
    own = m.own if _said(m, m.own) and 2 * (m.own or 0) >= (m.allocated or 0) else None
    if m.total is None or m.free is None or m.reserved is None:
        return own, sum(named) or None, named
    if own is None:
        near = [used for used in named if -0.02 * GIB <= used - m.reserved <= OVERHEAD]
        if near:
            own = min(near)
            named.remove(own)
    if own is not None:
        return own, max(sum(named), m.total - m.free - own, 0), named
    return own, max(m.gap - OVERHEAD, sum(named), 0), named


def guesses(m: OutOfMemory, others: list[OutOfMemory], steps: int | None) -> Iterator[Guess]:
    """What the numbers say, the strongest first. `others`: the sentences of other ranks or moments.

    `steps`: training steps finished before, None if the log shows none.
    """
    if m.garbage:
        yield Guess("garbage_size", "certain", "No program asks for an exabyte. The size was read "
                    "from memory that an earlier error (a failed collective, an index out of range) "
                    "left undefined: look at the first error above this line.")  # fmt: skip
        return
    if m.total is not None and m.tried > m.total:
        yield Guess(
            "request_exceeds_gpu",
            "certain",
            f"The request of {size(m.tried)} is larger than the whole GPU ({size(m.total)}). No "
            "freeing, batch of other tensors or allocator setting can serve it. One tensor has a "
            "wrong or quadratic shape: an image that was not resized, attention with the full "
            "matrix, a length taken from the configuration.",
        )
        return
    if m.total is None and m.tried > 192 * GIB:
        yield Guess("request_exceeds_gpu", "likely", f"{size(m.tried)} in one tensor is more than "
                    "almost any GPU has: a shape is wrong or quadratic.")  # fmt: skip
        return
    if m.total is None or m.allocated is None:
        return
    if m.layout != "mps" and max(m.allocated, m.reserved or 0) > 1.02 * m.total:
        yield Guess(
            "sysmem_spill",
            "certain",
            f"{size(max(m.allocated, m.reserved or 0))} are held on a GPU of {size(m.total)}. Only "
            "a driver that spills to system memory (Windows, WSL) can do that; the run was slow "
            "long before it died.",
        )
        return
    if m.allowed is not None and (m.allowed < 0.995 * m.total or m.layout == "mps"):
        held = m.reserved if m.reserved is not None else m.allocated
        if held + m.tried > m.allowed:
            yield Guess(
                "memory_limit",
                "certain",
                f"This process may use {size(m.allowed)} of {size(m.total)} "
                f"(set_per_process_memory_fraction or the platform's limit); it held {size(held)} "
                f"and asked for {size(m.tried)} more.",
            )
            return
    if m.free is None or m.reserved is None:
        return
    yield from _shared(m, others)
    if m.free > m.tried + max(256 << 20, m.tried // 4):
        yield Guess(
            "driver_refused",
            "likely" if m.free > 2 * m.tried + GIB else "possible",
            f"{size(m.free)} were free and {size(m.tried)} were asked for: the GPU was not full. "
            "Either another process took the memory for that moment and gave it back (a rank that "
            "died beside this one), or a limit outside PyTorch refused: WSL or WDDM, a MIG slice, "
            "a container's or virtual GPU's quota.",
        )
        return
    yield from _fragmentation(m, steps)
    if m.pools and m.pools > 0.2 * m.total:
        yield Guess("graph_pools", "possible", f"{size(m.pools)} lie in the private pools of CUDA "
                    "graphs. Free blocks there serve nobody else, and they count as allocated.")  # fmt: skip


def _shared(m: OutOfMemory, others: list[OutOfMemory]) -> Iterator[Guess]:
    """Other processes on the GPU: strangers, or ranks of the same job."""
    own, foreign, named = own_and_foreign(m)
    if not foreign or foreign < 0.1 * m.total or m.free + foreign < m.tried:
        return
    alike = [used for used in named if own and 0.7 < used / own < 1.4]
    share = f"{size(foreign)} of {size(m.total)}"
    if len(alike) >= 2 or (alike and len(named) == 1 and foreign > 0.3 * m.total):
        yield Guess(
            "ranks_share_gpu",
            "likely" if len(alike) >= 2 else "possible",
            f"{len(alike)} other processes of about the same size hold {share}. Ranks of one "
            "job look like that when all of them landed on one GPU: a missing set_device(local_rank),"
            " tensors loaded back to cuda:0, the same script started twice.",
        )
    who = "Other processes are named in the message and hold" if named else (
        "PyTorch holds less than the GPU's used memory: something else (another process, an "
        "inference engine, a desktop) holds"
    )  # fmt: skip
    sure = foreign > 0.25 * m.total or m.reserved < 0.5 * m.total
    yield Guess(
        "other_process",
        "likely" if sure else "possible",
        f"{who} {share}; this process has {size(m.reserved)} of its own. Without the others the "
        f"request of {size(m.tried)} would have fitted.",
    )


def _fragmentation(m: OutOfMemory, steps: int | None) -> Iterator[Guess]:
    usable = m.free + m.unallocated
    share = m.unallocated / m.total
    # Some percent of splinters are in every full GPU; they would not have carried the run far.
    if usable < m.tried or share < 0.03 or (share < 0.05 and m.unallocated < 4 * m.tried):
        return
    if m.unallocated >= m.tried:
        how = f"{size(m.unallocated)} are reserved and unused, more than the {size(m.tried)} asked for"
    else:
        how = (
            f"{size(m.free)} free and {size(m.unallocated)} reserved but unused would together "
            f"serve {size(m.tried)}; neither does alone"
        )
    late = steps is not None and steps >= 20
    if share >= 0.1 or (share >= 0.06 and late):
        confidence = "certain" if share >= 0.25 and m.unallocated > 1.5 * m.tried else "likely"
    else:
        confidence = "possible"
    yield Guess(
        "fragmentation",
        confidence,
        f"{how}. PyTorch had already returned every block it could and tried again, so the rest is "
        "splinters between live tensors, which come from tensors of changing sizes. The message "
        "prints its hint on expandable_segments even where that is already on.",
    )


def from_tables(pasted: Pasted) -> Iterator[Guess]:
    """Fragmentation as `memory_summary()` or a printed `memory_snapshot()` shows it."""
    for summary in pasted.summaries[-1:]:
        reserved = summary.now.get("GPU reserved memory", 0)
        unusable = summary.now.get("Non-releasable memory", 0)
        if reserved and unusable > 0.15 * reserved and unusable > GIB:
            yield Guess("fragmentation", "likely", f"The memory summary shows {size(unusable)} of "
                        f"{size(reserved)} reserved as non-releasable: free pieces inside segments "
                        "that something still uses.", (summary.line,))  # fmt: skip
            return
    for active, total, line in reversed(pasted.segments):
        if active and total - active > 0.3 * total and total - active > GIB:
            yield Guess("fragmentation", "likely", f"A printed segment of {size(total)} has only "
                        f"{size(active)} in use: as long as that stays, the rest cannot be returned "
                        "or joined with another segment.", (line,))  # fmt: skip
            return


def is_full(m: OutOfMemory) -> bool:
    """Whether this process' own tensors fill the GPU, or would with the request."""
    if m.total is None or m.allocated is None:
        return False
    return m.allocated + m.tried > 0.9 * m.total or m.allocated > 0.75 * m.total


def capacity(m: OutOfMemory) -> str:
    """The sentence that says so, in numbers."""
    text = (
        f"Of {size(m.total)}, live tensors of this process hold {size(m.allocated)} "
        f"({m.allocated / m.total:.0%})"
    )
    if m.unallocated is not None:
        text += f", and only {size(m.unallocated)} are reserved without use"
    text += f"; {size(m.tried)} more were asked for."
    if m.tried > 0.2 * m.total:
        text += (
            f" That is {m.tried / m.total:.0%} of the GPU in one tensor: look for what makes it so large "
            "(logits, an attention matrix, an image or video that was not resized, beams)."
        )
    if m.tried in (2 << 20, SEGMENT):
        text += (
            f" {size(m.tried)} is the block that PyTorch asks of the driver for any small tensor: "
            "the request that failed says nothing, the GPU was simply full."
        )
    return text


def notes(m: OutOfMemory, messages: list[OutOfMemory]) -> Iterator[str]:
    """Traps worth a word whatever the cause is."""
    if m.own is None and len(m.processes) == 1 and m.reserved is not None:
        pid, used = m.processes[0]
        if -0.02 * GIB <= used - m.reserved <= OVERHEAD:
            yield (
                f"Process {pid} in the message is this process itself, under its number outside "
                f"the container ({size(used)} = PyTorch's {size(m.reserved)} + context): nobody "
                "else is on the GPU."
            )
    unsaid = m.own is not None and own_and_foreign(m)[0] != m.own
    if unsaid or not all(_said(m, used) for _, used in m.processes):
        yield (
            "What a process uses stands in the message as 0 or as 2**64 bytes: the driver cannot "
            "say (WSL, some containers). It is left out of the arithmetic."
        )
    if m.total is not None:
        total = m.total / GIB
        if any(abs(slice - total) < 0.011 for slice in MIG_SLICES):
            yield (
                f"A GPU of {size(m.total)} looks like a MIG slice of a larger one: `nvidia-smi -L` "
                "shows whether this process has the whole GPU."
            )
    per_gpu = Counter((x.tried, x.gpu) for x in messages)
    if len(per_gpu) >= 3 and len({tried for tried, _ in per_gpu}) == 1:
        yield (
            f"{len(per_gpu)} GPUs failed at the same request of {size(m.tried)}: the need is the "
            "same on all ranks, so no single sample is to blame."
        )


_PLATFORM = re.compile(r"(?i)\bWSL2?\b|\bmicrosoft-standard|[A-Z]:\\\\?\w+\\|\bwin32\b|\bWDDM\b")


def on_windows(text: str) -> bool:
    """Whether the log was written on Windows or WSL."""
    return _PLATFORM.search(text) is not None
