"""Cut texts out of a solutions module: stubs, shown answers, and answers that stand alone.

An answer lies between the lines `# --- answer` and `# --- end`; without markers it is the whole
body after the docstring. A top-level helper or constant that it uses is given to the learner.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from labs.grading.exercise import Exercise, GraderError

BEGIN, END = "# --- answer", "# --- end"
REGISTRATIONS = ("alternative", "mistake", "again")


class SourceFile:
    """A parsed solutions module."""

    def __init__(self, path: Path):
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text, filename=str(path))
        self.imports = [n for n in self.tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        self.order = {id(node): i for i, node in enumerate(self.tree.body)}

    def node(self, answer: Callable) -> ast.FunctionDef | ast.ClassDef:
        """The definition of `answer` (by its line where one name is defined more than once)."""
        found = [n for n in self.tree.body if getattr(n, "name", None) == answer.__name__]
        code = getattr(answer, "__code__", None)
        if code is not None and len(found) > 1:
            found = [n for n in found if _first_line(n) == code.co_firstlineno]
        if not found:
            raise GraderError(f"{answer.__name__} is not defined at the top level of {self.path}.")
        return found[-1]

    def code(self, node: ast.stmt) -> str:
        """The text of a definition, without the decorators that only register it."""
        start = node.lineno if is_ours(node) else _first_line(node)
        return "\n".join(self.lines[start - 1 : node.end_lineno])

    def needed(self, nodes: Iterable[ast.stmt]) -> list[ast.stmt]:
        """Top-level helpers, constants and other references that `nodes` use, in file order."""
        wanted, queue, given = {}, list(nodes), {id(n) for n in nodes}
        while queue:
            names = _names(queue.pop())
            for node in self.tree.body:
                if id(node) in given or id(node) in wanted or not (_binds(node) & names):
                    continue
                wanted[id(node)] = node
                queue.append(node)
        return sorted(wanted.values(), key=lambda n: self.order[id(n)])

    def import_lines(self, text: str) -> list[str]:
        """The module's imports (never of labs) that `text` uses, one statement a line.

        An empty line parts the standard library from the rest, as it does in the module.
        """
        names, lines, last = _names(ast.parse(text)), [], None
        for node in self.imports:
            if isinstance(node, ast.ImportFrom):
                if (node.module or "").split(".")[0] in ("labs", "solutions"):
                    continue
                kept = [a for a in node.names if (a.asname or a.name) in names]
                if node.module == "__future__":
                    kept = node.names
            else:
                kept = [a for a in node.names if (a.asname or a.name).split(".")[0] in names]
            if kept:
                if last is not None and _section(node) != last:
                    lines.append("")
                last = _section(node)
                lines.append(ast.unparse(type(node)(**{**vars(node), "names": kept})))
        return lines


@cache
def source_file(path: Path) -> SourceFile:
    return SourceFile(path)


def of_module(module: ModuleType) -> SourceFile:
    return source_file(Path(module.__file__))


def of_answer(answer: Callable) -> SourceFile:
    return source_file(Path(inspect.getsourcefile(answer)))


def statement(exercise: Exercise) -> str:
    """The statement as Markdown; a debug exercise's log and list of diagnoses are appended."""
    text = inspect.cleandoc(exercise.answer.__doc__)
    if exercise.kind == "debug":
        listed = "\n".join(f'- `"{key}"`: {says}' for key, says in exercise.diagnoses.items())
        log = textwrap.dedent(exercise.log).strip()
        text += f"\n\nThe log:\n\n```text\n{log}\n```\n\nThe diagnosis is one of:\n\n{listed}"
    return text


def stub(exercise: Exercise) -> str:
    """The definition with the answer replaced by NotImplementedError."""
    file = of_answer(exercise.answer)
    node = file.node(exercise.answer)
    lines = file.code(node).splitlines()
    raising = f'raise NotImplementedError("{exercise.name}: not started")'
    if any(line.strip() == BEGIN for line in lines):
        kept, inside = [], False
        for line in lines:
            if line.strip() == BEGIN:
                inside = True
                kept.append(line[: len(line) - len(line.lstrip())] + raising)
            elif line.strip() == END:
                inside = False
            elif not inside:
                kept.append(line)
        text = "\n".join(kept)
    elif isinstance(node, ast.ClassDef):
        raise GraderError(f"{exercise.name}: a class needs {BEGIN} and {END} in each method.")
    else:
        text = "\n".join([*file.lines[node.lineno - 1 : node.body[0].end_lineno], f"    {raising}"])
    if exercise.kind == "debug":
        text = _with_statement(text, statement(exercise))
    return text


def shown_answer(exercise: Exercise) -> str:
    """The definition without docstring and markers, as the page shows it."""
    file = of_answer(exercise.answer)
    node = file.node(exercise.answer)
    doc = node.body[0]
    keep = [
        line
        for number, line in enumerate(file.lines[node.lineno - 1 : node.end_lineno], node.lineno)
        if not doc.lineno <= number <= doc.end_lineno and line.strip() not in (BEGIN, END)
    ]
    return "\n".join(keep).rstrip()


def model_answer(exercise: Exercise) -> str:
    """The comment lines between the markers of an explain exercise, as Markdown."""
    file = of_answer(exercise.answer)
    # Comments after the last statement belong to no node: read on from the definition.
    rest = "\n".join(file.lines[file.node(exercise.answer).lineno :])
    if BEGIN not in rest or END not in rest:
        raise GraderError(f"{exercise.name}: the model answer lies between {BEGIN} and {END}.")
    inside = rest.split(BEGIN, 1)[1].split(END, 1)[0].strip("\n")
    lines = textwrap.dedent(inside).strip().splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def standalone(answer: Callable, *others: Callable) -> str:
    """A module's text that holds `answer` (and others) with the imports and helpers they need."""
    file = of_answer(answer)
    nodes = [file.node(other) for other in (*others, answer)]
    needed = [n for n in file.needed(nodes) if all(n is not own for own in nodes)]
    text = "\n\n\n".join(file.code(node) for node in [*needed, *nodes])
    return "\n".join([*file.import_lines(text), "", "", text, ""])


def is_ours(node: ast.stmt) -> bool:
    """Whether a top-level definition is an exercise, another answer or a mistake."""
    for decorator in getattr(node, "decorator_list", ()):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr in REGISTRATIONS:
            return True
        if isinstance(called, ast.Name) and called.id == "exercise":
            return True
    return False


def _with_statement(text: str, words: str) -> str:
    doc = ast.parse(text).body[0].body[0]
    lines = text.splitlines()
    words = textwrap.indent(words, "    ").strip()
    lines[doc.lineno - 1 : doc.end_lineno] = f'    r"""{words}\n    """'.splitlines()
    return "\n".join(lines)


def _section(node: ast.Import | ast.ImportFrom) -> str:
    name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    top = name.split(".")[0]
    if top == "__future__":
        return top
    return "standard" if top in sys.stdlib_module_names else "other"


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def _binds(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}


def _names(node: ast.AST) -> set[str]:
    # The decorators that register an answer are dropped with it, so their names are not needed.
    skipped = {id(n) for d in node.decorator_list for n in ast.walk(d)} if is_ours(node) else set()
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in skipped}
    return found - set(dir(builtins))
