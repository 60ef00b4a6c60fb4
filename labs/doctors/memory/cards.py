"""What GPUs of a nominal size really offer, as PyTorch's out-of-memory messages report it.

"Total capacity" in those messages is what the driver leaves after its own share and error correction:
an "80 GB" card reports 79.15 GiB, a "16 GB" T4 14.75. Of cards with one nominal size the smallest
report seen stands here, so that what fits it fits all.
"""

from __future__ import annotations

import re

from labs.doctors.memory.bytesize import parse_size
from labs.errors import InputError

GIB = 1 << 30
# nominal GB -> (GiB reported, which card)
CARDS: dict[int, tuple[float, str]] = {
    16: (14.75, "T4"),
    24: (22.19, "A10"),
    40: (39.59, "A100"),
    48: (44.45, "L40S"),
    80: (79.15, "A100, H100"),
    141: (139.72, "H200"),
}


def capacity(size: str | int) -> tuple[str, int]:
    """(name, bytes) of a card: "24" is a nominal size, "23.6 GiB" or "20000 MiB" is taken as said.

    Raises InputError for what is neither.
    """
    text = str(size).strip()
    nominal = re.fullmatch(r"(\d+)\s*(gb|g)?", text, re.IGNORECASE)
    if nominal and int(nominal[1]) in CARDS:
        return f"{nominal[1]} GB", int(CARDS[int(nominal[1])][0] * GIB)
    try:
        # A size that no card here has: what cards of other sizes keep for themselves is 1 to 8 %.
        count = int(0.95 * int(nominal[1]) * GIB) if nominal else parse_size(text)
        if not 2**26 <= count < 2**50:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{text!r} is no size of a GPU.",
            f"Give a nominal size ({', '.join(map(str, CARDS))}) or an exact one such as '23.6 GiB'.",
        ) from None
    return (f"{nominal[1]} GB" if nominal else text), count
