"""The checker that `test_exercises.py` uses: stages in order, to the first that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.grading.calls import STAGES, Calls, Proxy, parameters
from labs.grading.compare import Difference, first_difference, number, show
from labs.grading.exercise import GraderError
from labs.grading.meter import Cost, Meter
from labs.grading.session import Outcome
from labs.grading.worker import Request, Worker


@dataclass(frozen=True)
class Case:
    """Arguments for one call, and what is special about them."""

    label: str
    args: tuple
    kwargs: dict[str, Any]


def case(label: str, *args: Any, **kwargs: Any) -> Case:
    """Arguments for one call; `label` says in a few words what is special about them."""
    return Case(label, args, kwargs)


class Check(Calls):
    """Grades one answer to one exercise. Each method raises CheckFailed where the answer fails."""

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
        everywhere, for values and gradients. `keep_inputs`: the arguments must not be changed.
        Returns the results.
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
        self._stage("signature")
        signature = self.session.ask(Request(target=patch.handle, signature=True))
        if signature.value is not None:  # a built-in may have none; calling it will show
            self._match_parameters(signature.value, broken, f"`{broken.__name__}`")
        self._stage("value")
        listed = ", ".join(exercise.diagnoses)
        if answer["diagnosis"] not in exercise.diagnoses:
            got = show(answer["diagnosis"])
            self._fail("value", "That diagnosis is not on the list.", 0, f"one of {listed}", got)
        line = str(answer["evidence"]).strip()
        shown = "\n" not in line and evidence in line and line in exercise.log
        if shown or answer["diagnosis"] != cause:
            # A mistake is known by its diagnosis and patch, however much of the line is quoted.
            self.records[-1].outcome.value["evidence"] = evidence
        if answer["diagnosis"] != cause:
            says = exercise.diagnoses[answer["diagnosis"]]
            self._fail(
                "value",
                "The diagnosis does not explain the log.",
                record=0,
                wanted="the cause that the log shows",
                got=f"{answer['diagnosis']} ({says})",
            )
        if not shown:
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
        if got.error and got.error["type"] == "Renamed":
            self._fail("signature", got.error["message"], record=index)
        self._raise_if_stopped(self.records[index], index)
        for name, slope in want.items():
            difference = first_difference(got.value[name], slope, rtol=max(rtol, 1e-4), scale=scale)
            if difference:
                difference.stage = "gradient"
                difference.sentence = f"The gradient with respect to {name} is wrong."
                self._differ(difference, index)

    def _argument(self, key: str) -> str:
        if key.isdigit():
            return parameters(self.exercise.answer)[int(key)][0]
        return key

    def _differ(self, d: Difference, index: int | None) -> None:
        where = "" if d.where == "result" else d.where
        self._fail(d.stage, d.sentence, index, d.wanted, d.got, where, d.note)


def measure_ours(function: Callable, *args: Any, **kwargs: Any) -> Cost:
    """What a call of our own function costs, counted as `Check.measure` counts: the naive way."""
    with Meter() as meter:
        function(*args, **kwargs)
    return meter.cost()
