"""Compare what was given with what was wanted, by stage, relative to the expected size."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labs.grading.exercise import GraderError
from labs.grading.wire import Handle, fields_of

LOOSEST = 0.01  # a tolerance above a hundredth of the expected size proves nothing


@dataclass
class Difference:
    """The first place at which two values part, at the earliest stage at which they do."""

    stage: str
    sentence: str
    wanted: str
    got: str
    where: str = ""
    note: str = ""


def tolerance(wanted: Tensor, rtol: float, scale: float | None) -> float:
    """The absolute tolerance: rtol times the root mean square of what is wanted, or the scale.

    Raises GraderError for rtol above 1/100, and where all that is wanted is zero and no scale is
    declared.
    """
    if not 0 <= rtol <= LOOSEST:
        raise GraderError(f"rtol={rtol:g} is above {LOOSEST:g} of the expected size.")
    if scale is None:
        finite = wanted[torch.isfinite(wanted)].double()
        scale = finite.pow(2).mean().sqrt().item() if finite.numel() else 0.0
        if scale == 0:
            raise GraderError("Everything wanted is zero: declare scale=, or choose other inputs.")
    return rtol * scale


def first_difference(
    got: Any, wanted: Any, *, rtol: float = 1e-4, scale: float | None = None, dtype: bool = True
) -> Difference | None:
    """The first difference by stage (returns, shape, dtype, finite, value), or None if equal."""
    found = list(_structure(got, wanted, "result"))
    if found:
        return found[0]
    pairs = list(_pairs(got, wanted, "result"))
    for stage in (_shape, _dtype, _finite, _value):
        if stage is _dtype and not dtype:
            continue
        for where, mine, theirs in pairs:
            difference = stage(where, mine, theirs, rtol, scale)
            if difference:
                return difference
    return None


def same(a: Any, b: Any, rtol: float = 1e-3) -> bool:
    """Whether two recorded outcomes are the same answer, up to rounding; used to name mistakes."""
    if isinstance(a, Handle) or isinstance(b, Handle):
        return isinstance(a, Handle) and isinstance(b, Handle)
    if isinstance(a, (Tensor, np.ndarray)) or isinstance(b, (Tensor, np.ndarray)):
        if type(a) is not type(b):
            return False
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if getattr(a, "was_differentiable", None) != getattr(b, "was_differentiable", None):
            return False
        a, b = a.double(), b.double()
        size = b[torch.isfinite(b)].abs().max().item() if torch.isfinite(b).any() else 0.0
        return torch.allclose(a, b, rtol=0, atol=rtol * size, equal_nan=True)
    if _is_number(a) and _is_number(b):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        return a == b or abs(a - b) <= rtol * abs(b)
    fields_a, fields_b = fields_of(a), fields_of(b)
    if fields_a is not None or fields_b is not None:
        return fields_a is not None and fields_b is not None and same(fields_a, fields_b, rtol)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], rtol) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, rtol) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def show(value: Any, limit: int = 60) -> str:
    """A value on one line."""
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value)
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.numel() == 1:
            return number(tensor.item())
        return f"{name}{list(tensor.shape)}"
    if isinstance(value, Handle):
        return f"<{value.type}>"
    if isinstance(value, float):
        return number(value)
    text = _module(value) if isinstance(value, torch.nn.Module) else repr(value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _module(module: torch.nn.Module) -> str:
    """A module as the call that made it, without options: `Linear(4, 3)`.

    What its class demands is looked up among its attributes; where it demands nothing, its parts
    are shown.
    """
    given = []
    for name, parameter in inspect.signature(type(module)).parameters.items():
        some = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if some and parameter.default is parameter.empty:
            given.append(show(getattr(module, name)) if hasattr(module, name) else "…")
    parts = given or [show(child) for child in module.children()]
    return f"{type(module).__name__}({', '.join(parts)})"


def number(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if value is None:
        return "None"
    if isinstance(value, Handle):
        return f"an object of type {value.type}"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _structure(got: Any, wanted: Any, where: str) -> Iterator[Difference]:
    def wrong(sentence: str) -> Difference:
        return Difference("returns", sentence, _kind(wanted), f"{_kind(got)} {show(got)}", where)

    fields = fields_of(wanted)
    if isinstance(wanted, (Tensor, np.ndarray)):
        if not isinstance(got, type(wanted)):
            yield wrong(f"{where} should be {_kind(wanted)}.")
    elif fields is not None:
        mine = fields_of(got)
        if mine is None and isinstance(got, (tuple, list)) and len(got) == len(fields):
            mine = dict(zip(fields, got, strict=True))
        if mine is None or not fields.keys() <= mine.keys():
            yield wrong(f"{where} should have the fields {', '.join(fields)}.")
        else:
            for name in fields:
                yield from _structure(mine[name], fields[name], f"{where}.{name}")
    elif isinstance(wanted, dict):
        if not isinstance(got, dict):
            yield wrong(f"{where} should be a dict.")
        elif got.keys() != wanted.keys():
            keys = f"{sorted(map(str, wanted))}", f"{sorted(map(str, got))}"
            yield Difference("returns", f"{where} has other keys.", *keys, where)
        else:
            for key in wanted:
                yield from _structure(got[key], wanted[key], f"{where}[{key!r}]")
    elif isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)):
            yield wrong(f"{where} should be {_kind(wanted)}.")
        elif len(got) == len(wanted):
            for i, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
                yield from _structure(mine, theirs, f"{where}[{i}]")
    elif isinstance(wanted, bool) or not _is_number(wanted):
        if type(got) is not type(wanted):
            yield wrong(f"{where} should be {_kind(wanted)}.")
    elif not _is_number(got) and not (isinstance(got, Tensor) and got.dim() == 0):
        yield wrong(f"{where} should be a number.")


def _pairs(got: Any, wanted: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    fields = fields_of(wanted)
    if fields is not None:
        mine = fields_of(got)
        if mine is None:
            mine = dict(zip(fields, got, strict=True))
        for name in fields:
            yield from _pairs(mine[name], fields[name], f"{where}.{name}")
    elif isinstance(wanted, dict):
        for key in wanted:
            yield from _pairs(got[key], wanted[key], f"{where}[{key!r}]")
    elif isinstance(wanted, (list, tuple)):
        yield where, got, wanted
        if len(got) == len(wanted):
            for i, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
                yield from _pairs(mine, theirs, f"{where}[{i}]")
    else:
        yield where, got, wanted


def _shape(where: str, got: Any, wanted: Any, rtol: float, scale: float | None):
    if isinstance(wanted, (list, tuple)):
        if len(got) != len(wanted):
            sizes = f"{len(wanted)} entries", f"{len(got)} entries"
            return Difference("shape", f"{where} has the wrong length.", *sizes, where)
    elif isinstance(wanted, (Tensor, np.ndarray)) and tuple(got.shape) != tuple(wanted.shape):
        shapes = str(tuple(wanted.shape)), str(tuple(got.shape))
        return Difference("shape", f"{where} has the wrong shape.", *shapes, where)
    return None


def _dtype(where: str, got: Any, wanted: Any, rtol: float, scale: float | None):
    if isinstance(wanted, (Tensor, np.ndarray)) and got.dtype != wanted.dtype:
        dtypes = str(wanted.dtype), str(got.dtype)
        return Difference("dtype", f"{where} has the wrong dtype.", *dtypes, where)
    if isinstance(wanted, Tensor) and getattr(got, "was_on", "cpu") != str(wanted.device):
        devices = str(wanted.device), got.was_on
        return Difference("dtype", f"{where} is on the wrong device.", *devices, where)
    return None


def _finite(where: str, got: Any, wanted: Any, rtol: float, scale: float | None):
    if isinstance(wanted, (list, tuple, str, bool)) or wanted is None:
        return None
    mine, theirs = _tensor(got), _tensor(wanted)
    if not theirs.is_floating_point() and not mine.is_floating_point():
        return None
    bad = torch.isfinite(theirs) & ~torch.isfinite(mine)
    if not bad.any():
        return None
    at = _first(bad)
    values = number(_at(theirs, at)), number(_at(mine, at))
    return Difference("finite", f"{where} is not finite.", *values, _place(at, bad))


def _value(where: str, got: Any, wanted: Any, rtol: float, scale: float | None):
    if isinstance(wanted, (list, tuple)):
        return None
    if isinstance(wanted, (str, bool)) or wanted is None:
        if got == wanted:
            return None
        return Difference("value", f"{where} is wrong.", show(wanted), show(got), where)
    if isinstance(got, int) and isinstance(wanted, int) and _too_long(got, wanted):
        if got == wanted:
            return None
        return Difference("value", f"{where} is wrong.", number(wanted), number(got))
    mine, theirs = _tensor(got), _tensor(wanted)
    if not theirs.is_floating_point() and not theirs.is_complex():
        bad = mine != theirs
    else:
        # Not a number and infinities must match in place; the rest within the tolerance.
        mine, theirs = mine.double(), theirs.double()
        close = (mine - theirs).abs() <= tolerance(theirs, rtol, scale)
        equal = (mine == theirs) | (torch.isnan(mine) & torch.isnan(theirs))
        bad = ~(close | equal)
    if not bad.any():
        return None
    at = _first(bad)
    values = number(_at(theirs, at)), number(_at(mine, at))
    note = _pattern(mine, theirs)
    return Difference("value", f"{where} is wrong.", *values, _place(at, bad), note)


def _too_long(*values: int) -> bool:
    """Whether one of them has more bits than PyTorch's integers: a hash of 64 bits has."""
    return max(value.bit_length() for value in values) > 63


