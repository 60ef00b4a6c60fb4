"""Three kinds of constants from the calibration cases, and what they do for the validation cases.

    workspace       bytes that a framework's kernels take beside what is traced: the median of measured
                    less predicted allocated bytes, for PyTorch alone and with bitsandbytes in 4 bits
    fragmentation   factor on what the model of the allocator says is reserved and not allocated
    context         bytes of the process outside of the allocator

Each is the value that minimises the sum of absolute errors over the calibration cases, so that one
odd case cannot bend it. The first is added before the second is applied.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labs.bench.memory_gpu_cases import CALIBRATION, VALIDATION
from labs.doctors.memory.cards import CARDS, capacity
from labs.doctors.memory.forecast.prediction import Range
from labs.doctors.memory.forecast.ranges import fit as decide

QUANTITIES = ("allocated", "reserved", "device")
PARTS = ("weights", "gradients", "optimizer")
ESTIMATORS = ("accelerate", "zero2", "zero3")
LIMITS = {"median": 0.03, "worst": 0.10}  # of the device's memory, after calibration, validation


@dataclass(frozen=True)
class Pair:
    """One case: its plan's method, what was predicted, what was measured (both as in their files)."""

    name: str
    split: str
    method: str
    predicted: dict
    measured: dict

    @property
    def framework(self) -> str:
        return "bitsandbytes" if self.method == "qlora" else "torch"

    @property
    def complete(self) -> bool:
        """Ran to the end with all the memory it wanted: its figures can be compared."""
        memory = self.measured["memory"]
        return (
            self.measured["outcome"] == "done"
            and not memory.get("retries")
            and not memory.get("room")
        )


@dataclass(frozen=True)
class Constants:
    """What was learned, in bytes and as a factor; None = as predicted, for want of a case."""

    workspace: dict[str, float]
    fragmentation: float | None
    context: float | None

    def apply(self, pair: Pair) -> dict[str, float | None]:
        """The calibrated prediction of a case."""
        said = pair.predicted
        allocated = said["allocated"] + self.workspace.get(pair.framework, 0.0)
        if said["reserved"] is None:
            return {"allocated": allocated, "reserved": None, "device": None}
        factor = 1.0 if self.fragmentation is None else self.fragmentation
        reserved = allocated + factor * (said["reserved"] - said["allocated"])
        context = said["context"] if self.context is None else self.context
        return {"allocated": allocated, "reserved": reserved, "device": reserved + context}


def fit(pairs: Iterable[Pair]) -> Constants:
    """The constants that the calibration cases among `pairs` teach."""
    known = [pair for pair in pairs if pair.split == CALIBRATION and pair.complete]
    workspace = {}
    for framework in sorted({pair.framework for pair in known}):
        beside = [
            pair.measured["memory"]["allocated"] - pair.predicted["allocated"]
            for pair in known
            if pair.framework == framework
        ]
        workspace[framework] = statistics.median(beside)
    cached = [pair for pair in known if pair.measured["memory"]["reserved"] is not None]
    idle = [
        (
            pair.predicted["reserved"] - pair.predicted["allocated"],
            pair.measured["memory"]["reserved"] - pair.measured["memory"]["allocated"],
        )
        for pair in cached
    ]
    outside = [pair.measured["memory"]["outside"] for pair in cached]
    return Constants(
        workspace,
        weighted_median([(real / said, said) for said, real in idle if said > 0]),
        statistics.median(outside) if outside else None,
    )


