"""Calls on one answer, kept as they are made, and the failure that ends them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labs.grading.exercise import Exercise
from labs.grading.meter import Cost
from labs.grading.session import ChildSession, LocalSession, Outcome
from labs.grading.wire import Handle
from labs.grading.worker import Request

STAGES = (
    "found",
    "signature",
    "returns",
    "shape",
    "dtype",
    "finite",
    "value",
    "gradient",
    "invariants",
    "cost",
)
# The share of the points that an answer keeps when it stops at a stage.
CREDIT = dict(zip(STAGES, (0, 0, 0, 0.05, 0.1, 0.15, 0.2, 0.6, 0.75, 0.9), strict=True))


@dataclass
class Record:
    """One call that was made: enough to repeat it, to show it, and to compare answers."""

    name: str
    label: str
    request: Request
    outcome: Outcome


@dataclass
class Failure:
    """Why an answer stopped: what the feedback is written from."""

    stage: str
    sentence: str
    record: int | None = None
    wanted: str = ""
    got: str = ""
    where: str = ""
    note: str = ""
    not_started: bool = False
    traceback: str = ""


class CheckFailed(AssertionError):
    """The answer failed a stage."""

    def __init__(self, failure: Failure):
        super().__init__(failure.sentence)
        self.failure = failure


@dataclass
class Proxy:
    """An object that the answer made and that lives in its process; calls and reads go there."""

    check: Calls
    handle: Handle
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = Request(target=self.handle, args=args, kwargs=kwargs)
        return self.check._value(self.name, "", request)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method."""
        request = Request(target=self.handle, attribute=method, args=args, kwargs=kwargs)
        return self.check._value(f"{self.name}.{method}", "", request)

    def get(self, attribute: str) -> Any:
        """Read an attribute."""
        request = Request(target=self.handle, attribute=attribute, get=True)
        return self.check._value(f"{self.name}.{attribute}", "", request)


