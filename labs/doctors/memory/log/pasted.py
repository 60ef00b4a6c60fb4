"""Tables that people paste under their error: memory_summary(), nvidia-smi, DeepSpeed's usage lines.

Standard library only, Python 3.9 or newer; sizes in bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from labs.doctors.memory.log.lines import Line
from labs.doctors.memory.log.messages import UNITS, to_bytes

SUMMARY_HEAD = re.compile(r"PyTorch CUDA memory summary, device ID (\d+)")
SUMMARY_COUNTS = re.compile(r"CUDA OOMs: (\d+)\s*\|\s*cudaMalloc retries: (\d+)")
SUMMARY_ROW = re.compile(
    r"^\|\s*([A-Za-z][A-Za-z \-]*?)\s*\|\s*(\d+) (\w+)\s*\|\s*(\d+) (\w+)\s*\|"
)

SMI_HEAD = re.compile(r"NVIDIA-SMI (\S+)\s+(?:KMD Version: \S+\s+)?Driver Version: (\S+)")
SMI_ROW = re.compile(r"^\|\s+(\d+)\s+(?:NVIDIA|Tesla|GeForce|Quadro|A\d+|H\d+|[A-Z])\S*.*\|")
SMI_MEMORY = re.compile(r"(\d+)MiB\s*/\s*(\d+)MiB")
SMI_PROCESS = re.compile(
    r"^\|\s+(\d+)\s+(?:(?:N/A|\d+)\s+(?:N/A|\d+)\s+)?(\d+)\s+([CG](?:\+G)?|M\+C)\s+(.+?)\s+(\d+)MiB\s*\|"
)
MIG_ROW = re.compile(
    r"MIG devices:|\bMIG [1-7]g\.\d+gb|^\|\s+\d+\s+\d+\s+\d+\s+\d+\s+\|\s+\d+MiB / "
)

DEEPSPEED_MEMORY = re.compile(
    r"\bMA (\d[\d.]*) GB\s+Max_MA (\d[\d.]*) GB\s+CA (\d[\d.]*) GB\s+Max_CA (\d[\d.]*) GB"
)
DEEPSPEED_HOST = re.compile(r"CPU Virtual Memory:\s+used = ([\d.]+) GB, percent = ([\d.]+)%")
CGROUP_USAGE = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB")
SEGMENT = re.compile(r"'active_size': (\d+).{0,4000}'total_size': (\d+)")
SHM_MOUNT = re.compile(r"^(?:shm|tmpfs)\s+(\S+)\s+\S+\s+\S+\s+(\d+)%\s+/dev/shm\s*$")


@dataclass
class Summary:
    """`torch.cuda.memory_summary()`: bytes now and at the peak by the table's own row names."""

    device: int
    retries: int | None = None
    ooms: int | None = None
    now: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    line: Line | None = None


@dataclass
class Gpu:
    """One GPU of a pasted `nvidia-smi`."""

    index: int
    used: int
    total: int
    line: Line
    processes: list[tuple[int, str, int]] = field(default_factory=list)  # pid, name, bytes


@dataclass
class Pasted:
    """All tables found in a log."""

    summaries: list[Summary] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    driver: str | None = None
    mig: Line | None = None
    host_percent: list[tuple[float, float, Line]] = field(default_factory=list)  # GB, %, line
    deepspeed: list[tuple[int, int, Line]] = field(default_factory=list)  # allocated, cached
    segments: list[tuple[int, int, Line]] = field(default_factory=list)  # active, total
    cgroup: tuple[int, int, Line] | None = None  # used, limit
    shm: tuple[str, int, Line] | None = None  # size as printed, percent used


def _row(found: Pasted, line: Line) -> None:
    text = line.text
    match = SUMMARY_HEAD.search(text)
    if match:
        found.summaries.append(Summary(int(match.group(1)), line=line))
        return
    if found.summaries:
        summary = found.summaries[-1]
        match = SUMMARY_COUNTS.search(text)
        if match and summary.ooms is None:
            summary.ooms, summary.retries = int(match.group(1)), int(match.group(2))
            return
        match = SUMMARY_ROW.match(text)
        if match and match.group(3) in UNITS and match.group(5) in UNITS:
            summary.now.setdefault(match.group(1), to_bytes(match.group(2), match.group(3)))
            summary.peak.setdefault(match.group(1), to_bytes(match.group(4), match.group(5)))
            return
    match = SMI_PROCESS.match(text)
    if match and found.gpus:
        index, pid, _, name, mib = match.groups()
        for gpu in found.gpus:
            if gpu.index == int(index):
                gpu.processes.append((int(pid), name.strip(), int(mib) << 20))
        return
    match = SMI_MEMORY.search(text)
    if match and text.lstrip().startswith("|"):
        used, total = (int(value) << 20 for value in match.groups())
        if MIG_ROW.search(text):
            found.mig = found.mig or line
        else:
            found.gpus.append(Gpu(len(found.gpus), used, total, line))
        return
    match = SMI_HEAD.search(text)
    if match:
        found.driver, found.gpus = match.group(2), []  # a later table replaces an earlier one
        return
    if MIG_ROW.search(text) or re.search(r"\bMIG-[0-9a-f]{8}-", text):
        found.mig = found.mig or line


def pasted_in(lines: list[Line]) -> Pasted:
    """Read every known table in these lines."""
    found = Pasted()
    for line in lines:
        text = line.text
        if "|" in text or "MIG" in text:
            _row(found, line)
        if "GB" in text:
            match = DEEPSPEED_HOST.search(text)
            if match:
                found.host_percent.append((float(match.group(1)), float(match.group(2)), line))
            match = DEEPSPEED_MEMORY.search(text)
            if match:
                found.deepspeed.append(
                    (to_bytes(match.group(1), "GB"), to_bytes(match.group(3), "GB"), line)
                )
        if "'active_size'" in text:
            match = SEGMENT.search(text)
            if match:
                found.segments.append((int(match.group(1)), int(match.group(2)), line))
        if "kB" in text:
            match = CGROUP_USAGE.search(text)
            if match:
                found.cgroup = (int(match.group(1)) << 10, int(match.group(2)) << 10, line)
        if "/dev/shm" in text:
            match = SHM_MOUNT.match(text.strip())
            if match:
                found.shm = (match.group(1), int(match.group(2)), line)
    return found
