"""Sizes as people write them, as PyTorch prints them, and the largest of them. Standard library only."""

from __future__ import annotations

import re

UNITS = {"": 1, "b": 1, "bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
         "k": 2**10, "m": 2**20, "g": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}  # fmt: skip


def parse_size(size: int | float | str) -> int:
    """Bytes of "2 GiB", "1.5GB" (powers of 1000), "512M" (MiB) or a number. Raises ValueError."""
    if isinstance(size, (int, float)) and not isinstance(size, bool):
        number, unit = float(size), ""
    else:
        found = re.fullmatch(r"\s*([\d.,_]+)\s*([A-Za-z]*)\s*", str(size))
        try:
            number = float(found[1].replace(",", "").replace("_", ""))
            unit = found[2].lower()
        except (TypeError, ValueError):
            number, unit = 0.0, "?"
    if unit not in UNITS or not 0 < number * UNITS[unit] < 2**63:
        raise ValueError(
            f"{size!r} is not a size: write it as 2 GiB, 512 MiB or a number of bytes."
        )
    return int(number * UNITS[unit])


def format_size(size: int) -> str:
    """As PyTorch's allocator prints sizes (c10's format_size): "20.00 MiB", "512 bytes"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size > scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} bytes"


def largest(parts: dict[str, int], most: int) -> list[tuple[str, int]]:
    """The `most` largest of named sizes, without those of nothing."""
    return sorted(((k, v) for k, v in parts.items() if v), key=lambda item: -item[1])[:most]
