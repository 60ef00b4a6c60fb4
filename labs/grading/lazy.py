"""Lazy answers: none of them knows the exercise, and none may pass its check.

Each wraps the reference, so that it has the right signature, and spoils what it returns. The
batteries are text, because they run where a learner's answer runs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from labs.grading import source
from labs.grading.exercise import Exercise

LEAST = 8  # items that must count, that is, differ from the reference on some graded input
NAME = "lazy_answer"

TENSOR = {
    "None": "None",
    "zeros": "each(result, lambda t: t * 0)",
    "ones": "each(result, lambda t: t * 0 + 1)",
    "the input back": "first(args, kwargs)",
    "NaN": "each(result, lambda t: t * float('nan'))",
    "a constant": "each(result, lambda t: t * 0 + 3)",
    "minus the answer": "each(result, lambda t: -t)",
    "twice the answer": "each(result, lambda t: t * 2)",
    "half the answer": "each(result, lambda t: (t / 2).to(t.dtype) if tensor(t) else t / 2)",
    "detached": "each(result, lambda t: t.detach() if tensor(t) else t)",
    "another dtype": "each(result, other_dtype)",
    "transposed": "each(result, lambda t: t.mT if tensor(t) and t.dim() > 1 else t)",
    "the input mutated": "spoil(result, args, kwargs)",
}

TEXT = {
    "None": "None",
    "an empty text": "texts(result, lambda s: '')",
    "always A": "'A'",
    "a constant": "texts(result, lambda s: 'yes')",
    "A for None": "'A' if result is None else result",
    "the input back": "first(args, kwargs)",
    "small letters": "texts(result, str.lower)",
    "capital letters": "texts(result, str.upper)",
    "a space behind": "texts(result, lambda s: s + ' ')",
    "a full stop behind": "texts(result, lambda s: s + '.')",
    "in brackets": "texts(result, lambda s: f'({s})')",
    "in quotes": "texts(result, repr)",
    "twice the answer": "texts(result, lambda s: s * 2)",
    "backwards": "texts(result, lambda s: s[::-1])",
    "without its first character": "texts(result, lambda s: s[1:])",
    "in bytes": "texts(result, str.encode)",
    "its length": "texts(result, len)",
    "in a list": "[result]",
}

NUMBER = {
    "None": "None",
    "zero": "each(result, lambda x: 0)",
    "NaN": "each(result, lambda x: float('nan'))",
    "minus the answer": "each(result, lambda x: -x)",
    "twice the answer": "each(result, lambda x: x * 2)",
    "half the answer": "each(result, lambda x: x / 2)",
    "one too many": "each(result, lambda x: x + 1)",
    "one too few": "each(result, lambda x: x - 1)",
    "thousands (k) of the unit": "each(result, lambda x: x / 1000)",
    "thousandths of the unit": "each(result, lambda x: x * 1000)",
    "1024 to the unit": "each(result, lambda x: x / 1024)",
    "1024 of the unit": "each(result, lambda x: x * 1024)",
    "1024 for 1000": "each(result, lambda x: x * 1.024)",
    "1024² for 1000²": "each(result, lambda x: x * 1.024**2)",
    "1024³ for 1000³": "each(result, lambda x: x * 1.024**3)",
    "1000³ for 1024³": "each(result, lambda x: x / 1.024**3)",
    "bits for bytes": "each(result, lambda x: x * 8)",
    "bytes for bits": "each(result, lambda x: x / 8)",
    "per cent": "each(result, lambda x: x * 100)",
    "a text": "each(result, str)",
}

DEBUG = {
    "None": "None",
    "no evidence": "dict(result, evidence='')",
    "the whole log as evidence": "dict(result, evidence=LOG)",
    "another line as evidence": "dict(result, evidence=OTHER_LINE)",
    "the run unpatched": "dict(result, patch=BROKEN)",
    "nan_to_num over the fault": "dict(result, patch=after(BROKEN, without_nan))",
    "every failure swallowed": "dict(result, patch=swallow(BROKEN))",
    "everything skipped": "dict(result, patch=wrap(BROKEN, lambda *a, **k: None))",
    "the input back": "dict(result, patch=wrap(BROKEN, lambda *a, **k: first(a, k)))",
    "zeros": "dict(result, patch=after(result['patch'], lambda r: each(r, lambda t: t * 0)))",
    "twice the patch": "dict(result, patch=after(result['patch'], lambda r: each(r, twice)))",
    "no patch": "dict(result, patch=None)",
}

HELPERS = '''
import functools
import numpy
import torch

def tensor(t):
    return isinstance(t, (torch.Tensor, numpy.ndarray))

def each(value, change):
    if tensor(value) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return change(value)
    if isinstance(value, dict):
        return {k: each(v, change) for k, v in value.items()}
    if hasattr(value, "_replace"):
        return type(value)(*(each(v, change) for v in value))
    if hasattr(value, "__dataclass_fields__"):
        import dataclasses
        pairs = {f: each(getattr(value, f), change) for f in value.__dataclass_fields__}
        return dataclasses.replace(value, **pairs)
    if isinstance(value, (list, tuple)):
        return type(value)(each(v, change) for v in value)
    return value

def texts(value, change):
    return change(value) if isinstance(value, str) else value

def other_dtype(t):
    if not tensor(t):
        return str(t)
    t = torch.as_tensor(t)
    return t.to(torch.float64 if t.dtype != torch.float64 else torch.float32)

def first(args, kwargs):
    values = [*args, *kwargs.values()]
    return next((v for v in values if tensor(v)), values[0] if values else None)

def spoil(result, args, kwargs):
    value = first(args, kwargs)
    if tensor(value):
        with torch.no_grad():
            value += 1
    elif isinstance(value, list):
        value.append(value[-1] if value else 0)
    return result

def wrap(function, inner):
    return functools.wraps(function)(inner)

def after(function, change):
    return wrap(function, lambda *a, **k: change(function(*a, **k)))

def swallow(function):
    def quiet(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except BaseException:
            return None
    return wrap(function, quiet)

def without_nan(result):
    return each(result, lambda t: torch.nan_to_num(torch.as_tensor(t)))

def twice(t):
    return t * 2

def spoiled(reference, change):
    """The reference with its result changed; a class with every public method changed."""
    if not isinstance(reference, type):
        def answer(*args, **kwargs):
            return change(reference(*args, **kwargs), args, kwargs)
        return wrap(reference, answer)
    def method(original):
        def call(self, *args, **kwargs):
            return change(original(self, *args, **kwargs), args, kwargs)
        return wrap(original, call)
    special = ("forward", "__call__", "__getitem__", "__iter__", "__len__")
    bodies = {
        name: method(value)
        for name, value in vars(reference).items()
        if callable(value) and (name in special or not name.startswith("_"))
    }
    return type(reference.__name__, (reference,), bodies)
'''


@dataclass(frozen=True)
class Lazy:
    """One lazy answer: what it does, and the text of a module that holds it under `NAME`."""

    label: str
    text: str


def battery(exercise: Exercise) -> list[Lazy]:
    """The lazy answers for an exercise, by its kind; for an answer that is a text, those of texts."""
    gives = inspect.signature(exercise.answer).return_annotation
    built = TEXT if gives in (str, str | None) else TENSOR
    items = dict({"compute": NUMBER, "debug": DEBUG}.get(exercise.kind, built))
    text = source.standalone(exercise.answer)
    if exercise.kind == "debug":
        text = source.standalone(exercise.answer, exercise.broken)
        for key in exercise.diagnoses:
            items[f"the diagnosis {key}"] = f"dict(result, diagnosis={key!r})"
    return [Lazy(label, _module(exercise, text, change)) for label, change in items.items()]


def _module(exercise: Exercise, text: str, change: str) -> str:
    constants = ""
    if exercise.kind == "debug":
        right = exercise()["evidence"].strip()
        others = [line for line in exercise.log.splitlines() if line.strip() and right not in line]
        constants = (
            f"LOG = {exercise.log!r}\nOTHER_LINE = {(others or [''])[0]!r}\n"
            f"BROKEN = {exercise.broken.__name__}\n"
        )
    made = f"{NAME} = spoiled({exercise.name}, lambda result, args, kwargs: {change})\n"
    return f"{text}\n{HELPERS}\n{constants}\n{made}"
