"""Tests that cannot fail, found by reading them: a test that proves nothing is worse than none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# Methods of Check that fail an answer; any name assert_… or assertX of other libraries counts too.
ASSERTING = {
    "cases",
    "equal",
    "holds",
    "cost",
    "number",
    "sampled",
    "diagnosis",
    "found",
    "raises",
    "fail",
    "warns",
}
TORCH_RANDOM = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
}
IN_PLACE_RANDOM = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}
SEEDING = {"manual_seed", "seed", "seed_everything", "set_seed"}
SOURCES = {"Generator", "default_rng", "Random", "RandomState"}


@dataclass(frozen=True)
class Vacuous:
    """A line of a test that proves nothing, and why."""

    path: Path
    line: int
    says: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.says}"


def vacuous(path: Path) -> list[Vacuous]:
    """Every way in which a test file can pass without proving anything.

    Reported: a bare comparison; an assertion that is always true; a test without an assertion;
    lines that never run, after one that raises or returns, inside `with raises` too; random
    numbers without a seed.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    asserting = _asserting_helpers(tree)
    found = [*_statements(tree), *_random(tree)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            if not _asserts(node, asserting):
                found.append((node.lineno, f"{node.name} has no assertion"))
    return [Vacuous(path, line, says) for line, says in sorted(found)]


def _statements(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare | ast.BoolOp):
            yield node.lineno, "a bare comparison: nothing looks at its result"
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant | ast.Tuple):
            if not (isinstance(node.test, ast.Constant) and not node.test.value):
                yield node.lineno, "an assertion that is always true"
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for before, after in pairwise(block):
                if isinstance(before, ast.Raise | ast.Return | ast.Continue | ast.Break):
                    yield after.lineno, "a line that never runs"
        if isinstance(node, ast.With) and _expects_error(node) and len(node.body) > 1:
            # The block ends at the first line that raises. Lines that only prepare belong above.
            yield node.body[1].lineno, "a second statement under `raises` may never run"


def _expects_error(node: ast.With) -> bool:
    calls = [item.context_expr for item in node.items]
    return any(_called(call) in ("raises", "assertRaises") for call in calls)


def _random(tree: ast.Module) -> Iterator[tuple[int, str]]:
    seeded_module = any(_seeds(node) for node in tree.body if not isinstance(node, ast.FunctionDef))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        seeded = seeded_module or any(_seeds(node) for node in ast.walk(function))
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (name := _unseeded(node, seeded)):
                yield node.lineno, f"{name} without a seed"


def _seeds(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        node = node.value
    return isinstance(node, ast.Call) and _called(node) in SEEDING and bool(node.args)


def _unseeded(node: ast.Call, seeded: bool) -> str | None:
    name, text = _called(node), ast.unparse(node.func)
    if name in SOURCES and not node.args and not node.keywords:
        # torch.Generator() takes its seed afterwards: .manual_seed(…) in the same function.
        return None if name == "Generator" and seeded else text
    if seeded or any(k.arg == "generator" for k in node.keywords):
        return None
    if text.startswith("torch.") and name in TORCH_RANDOM:
        return text
    if name in IN_PLACE_RANDOM and isinstance(node.func, ast.Attribute):
        return text
    # Exactly the module's functions: default_rng(3).random() is a seeded source's method.
    if text in (f"np.random.{name}", f"numpy.random.{name}") and name not in SOURCES:
        return text
    if text.startswith("random.") and name not in SOURCES:
        return text
    return None


def _asserting_helpers(tree: ast.AST) -> set[str]:
    """Functions of the file that assert themselves: calling one is an assertion."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    known: set[str] = set()
    while True:
        found = {f.name for f in functions if not f.name.startswith("test") and _asserts(f, known)}
        if found == known:
            return known
        known = found


def _asserts(function: ast.AST, helpers: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = _called(node)
            method = isinstance(node.func, ast.Attribute)
            if (method and name in ASSERTING) or name.startswith("assert") or name in helpers:
                return True
    return False


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""
