"""The checker that `test_exercises.py` uses: stages in order, to the first that fails."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labs.grading.compare import Difference, first_difference, number, show
from labs.grading.exercise import Exercise, GraderError
from labs.grading.meter import Cost, Meter
from labs.grading.session import ChildSession, LocalSession, Outcome
from labs.grading.wire import Handle
from labs.grading.worker import Request, Worker

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


@dataclass(frozen=True)
class Case:
    """Arguments for one call, and what is special about them."""

    label: str
    args: tuple
    kwargs: dict[str, Any]


def case(label: str, *args: Any, **kwargs: Any) -> Case:
    """Arguments for one call; `label` says in a few words what is special about them."""
    return Case(label, args, kwargs)


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

    check: Check
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
class Check:
    """Grades one answer to one exercise. Each method raises CheckFailed where the answer fails."""

    exercise: Exercise
    session: ChildSession | LocalSession
    records: list[Record] = field(default_factory=list)
    reached: int = 0
    asserted: int = 0

    # -- calls -----------------------------------------------------------------------------------

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

    # -- stages ----------------------------------------------------------------------------------

    def found(self) -> None:
        """The answer is there, started, and has the parameters of the stub."""
        outcome = self.session.ask(Request(signature=True))
        self._stage("found")
        if outcome.ended:
            self._fail("found", f"The file could not be loaded. {outcome.ended}")
        if outcome.error:
            self._fail_found(outcome.error)
        self._stage("signature")
        wanted = Worker(self.exercise.answer)
        wanted = _expected_parameters(wanted.answer)
        got = [tuple(p) for p in outcome.value]
        names = [name for name, _ in got if name != "*"]
        missing = [name for name, _ in wanted if name not in names and name != "*"]
        extra = [n for n, default in got if not default and n not in [w for w, _ in wanted]]
        in_order = names[: len(wanted)] == [name for name, _ in wanted if name != "*"]
        catch_all = ("*", True) in got and not names
        lost = [n for n, default in wanted if default and (n, False) in got]
        if not catch_all and (missing or extra or not in_order or lost):
            self._fail(
                "signature",
                "The parameters are not those of the stub.",
                wanted=_signature(wanted),
                got=_signature(got),
            )

    def cases(
        self,
        cases: Sequence[Case],
        oracle: Callable,
        *,
        rtol: float = 1e-4,
        scale: float | None = None,
        gradient: Sequence[str] = (),
        of: str | None = None,
        target: Proxy | None = None,
        dtype: bool = True,
        keep_inputs: bool = True,
    ) -> list[Any]:
        """Call the answer on every case and hold it to `oracle`: found … value, then gradient.

        `oracle(*args, **kwargs)` computes what is wanted another way than the reference does. The
        type, shape and dtype wanted are those of its result. `gradient` names arguments whose
        gradients are compared with the oracle's autograd (`of`: the field or index of the result
        to differentiate). `scale` declares the absolute size where what is wanted may be zero
        everywhere, for values and gradients. `keep_inputs`: the arguments must not be changed. Returns the results.
        """
        if target is None and not self.reached:
            self.found()
        handle, name = (target.handle, target.name) if target else (None, self.exercise.name)
        first = len(self.records)
        for c in cases:
            self._ask(name, c.label, Request(target=handle, args=c.args, kwargs=c.kwargs))
        records = self.records[first:]
        wanted = [oracle(*c.args, **c.kwargs) for c in cases]
        if gradient:
            slopes = self._gradients(name, handle, cases, oracle, tuple(gradient), of)
        self._stage("returns")
        for i, record in enumerate(records, first):
            self._raise_if_stopped(record, i)
        differences = [
            (i, first_difference(record.outcome.value, want, rtol=rtol, scale=scale, dtype=dtype))
            for i, (record, want) in enumerate(zip(records, wanted, strict=True), first)
        ]
        for stage in STAGES[2:7]:
            self._stage(stage)
            for i, difference in differences:
                if difference and difference.stage == stage:
                    self._differ(difference, i)
        if gradient:
            self._stage("gradient")
            for i, got, want in slopes:
                self._compare_gradient(i, got, want, rtol, scale)
        if keep_inputs:
            self._stage("invariants")
            for i, record in enumerate(records, first):
                if record.outcome.mutated:
                    self._fail(
                        "invariants",
                        "It changes its inputs: work on a copy.",
                        record=i,
                        got=f"changed: {', '.join(map(self._argument, record.outcome.mutated))}",
                        wanted="the inputs as they were",
                    )
        return [record.outcome.value for record in records]

    def equal(
        self,
        sentence: str,
        got: Any,
        wanted: Any,
        *,
        stage: str = "invariants",
        rtol: float = 1e-4,
        scale: float | None = None,
        dtype: bool = True,
    ) -> None:
        """An invariant: two values agree. `sentence` says what must hold, for the learner."""
        self._stage(stage)
        difference = first_difference(got, wanted, rtol=rtol, scale=scale, dtype=dtype)
        if difference:
            difference.stage, difference.sentence = stage, sentence
            self._differ(difference, len(self.records) - 1)

    def holds(
        self,
        sentence: str,
        condition: bool | Tensor,
        *,
        stage: str = "invariants",
        wanted: str = "",
        got: Any = "",
    ) -> None:
        """An invariant: the condition is true. `sentence` says what must hold, for the learner."""
        self._stage(stage)
        if not bool(condition):
            shown = got if isinstance(got, str) else show(got)
            last = len(self.records) - 1 if self.records else None
            self._fail(stage, sentence, record=last, wanted=wanted, got=shown)

    def cost(self, sentence: str, used: float, at_most: float) -> None:
        """A count (bytes, operations, waits) or a ratio to the naive way, never seconds."""
        self._stage("cost")
        if not used <= at_most:
            last = len(self.records) - 1 if self.records else None
            limits = f"at most {number(float(at_most))}", number(float(used))
            self._fail("cost", sentence, record=last, wanted=limits[0], got=limits[1])

    def number(self, wanted: float | dict, *, rtol: float = 1e-4) -> None:
        """A compute exercise: the answer, called without arguments, gives these numbers."""
        self.cases([case("the question")], lambda: wanted, rtol=rtol, dtype=False)

    def sampled(
        self, sentence: str, counts: Tensor, probabilities: Tensor, *, false_alarm: float = 1e-6
    ) -> None:
        """Chi-square of counts against probabilities; fails where chance is below `false_alarm`."""
        self._stage("value")
        counts, expected = counts.double(), probabilities.double() * counts.sum()
        if (expected < 5).any() or not 0 < false_alarm <= 1e-3:
            raise GraderError(
                "A chi-square test needs 5 expected in each bin, false_alarm <= 1e-3."
            )
        statistic = ((counts - expected) ** 2 / expected).sum()
        freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
        p_value = torch.special.gammaincc(freedom, statistic / 2).item()
        self.holds(
            sentence,
            p_value >= false_alarm,
            stage="value",
            wanted=f"about {expected.round().int().tolist()}",
            got=f"{counts.int().tolist()} (chance {p_value:.1e})",
        )

    def diagnosis(
        self, cause: str, evidence: str, broken: Callable, shows_fault: Callable
    ) -> Proxy:
        """A debug exercise: returns the patch once diagnosis and evidence are right.

        The answer returns {"diagnosis", "evidence", "patch"}. `evidence` is a line of the log (or
        the part of it that convinces). `shows_fault(broken)` must be true: the fault is shown in
        the grader's process before any patch is believed.
        """
        exercise = self.exercise
        if cause not in exercise.diagnoses or evidence not in exercise.log:
            raise GraderError("The diagnosis or the evidence line is not in the exercise.")
        if not shows_fault(broken):
            raise GraderError(f"{exercise.name}: the broken run does not show its fault.")
        if not self.reached:
            self.found()
        answer = self.call()
        self._stage("returns")
        keys = {"diagnosis", "evidence", "patch"}
        if not isinstance(answer, dict) or set(answer) != keys:
            wanted = 'a dict with "diagnosis", "evidence" and "patch"'
            self._fail("returns", "The result has another form.", 0, wanted, show(answer))
        patch = answer["patch"]
        if not isinstance(patch, Proxy) or not patch.handle.callable:
            self._fail("returns", "The patch should be a function.", 0, "a function", show(patch))
        self._stage("value")
        listed = ", ".join(exercise.diagnoses)
        if answer["diagnosis"] not in exercise.diagnoses:
            got = show(answer["diagnosis"])
            self._fail("value", "That diagnosis is not on the list.", 0, f"one of {listed}", got)
        if answer["diagnosis"] != cause:
            says = exercise.diagnoses[answer["diagnosis"]]
            self._fail(
                "value",
                "The diagnosis does not explain the log.",
                record=0,
                wanted="the cause that the log shows",
                got=f"{answer['diagnosis']} ({says})",
            )
        line = str(answer["evidence"]).strip()
        if "\n" in line or evidence not in line or line not in exercise.log:
            self._fail(
                "value",
                "The evidence line does not show that cause.",
                record=0,
                wanted="the one line of the log that only this cause explains",
                got=show(line),
            )
        patch.name = "patch"
        return patch

    # -- inside ----------------------------------------------------------------------------------

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

    def _gradients(self, name, handle, cases, oracle, names, of):
        slopes = []
        local = Worker(oracle)
        for c in cases:
            request = Request(handle, None, c.args, c.kwargs, gradient=names, of=of)
            outcome = self._ask(name, c.label, request)
            want = local._run(Request(args=c.args, kwargs=c.kwargs, gradient=names, of=of))[0]
            slopes.append((len(self.records) - 1, outcome, want))
        return slopes

    def _compare_gradient(
        self, index: int, got: Outcome, want: dict, rtol: float, scale: float | None
    ) -> None:
        if got.error and got.error["type"] == "Detached":
            self._fail(
                "gradient",
                "The result carries no gradient: something on the way detached it "
                "(.item(), .detach(), .data, torch.no_grad(), NumPy).",
                record=index,
                wanted=f"gradients of {', '.join(want)}",
                got="a result without grad_fn",
            )
        self._raise_if_stopped(self.records[index], index)
        for name, slope in want.items():
            difference = first_difference(got.value[name], slope, rtol=max(rtol, 1e-4), scale=scale)
            if difference:
                difference.stage = "gradient"
                difference.sentence = f"The gradient with respect to {name} is wrong."
                self._differ(difference, index)

    def _argument(self, key: str) -> str:
        if key.isdigit():
            return _expected_parameters(self.exercise.answer)[int(key)][0]
        return key

    def _differ(self, d: Difference, index: int | None) -> None:
        where = "" if d.where == "result" else d.where
        self._fail(d.stage, d.sentence, index, d.wanted, d.got, where, d.note)

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


def measure_ours(function: Callable, *args: Any, **kwargs: Any) -> Cost:
    """What a call of our own function costs, counted as `Check.measure` counts: the naive way."""
    with Meter() as meter:
        function(*args, **kwargs)
    return meter.cost()


def _handles(value: Any) -> Any:
    return value.handle if isinstance(value, Proxy) else value


def _expected_parameters(answer: Callable) -> list[tuple[str, bool]]:
    parameters = inspect.signature(answer).parameters.values()
    return [(p.name, p.default is not p.empty) for p in parameters]


def _signature(parameters: Sequence[tuple[str, bool]]) -> str:
    return "(" + ", ".join(f"{n}=…" if d and n != "*" else n for n, d in parameters) + ")"


def _one_line(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
