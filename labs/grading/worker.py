"""Holds one answer and runs calls on it: in a child process for a learner's, in this one for ours.

Requests come from the grader and are trusted. Replies go through `wire`, which runs no code.
"""

from __future__ import annotations

import inspect
import linecache
import random
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labs.grading.guard import Refused, guard_imports
from labs.grading.meter import Meter
from labs.grading.wire import Handle, encode


@dataclass
class Request:
    """Call `target` (the answer, or a handle's attribute) and reply with what it returns."""

    target: Handle | None = None
    attribute: str | None = None
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    gradient: tuple[str, ...] = ()  # names of arguments to differentiate with respect to
    of: str | None = None  # the field or index of the result to differentiate
    measure: bool = False  # reply with a Cost instead of the result
    get: bool = False  # read the attribute instead of calling it
    probe: tuple[str, str] | None = None  # (source, name) of a function called as f(answer, *args)
    signature: bool = False


class Missing(Exception):
    """The answer's file has no such name."""


class Detached(Exception):
    """The result does not depend on the arguments as far as autograd can see."""


class Renamed(Exception):
    """The answer has not the parameters that the gradient is wanted for."""


class Worker:
    """One answer, the objects it has made, and the calls on it."""

    def __init__(self, answer: Callable | None = None):
        self.answer = answer
        self.kept: list[Any] = []
        self.path = ""

    def load(self, name: str, path: str, text: str, forbid: tuple[str, ...]) -> None:
        """Run the learner's file and take `name` from it. Raises what it raises, or Missing."""
        self.path = path
        if not Path(path).exists():
            linecache.cache[path] = (len(text), None, text.splitlines(True), path)
        module = types.ModuleType("exercises")
        module.__file__ = path
        sys.modules["exercises"] = module
        sys.path.insert(0, str(Path(path).parent))
        guard_imports(path, forbid, text)
        exec(compile(text, path, "exec"), module.__dict__)
        if not hasattr(module, name):
            raise Missing(name)
        self.answer = getattr(module, name)

    def handle(self, request: Request) -> bytes:
        """Run one request; the reply holds `value` or `error`, and `mutated`."""
        reply: dict[str, Any] = {"value": None, "error": None, "mutated": []}
        try:
            _seed()
            reply["value"], reply["mutated"] = self._run(request)
            return encode(reply, self._keep)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            reply["value"], reply["error"] = None, self.describe(error)
            return encode(reply, self._keep)

    def describe(self, error: BaseException) -> dict[str, Any]:
        """An exception as text, with the last line of the learner's file that it passed through."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if f.filename == self.path] if self.path else []
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        return {
            "type": type(error).__name__,
            "message": str(error),
            "line": line,
            "code": (own[-1].line if own else getattr(error, "text", "")) or "",
            "traceback": "".join(traceback.format_exception(error)),
            "refused": isinstance(error, Refused),
        }

    def _keep(self, value: Any) -> Handle:
        self.kept.append(value)
        return Handle(len(self.kept) - 1, type(value).__name__, callable(value))

    def _open(self, value: Any) -> Any:
        if isinstance(value, Handle):
            return self.kept[value.number]
        if type(value) in (list, tuple):
            return type(value)(self._open(v) for v in value)
        if type(value) is dict:
            return {k: self._open(v) for k, v in value.items()}
        return value

    def _run(self, request: Request) -> tuple[Any, list[str]]:
        target = self.answer if request.target is None else self.kept[request.target.number]
        if request.attribute:
            target = getattr(target, request.attribute)
        if request.get:
            return target, []
        if request.signature:
            return _parameters(target), []
        args, kwargs = self._open(request.args), self._open(request.kwargs)
        if request.probe:
            space: dict[str, Any] = {"torch": torch, "np": np, "Tensor": torch.Tensor}
            exec(compile(request.probe[0], "<probe>", "exec"), space)
            return space[request.probe[1]](target, *args, **kwargs), []
        before = _copies(args, kwargs)
        if request.gradient:
            return _gradient(target, args, kwargs, request.gradient, request.of), []
        if request.measure:
            with Meter() as meter:
                target(*args, **kwargs)
            return meter.cost(), []
        value = target(*args, **kwargs)
        return value, _mutated(before, args, kwargs)


def _parameters(target: Callable) -> list[tuple[str, bool]]:
    """(name, has a default) of each parameter; a catch-all is ('*', True)."""
    found = []
    for p in inspect.signature(target).parameters.values():
        catch_all = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        found.append(("*" if catch_all else p.name, catch_all or p.default is not p.empty))
    return found


def _gradient(
    target: Callable, args: tuple, kwargs: dict, names: tuple[str, ...], of: str | None
) -> dict[str, torch.Tensor]:
    # A module's own signature is (*args, **kwargs): the names are those of forward.
    named = target.forward if isinstance(target, torch.nn.Module) else target
    bound = inspect.signature(named).bind(*args, **kwargs)
    inputs = {}
    for name in names:
        if name not in bound.arguments:
            raise Renamed(f"There is no parameter `{name}`: keep the names of the stub.")
        inputs[name] = bound.arguments[name].detach().clone().requires_grad_()
        bound.arguments[name] = inputs[name]
    result = target(*bound.args, **bound.kwargs)
    if of is not None:
        result = result[int(of)] if of.isdigit() else getattr(result, of)
    if not result.requires_grad:
        raise Detached("the result carries no gradient")
    # Unequal weights, so that a permuted or averaged gradient cannot look right.
    weights = torch.cos(torch.arange(result.numel(), dtype=result.dtype)).reshape(result.shape)
    found = torch.autograd.grad((result * weights).sum(), list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if g is None else g
        for (name, x), g in zip(inputs.items(), found, strict=True)
    }


def _leaves(args: tuple, kwargs: dict) -> dict[str, Any]:
    named = {**{str(i): a for i, a in enumerate(args)}, **kwargs}
    for key, value in list(named.items()):
        if isinstance(value, (list, tuple)):
            named.update({f"{key}[{i}]": v for i, v in enumerate(value)})
    return named


def _copies(args: tuple, kwargs: dict) -> dict[str, Any]:
    copies = {}
    for key, value in _leaves(args, kwargs).items():
        if isinstance(value, torch.Tensor):
            copies[key] = value.detach().clone()
        elif isinstance(value, np.ndarray):
            copies[key] = value.copy()
        elif isinstance(value, list):
            copies[key] = list(value)
    return copies


def _mutated(before: dict[str, Any], args: tuple, kwargs: dict) -> list[str]:
    changed = []
    for key, value in _leaves(args, kwargs).items():
        if key not in before:
            continue
        old = before[key]
        if isinstance(value, torch.Tensor):
            same = old.shape == value.shape and torch.equal(
                torch.nan_to_num(old), torch.nan_to_num(value.detach())
            )
        elif isinstance(value, np.ndarray):
            same = np.array_equal(old, value)
        else:
            same = len(old) == len(value) and all(
                a is b or isinstance(a, (torch.Tensor, np.ndarray)) or a == b
                for a, b in zip(old, value, strict=True)
            )
        if not same:
            changed.append(key)
    return changed


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