@dataclass
class Calls:
    """The calls on one answer: found and started first, then one request after another."""

    exercise: Exercise
    session: ChildSession | LocalSession
    records: list[Record] = field(default_factory=list)
    reached: int = 0
    asserted: int = 0

    def call(self, *args: Any, label: str = "", **kwargs: Any) -> Any:
        """Call the answer once; an object that cannot travel comes back as a Proxy."""
        return self._value(self.exercise.name, label, Request(args=args, kwargs=kwargs))

    def probe(self, function: Callable, *args: Any, target: Proxy | None = None) -> Any:
        """Run `function(answer, *args)` where the answer lives; `torch`, `np`, `Tensor` are there.

        The function must stand alone: it travels as text.
        """
        text = textwrap.dedent(inspect.getsource(function))
        where = target.handle if target else None
        request = Request(target=where, args=args, probe=(text, function.__name__))
        return self._value(f"{function.__name__}({self.exercise.name}, …)", "", request)

    def measure(self, *args: Any, target: Proxy | None = None, **kwargs: Any) -> Cost:
        """Count the operations, bytes and synchronisations of one call."""
        where, name = (target.handle, target.name) if target else (None, self.exercise.name)
        request = Request(target=where, args=args, kwargs=kwargs, measure=True)
        return Cost(**self._value(name, "", request).fields)

    def found(self) -> None:
        """The answer is there, started, and has the parameters of the stub."""
        outcome = self.session.ask(Request(signature=True))
        self._stage("found")
        if outcome.ended:
            self._fail("found", f"The file could not be loaded. {outcome.ended}")
        if outcome.error:
            self._fail_found(outcome.error)
        self._stage("signature")
        self._match_parameters(outcome.value, self.exercise.answer, "the stub")

    # -- inside ----------------------------------------------------------------------------------

    def _match_parameters(self, found: Sequence, like: Callable, of: str) -> None:
        wanted, got = parameters(like), [tuple(p) for p in found]
        names = [name for name, _ in got if name != "*"]
        missing = [name for name, _ in wanted if name not in names and name != "*"]
        extra = [n for n, default in got if not default and n not in [w for w, _ in wanted]]
        in_order = names[: len(wanted)] == [name for name, _ in wanted if name != "*"]
        catch_all = ("*", True) in got and not names
        lost = [n for n, default in wanted if default and (n, False) in got]
        if not catch_all and (missing or extra or not in_order or lost):
            self._fail(
                "signature",
                f"The parameters are not those of {of}.",
                wanted=_signature(wanted),
                got=_signature(got),
            )

    def _stage(self, stage: str) -> None:
        # Going back is fine within one group of cases; a new group may not start below "returns".
        self.asserted += 1
        self.reached = max(self.reached, STAGES.index(stage))

    def _ask(self, name: str, label: str, request: Request) -> Outcome:
        outcome = self.session.ask(request)
        self.records.append(Record(name, label, request, outcome))
        return outcome

    def _value(self, name: str, label: str, request: Request) -> Any:
        if not self.reached:
            self.found()
        request.args = tuple(_handles(a) for a in request.args)
        request.kwargs = {k: _handles(v) for k, v in request.kwargs.items()}
        outcome = self._ask(name, label, request)
        self._raise_if_stopped(self.records[-1], len(self.records) - 1)
        return self._wrap(outcome.value, name)

    def _wrap(self, value: Any, name: str) -> Any:
        if isinstance(value, Handle):
            return Proxy(self, value, value.type if value.type != "function" else name)
        if type(value) in (list, tuple):
            return type(value)(self._wrap(v, name) for v in value)
        if type(value) is dict:
            return {k: self._wrap(v, str(k)) for k, v in value.items()}
        return value

    def _raise_if_stopped(self, record: Record, index: int) -> None:
        outcome = record.outcome
        if outcome.ended:
            self._fail("returns", outcome.ended, record=index)
        if not outcome.error:
            return
        error = outcome.error
        if error["type"] == "NotImplementedError":
            self._fail("found", "Not started.", not_started=True)
        line = f" (line {error['line']}: {error['code'].strip()})" if error["line"] else ""
        if error["refused"] or error["type"] == "OutsideWrite":
            sentence = error["message"]
        else:
            sentence = f"It raised {error['type']}: {_one_line(error['message'])}{line}"
        self._fail("returns", sentence, record=index, traceback=error["traceback"])

    def _fail_found(self, error: dict[str, Any]) -> None:
        kind, text = error["type"], error["traceback"]
        name = self.exercise.name
        if error["refused"]:
            self._fail("found", error["message"], got=f"line {error['line']}: {error['code']}")
        if kind == "Missing":
            self._fail("found", f"There is no `{name}` in the file: keep the name of the stub.")
        if kind == "TypeError" and "callable" in error["message"]:
            self._fail("found", f"`{name}` is not a function: keep the definition of the stub.")
        line = f", line {error['line']}: {error['code'].strip()}" if error["line"] else ""
        says = f"{kind}{line} ({_one_line(error['message'])})"
        self._fail("found", "The file does not load.", got=says, traceback=text)

    def _fail(
        self,
        stage: str,
        sentence: str,
        record: int | None = None,
        wanted: str = "",
        got: str = "",
        where: str = "",
        note: str = "",
        **more: Any,
    ) -> None:
        raise CheckFailed(Failure(stage, sentence, record, wanted, got, where, note, **more))


def _handles(value: Any) -> Any:
    return value.handle if isinstance(value, Proxy) else value


def parameters(answer: Callable) -> list[tuple[str, bool]]:
    """(name, has a default) of each parameter of our own code."""
    found = inspect.signature(answer).parameters.values()
    return [(p.name, p.default is not p.empty) for p in found]


def _signature(parameters: Sequence[tuple[str, bool]]) -> str:
    return "(" + ", ".join(f"{n}=…" if d and n != "*" else n for n, d in parameters) + ")"


def _one_line(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
