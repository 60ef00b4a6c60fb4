"""A prediction beside what a run measured, category by category.

The file is a JSON object. All of its values are bytes, or texts with a unit ("12.3 GiB"):

    {"reserved": …,        torch.cuda.max_memory_reserved()
     "allocated": …,       torch.cuda.max_memory_allocated()
     "used": …,            nvidia-smi's number for the process: reserved and context
     "host": …,            peak resident memory of the process
     "categories": {"weights": …, "activations": …, …}}

`run` and `memory_guard` write such a file; any key may be absent.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from labs.doctors.memory.bytesize import parse_size
from labs.doctors.memory.setup.configs import read_json
from labs.errors import InputError

if TYPE_CHECKING:
    from labs.doctors.memory.forecast.prediction import Prediction

TOTALS = ("used", "reserved", "allocated", "host")


@dataclasses.dataclass(frozen=True)
class Compared:
    """One line: bytes predicted and bytes observed; `error` is predicted over observed, less one."""

    name: str
    predicted: float
    observed: float

    @property
    def error(self) -> float:
        return self.predicted / self.observed - 1 if self.observed else float("inf")


def read_observed(path: str | Path) -> dict[str, float]:
    """Names -> bytes. Raises InputError naming the key that cannot be."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Give the JSON of a run's measured peaks.")
    raw = read_json(path)
    nested = raw.pop("categories", {})
    if not isinstance(nested, dict):
        raise InputError(f"{path}: `categories` is no object.", "Write names and bytes in it.")
    values = {}
    for name, value in {**raw, **nested}.items():
        if name not in nested and name not in TOTALS:
            near = difflib.get_close_matches(name, TOTALS, n=1)
            raise InputError(
                f"{path}: unknown key `{name}`.",
                f"Did you mean `{near[0]}`?"
                if near
                else f"Known: {', '.join(TOTALS)}, categories.",
            )
        try:
            values[name] = float(parse_size(value))
        except ValueError as error:
            if value == 0 and not isinstance(value, bool):
                values[name] = 0.0
                continue
            raise InputError(f"{path}: `{name}`: {error}", "Write bytes.") from None
    if not values:
        raise InputError(f"{path} holds no measurement.", f"Known keys: {', '.join(TOTALS)}.")
    return values


def compare(prediction: Prediction, observed: dict[str, float]) -> list[Compared]:
    """The lines for everything that was observed, totals first, then the largest first."""
    totals = {
        "used": prediction.gpu.bytes,
        "reserved": prediction.reserved,
        "allocated": prediction.allocated,
        "host": prediction.host.bytes,
    }
    lines = [Compared(name, totals[name], observed[name]) for name in TOTALS if name in observed]
    parts = [
        Compared(name, prediction.breakdown.get(name, 0), value)
        for name, value in observed.items()
        if name not in TOTALS
    ]
    return lines + sorted(parts, key=lambda line: -line.observed)
