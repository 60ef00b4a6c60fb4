"""Suites by name: what `labs eval --suite NAME` and `--suite NAME:PATH` mean."""

import importlib
import inspect
from typing import Any, NamedTuple

from labs.errors import InputError
from labs.settings import nearest
from labs.suites.contract import Suite

OFFLINE, BENCHMARKS = "labs.suites.offline", "labs.suites.benchmarks"


class Entry(NamedTuple):
    """Where a suite's class is, what it is made with, and one line about it.

    files: what PATH is, for a suite that is read from files.
    """

    module: str
    kind: str
    line: str
    options: dict[str, Any] = {}  # noqa: RUF012  never written to
    files: str | None = None


SUITES = {
    "existence": Entry(
        f"{OFFLINE}.existence", "Existence", "Is there a ring? Absent kinds at random, after POPE."
    ),
    "existence_popular": Entry(
        f"{OFFLINE}.existence", "Existence",
        "The same, asking for kinds that most pictures show.", {"negatives": "popular"},
    ),
    "existence_adversarial": Entry(
        f"{OFFLINE}.existence", "Existence",
        "The same, asking for kinds that go with those shown.", {"negatives": "adversarial"},
    ),
    "captions": Entry(
        f"{OFFLINE}.captions", "Captions", "Describe the image: CHAIR, recall and length together."
    ),
    "choice": Entry(f"{OFFLINE}.choice", "Choice", "Four options, asked once."),
    "choice_circular": Entry(
        f"{OFFLINE}.choice", "Choice",
        "Four options in all four rotations, right only if all are.", {"circular": True},
    ),
    "ocr": Entry(f"{OFFLINE}.ocr", "Ocr", "One to three handwritten digits, by ANLS."),
    "counting": Entry(f"{OFFLINE}.counting", "Counting", "How many objects, red objects, rings."),
    "colour": Entry(f"{OFFLINE}.naming", "Naming", "The colour of an object.", {"of": "colour"}),
    "position": Entry(f"{OFFLINE}.naming", "Naming", "The place of an object.", {"of": "position"}),
    "kind": Entry(f"{OFFLINE}.naming", "Naming", "What the one object is.", {"of": "kind"}),
    "grounding": Entry(f"{OFFLINE}.grounding", "Grounding", "The box of an object, by IoU."),
    "direct": Entry(
        f"{OFFLINE}.thinking", "Thinking",
        "Adversarial existence questions, asked directly.", {"describe": False},
    ),
    "thinking": Entry(
        f"{OFFLINE}.thinking", "Thinking",
        "The same questions after the model has described the image.", {"describe": True},
    ),
    "edge_cases": Entry(
        f"{OFFLINE}.edge_cases", "EdgeCases",
        "No image, blank, 1x1, overlong prompts, text that gives orders, …",
    ),
    "mmbench": Entry(
        f"{BENCHMARKS}.mmbench", "MMBench",
        "Multiple choice under CircularEval.", files="a TSV with base64 pictures",
    ),
    "pope": Entry(
        f"{BENCHMARKS}.pope", "Pope",
        "Object hallucination.", files="a JSONL file or a folder of them",
    ),
    "mme": Entry(
        f"{BENCHMARKS}.mme", "Mme",
        "Two yes/no questions a picture, 14 tasks.", files="the folder of its release",
    ),
    "vqav2": Entry(
        f"{BENCHMARKS}.vqa", "VqaV2",
        "Open questions, ten people's answers.", files="the questions JSON or its folder",
    ),
}  # fmt: skip


def load_suite(spec: str, **options: Any) -> Suite:
    """The suite that `NAME` or `NAME:PATH` names.

    options: n, language, split and whatever else the suite's class takes; one that is None counts
    as not given. Raises InputError for a name that there is not (with the nearest one), a path that
    is missing or not wanted, and an option that the suite does not have.
    """
    name, colon, path = spec.partition(":")
    if name not in SUITES:
        guess = nearest(name, SUITES)
        raise InputError(
            f"There is no suite {name!r}.",
            f"Did you mean {guess!r}?" if guess else f"Suites: {', '.join(SUITES)}.",
        )
    entry = SUITES[name]
    if entry.files and not path:
        raise InputError(
            f"The suite {name} is read from files.",
            f"Say where they are, as --suite {name}:PATH; PATH is {entry.files}.",
        )
    if colon and not entry.files:
        raise InputError(
            f"The suite {name} is made here and reads no file.", f"Write --suite {name}."
        )
    kind = getattr(importlib.import_module(entry.module), entry.kind)
    given = {key: value for key, value in options.items() if value is not None}
    if unknown := [key for key in given if key not in accepted(kind)]:
        raise InputError(
            f"The suite {name} has no option `{unknown[0]}`.",
            f"It takes {', '.join(sorted(accepted(kind)))}.",
        )
    arguments = [path] if entry.files else []
    suite = kind(*arguments, **(entry.options | given))
    suite.loaded = {
        "spec": spec,
        "options": given,
    }  # for config.json, so that it can be loaded again
    return suite


def from_files(spec: str) -> bool:
    """Whether a spec's suite is a benchmark that is read from files."""
    entry = SUITES.get(spec.partition(":")[0])
    return entry is not None and entry.files is not None


def accepted(kind: type) -> set[str]:
    """The keyword options of a suite's class, those of the classes above it that take them included."""
    names: set[str] = set()
    for cls in kind.__mro__:
        if "__init__" not in vars(cls) or cls is object:
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        names |= {
            p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # what it does not pass on, the classes above do not get
    return names


def load_again(config: dict) -> Suite:
    """The suite of a results folder, by its config.json; InputError where it does not say which."""
    loaded = config["suite"].get("loaded")
    if not isinstance(loaded, dict) or not isinstance(loaded.get("options"), dict):
        raise InputError(
            f"The results do not say how the suite {config['suite']['name']} was loaded.",
            "Load the suite and call labs.suites.runner.rescore.",
        )
    return load_suite(str(loaded.get("spec")), **loaded["options"])