def _tensor(value: Any) -> Tensor:
    """The value as a tensor; an int that no integer dtype holds as a float."""
    long = isinstance(value, int) and _too_long(value)
    return torch.as_tensor(float(value) if long else value)


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(bad)[0].tolist()) if bad.dim() else ()


def _at(tensor: Tensor, index: tuple[int, ...]) -> Any:
    return tensor[index].item()


def _place(at: tuple[int, ...], bad: Tensor) -> str:
    if not at:
        return ""
    return f"at {list(at)} ({int(bad.sum())} of {bad.numel()} entries differ)"


def _pattern(got: Tensor, wanted: Tensor) -> str:
    """A remark on how the values are related, for mistakes that have no name."""
    if got.dim() == 2 and got.shape[0] == got.shape[1] and torch.equal(got.T, wanted):
        return "It is the transpose of what is wanted."
    mine, theirs = got.double().flatten(), wanted.double().flatten()
    if mine.numel() == 0 or not (torch.isfinite(mine).all() and torch.isfinite(theirs).all()):
        return ""
    if mine.numel() > 1 and (mine == 0).all():
        return "All of it is zero."
    big = theirs.abs() > 1e-6
    ratios = mine[big] / theirs[big]
    if ratios.numel() and (ratios - ratios[0]).abs().max() < 1e-4 * ratios[0].abs():
        return f"It is {number(ratios[0].item())} times what is wanted."
    shift = mine - theirs
    if mine.numel() > 1 and (shift - shift[0]).abs().max() < 1e-6 * theirs.abs().max():
        return f"It is off by {number(shift[0].item())} everywhere."
    return ""