def weighted_median(values: Sequence[tuple[float, float]]) -> float | None:
    """The value at which half of the weight is reached: the slope f that minimises sum |y - f x|.

    values: (y / x, x) pairs. None where there are none.
    """
    half, gone = sum(weight for _, weight in values) / 2, 0.0
    for value, weight in sorted(values):
        gone += weight
        if gone >= half:
            return value
    return None


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors of all cases before and after calibration, beside the other estimators.

    {"constants", "cases": [{"case", "split", …, "errors": {"before": {quantity: x}, "after", others}}],
     "validation": {who: {"cases", "median", "worst"}} (absolute, of the device's memory, or of what
     was allocated where nothing else is known), "met": {limit: bool}}
    """
    constants = fit(pairs)
    rows = [_row(pair, constants) for pair in pairs]
    summary = {}
    for part in (CALIBRATION, VALIDATION):
        chosen = [row for row in rows if row["split"] == part and "errors" in row]
        names = {
            f"predict, {q}, {when}": (when, q) for q in QUANTITIES for when in ("before", "after")
        }
        names |= {name: ("others", name) for name in ESTIMATORS}
        full = [row for row in chosen if row["method"] == "full"]
        summary[part] = {
            **{name: spread(chosen, *where) for name, where in names.items()},
            **{f"{name}, full tuning": spread(full, "others", name) for name in ESTIMATORS},
        }
    head = summary[VALIDATION]["predict, device, after"]
    if not head["cases"]:
        head = summary[VALIDATION]["predict, allocated, after"]
    return {
        "constants": asdict(constants),
        "cases": rows,
        "errors": summary,
        "limits": LIMITS,
        "met": {name: head["cases"] > 0 and head[name] <= LIMITS[name] for name in LIMITS},
    }


def _row(pair: Pair, constants: Constants) -> dict[str, Any]:
    memory, said = pair.measured["memory"], pair.predicted
    row: dict[str, Any] = {
        "case": pair.name,
        "split": pair.split,
        "method": pair.method,
        "outcome": pair.measured["outcome"],
        "predicted": {name: said[name] for name in QUANTITIES},
        "measured": {name: memory[name] for name in QUANTITIES},
        "others": said["others"],
        "seconds": pair.measured["seconds"],
        "attention": pair.measured.get("attention"),  # which kernels ran
        "outside": memory["outside"],
    }
    if said["parameters"] != pair.measured.get("parameters", said["parameters"]):
        row["differs"] = "the model that ran has other weights than the one that was traced"
    if not pair.complete:
        return row
    calibrated = constants.apply(pair)
    whole = memory["device"] or memory["allocated"]
    row["calibrated"] = calibrated
    row["errors"] = {
        "before": {name: error(said[name], memory[name]) for name in QUANTITIES},
        "after": {name: error(calibrated[name], memory[name]) for name in QUANTITIES},
        "others": {name: error(said["others"][name], whole) for name in ESTIMATORS},
        "parts": {n: error(_part(said, n), _part(pair.measured, n)) for n in PARTS},
        "phases": {
            name: error(said["phases"].get(name), held["peak"])
            for name, held in memory["phases"].items()
        },
    }
    return row


def _part(result: dict, name: str) -> int:
    """Bytes of a category; the doctor counts NF4's scales as buffers, the meter as weights."""
    parts = result["parts"]
    return parts["weights"] + parts["buffers"] if name == "weights" else parts[name]


def verdicts(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Whether a run fits, as the doctor answers it and as it was: "yes", "perhaps" or "no".

    tried: runs that were confined to a card or ran out of memory; played: the confined ones, by the
    model of the allocator on a card of that size. cards: for each run that ended and each size of card,
    by the run's measured need. {"right", "perhaps", "wrong"} each, and which were wrong.
    """
    tried: list[tuple[str, str, bool]] = []
    played: list[tuple[str, str, bool]] = []
    cards: list[tuple[str, str, bool]] = []
    for pair in pairs:
        memory, said = pair.measured["memory"], pair.predicted
        need = Range(said["device"], said["low"], said["high"])
        fitted = pair.measured["outcome"] == "done"
        if said["verdict"] is not None:
            tried.append((pair.name, said["verdict"], fitted))
            played.append((pair.name, said["played"], fitted))
        elif not fitted and memory.get("total"):
            tried.append((pair.name, decide("", memory["total"], need).verdict, False))
        elif pair.complete and memory["device"] is not None:
            for nominal in CARDS:
                _, usable = capacity(nominal)
                answer = decide("", usable, need).verdict
                cards.append((f"{pair.name} on {nominal} GB", answer, memory["device"] <= usable))
    return {"tried": tally(tried), "played": tally(played), "cards": tally(cards)}


def tally(answers: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
    """Counts of (name, "yes" | "perhaps" | "no", what was so), and the names of the wrong ones."""
    wrong = [name for name, said, so in answers if said == ("no" if so else "yes")]
    unsure = sum(said == "perhaps" for _, said, _ in answers)
    right = len(answers) - unsure - len(wrong)
    return {"right": right, "perhaps": unsure, "wrong": len(wrong), "which": wrong}


def error(predicted: float | None, measured: float | None) -> float | None:
    """predicted / measured - 1; None where one of them is not known."""
    return predicted / measured - 1 if predicted is not None and measured else None


def spread(rows: Iterable[dict], when: str, name: str) -> dict[str, Any]:
    """How many cases, their median and their worst absolute error."""
    found = [
        abs(row["errors"][when][name]) for row in rows if row["errors"][when][name] is not None
    ]
    return {
        "cases": len(found),
        "median": statistics.median(found) if found else None,
        "worst": max(found, default=None),
    }
