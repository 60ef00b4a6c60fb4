r'''Graded exercises: how to write one.

Three files a chapter, two of them by hand:

    solutions/ch03_sft.py                  by hand: statements, answers, hints, mistakes
    chapters/ch03_sft/test_exercises.py    by hand: the checks, one `test_NAME(check)` an exercise
    chapters/ch03_sft/exercises.{py,md}    python -m labs.grading.generate [--check] [ch03]

Then `pytest tests/grading/test_exercises_graded.py -k "ch03 and NAME"` grades your grader: stub,
answer, alternatives, mistakes by name (twice), lazy answers. `labs grade --quality ch03` prints
the table.

**The source.** An exercise is a function or class with the decorator; its docstring is the
statement (Markdown with $math$, so write it r"""raw"""): formula, shapes, what is graded.

    from labs.grading import exercise

    @exercise(kind="implement", points=10, difficulty="basic", minutes=20,
              section="The label mask",              # the heading of the page that teaches it
              forbid=("transformers",),              # libraries that hold the answer
              hints=("a question", "a direction", "nearly the line"))
    def double(x: Float[Tensor, "n"], times: int = 1) -> Float[Tensor, "n"]:
        r"""$y = 2^k x$ ..."""
        # --- answer
        return x * 2**times
        # --- end

    @double.alternative                              # at least one: a formula, a loop, a library
    def by_adding(x, times=1):
        for _ in range(times):
            x = x + x
        return x

    @double.mistake("The doubling happens once, whatever `times` says.")     # at least three
    def doubled_once(x, times=1):
        return x * 2

    @doubled_once.again                              # the same mistake, other names, other style
    def sum_with_itself(x, times=1):
        return torch.add(x, x)

Text between the markers becomes NotImplementedError in the stub; without markers the whole body
does. Classes need the markers in each method. Names are unique in the module. Top-level constants
and helpers that an answer uses are given to the learner in the stubs; imports are copied, those
of labs never: an answer may not need labs. The sentence of a mistake is what the learner reads.

**The check** is called with a `Check` and runs in the grader; the answer runs in a guarded child.

    from labs.grading import Check, case, inputs

    def slow_double(x, times=1): ...                 # the oracle: another way than the reference

    def test_double(check: Check):
        x = inputs.normal(7, seed=1)
        check.cases([case("once", x), case("three times", x, times=3)], slow_double,
                    rtol=1e-4, gradient=["x"])
        check.equal("Twice nothing is nothing.", check.call(x * 0), x * 0, scale=1.0)
        check.cost("One operation a doubling.", check.measure(x, times=3).operations, at_most=4)

`check.cases` does found, signature, returns, shape, dtype and device, finite, value, gradient
(against the oracle's autograd; `of="loss"` picks a field of the result) and "inputs unchanged",
in this order; type, shape and dtype wanted are those of the oracle's result. Put the richest case
first and let the cases tell every mistake from every other: a mistake is named when *all* calls
of the check up to the failing stage give the same results as the learner's. Closeness is relative
to the root mean square of what is wanted; rtol above 1/100 is refused, and so is comparing with
all zeros unless `scale=` declares the absolute size. Then:

- `check.call(*args, label=…, **kw)`: one more call. An object that cannot travel (a module, a
  function) comes back as a Proxy: `layer = check.call(8, 4)`, then `layer(x)`,
  `layer.call("merge")`, `layer.get("weight")`, `check.cases(cases, oracle, target=layer)`.
- `check.equal(sentence, got, wanted)`, `check.holds(sentence, condition, wanted=…, got=…)`:
  invariants. The sentence states what must hold ("Padding does not change the loss.").
- `check.probe(function, *args, target=…)`: runs `function(answer, *args)` where the answer lives,
  for what cannot be done from outside (set LoRA's B, run a backward, count). It travels as text:
  torch, np, Tensor only; import the rest inside.
  Random numbers inside an answer (initialisation) differ from writing to writing: let a probe look
  and return a bool or a count, so that a mistake can still be recognised.
- `check.measure(*args)` -> Cost(operations, largest, bytes, synchronisations); then
  `check.cost(…)` with a count or a ratio to the naive way, measured the same way by
  `measure_ours(naive, *args)`. Never seconds. Counts differ from writing to writing: a mistake that
  fails here is known by the sentence and by its other calls.
- `check.sampled(sentence, counts, probabilities, false_alarm=1e-6)`: chi-square, for sampled
  answers.
- `inputs`: normal, integers, generator, padding_mask, language_batch: seeded, primes, ragged.
  Unseeded numbers and tests without assertion are refused.

**Kinds.** *implement*: as above. *compute*: a function without parameters that returns a number
(or a dict of numbers), with the unit in the question; `check.number(wanted, rtol=1e-4)`, where
`wanted` is worked out in the test another way. *debug*: `diagnoses={"key": "what it means", …}`,
`log="""…"""`, `broken=run` (a top-level function: the run that fails, given to the learner); the
answer has no parameters and returns {"diagnosis": key, "evidence": line of the log, "patch":
function with the parameters of `broken`}.

    def test_starved(check):
        broken = check.exercise.broken
        patch = check.diagnosis("cause", "part of the log's line", broken, shows_fault)
        check.cases([case("the failing run", …), case("a healthy run", …)], oracle, target=patch)

`shows_fault(broken)` proves the fault before; the cases prove its absence after and the healthy
control unchanged. A mistake is known by diagnosis and patch: the learner may quote the whole line
or the part that convinces. Masks (nan_to_num, skipping, batch size 1) are named mistakes.
*explain*: no points, hints or check; the model answer is comment lines between the markers.

`seconds=` and `memory_mb=` limit one call: it is stopped after 30 seconds on the wall clock,
however busy the machine, unless the exercise says otherwise. Keep a check under half a second: it
runs about thirty times.
'''

from labs.grading import inputs
from labs.grading.check import Check, case, measure_ours
from labs.grading.exercise import Exercise, GraderError, Mistake, exercise
from labs.grading.grade import inputs_of

__all__ = [
    "Check",
    "Exercise",
    "GraderError",
    "Mistake",
    "case",
    "exercise",
    "inputs",
    "inputs_of",
    "measure_ours",
]
