"""Versions known to waste memory, each with the public place that says so.

Small on purpose: an entry needs a source that was read and a sign in the log that it applies. A
match is never the verdict, only "possible". Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labs.doctors.finding import Evidence, Finding, Remedy
from labs.doctors.memory.log.context import Context
from labs.doctors.memory.log.lines import Log


@dataclass(frozen=True)
class KnownBad:
    """`version` is matched on the version that the log prints, `applies` on any of its lines."""

    package: str
    version: str
    applies: str
    title: str
    why: str
    do: str
    source: str


TABLE = (
    KnownBad(
        "torch",
        r"2\.9\.[01](?!\d)",
        r"(?i)conv3d|qwen[\d.]*[-_]?vl|patch_embed|qwen2_vl|qwen2_5_vl|qwen3_vl",
        "PyTorch 2.9 runs Conv3d in bfloat16 without cuDNN, with several times the memory",
        "The patch embedding of Qwen-VL and the autoencoders of video models are such convolutions.",
        "pip install 'nvidia-cudnn-cu12>=9.15' with 2.9.1, or use PyTorch 2.8 or 2.10",
        "https://github.com/pytorch/pytorch/issues/166643",
    ),
    KnownBad(
        "deepspeed",
        r"0\.16\.0(?!\d)",
        r"(?i)offload_param|offload.{0,40}param|zero.?3|[\"']stage[\"']:\s*3",
        "DeepSpeed 0.16.0 wastes memory when parameters are offloaded",
        "A user of that version patched its parameter offloading; later releases repaired it.",
        "Use a later release than 0.16.0",
        "https://github.com/Open-Reasoner-Zero/Open-Reasoner-Zero/issues/13",
    ),
)


def known_bad(context: Context, log: Log) -> list[Finding]:
    """A finding for each entry whose version stands in the log and whose sign does too."""
    found = []
    for entry in TABLE:
        version = context.versions.get(entry.package, "")
        if not re.match(entry.version, version):
            continue
        sign = re.compile(entry.applies)
        line = next((line for line in log.lines if sign.search(line.text[:2000])), None)
        if line is None:
            continue
        remedy = Remedy(
            "update_library",
            "Change the version",
            {"shell": entry.do},
            None,
            f"Source: {entry.source}",
        )
        found.append(
            Finding(
                cause="known_bad_version",
                title=entry.title,
                confidence="possible",
                evidence=[Evidence(f"{entry.package} {version}"),
                          Evidence(line.shown.strip()[:400], line.number, line.rank)],
                why=f"{entry.why} Source: {entry.source}",
                remedies=[remedy],
                section="ch09 Versions",
            )
        )  # fmt: skip
    return found
