"""Kind fences around a learner's code: imports that hold the answer, and writes by accident.

They stop mistakes, not attackers: a learner who wants to cheat has the answers in `solutions/`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

OURS = ("labs", "solutions", "chapters")
CHANGES_FILES = {
    "os.remove": 1,
    "os.rename": 2,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
    "shutil.rmtree": 1,
    "shutil.move": 2,
}


class Refused(ImportError):
    """An import that would bring the answer with it."""


class OutsideWrite(PermissionError):
    """A write outside the temporary folder."""


def refusal(name: str, forbid: tuple[str, ...]) -> str | None:
    """The sentence for an import of `name`, or None where it is allowed."""
    for module in (*OURS, *forbid):
        if name == module or name.startswith(module + "."):
            return (
                f"`{name}` already holds the answer, so this exercise is written without it: "
                f"take the import of `{module}` out of your file."
            )
    return None


def guard_imports(path: str, forbid: tuple[str, ...], text: str) -> None:
    """Refuse forbidden imports in the learner's file and in files beside it. Raises Refused."""
    folder = str(Path(path).parent)
    for node in ast.walk(ast.parse(text, filename=path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if sentence := refusal(name, forbid):
                error = Refused(sentence)
                error.lineno, error.text = node.lineno, text.splitlines()[node.lineno - 1].strip()
                raise error

    def by_learner(space: dict | None) -> bool:
        return bool(space) and str(space.get("__file__", "")).startswith(folder + os.sep)

    real_import, real_module = builtins.__import__, importlib.import_module

    def guarded_import(name, globals=None, locals=None, fromlist=(), level=0):
        space = sys._getframe(1).f_globals if globals is None else globals
        if level == 0 and by_learner(space) and (sentence := refusal(name, forbid)):
            raise Refused(sentence)
        return real_import(name, globals, locals, fromlist, level)

    def guarded_module(name, package=None):
        if by_learner(sys._getframe(1).f_globals) and (sentence := refusal(name, forbid)):
            raise Refused(sentence)
        return real_module(name, package)

    builtins.__import__, importlib.import_module = guarded_import, guarded_module


def guard_writes(folder: str) -> None:
    """Let this process change files only under `folder`. Cannot be undone: for a child only."""
    inside = os.path.realpath(folder)

    def check(path: object) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # an open file descriptor
        real = os.path.realpath(os.fsdecode(path))
        if real != inside and not real.startswith((inside + os.sep, "/dev/")):
            raise OutsideWrite(
                f"Your answer tried to change {real}, outside its temporary folder: "
                "an answer may write only into the current folder."
            )

    def hook(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (not mode and writing):
                check(path)
        elif event in CHANGES_FILES:
            for path in args[: CHANGES_FILES[event]]:
                check(path)

    _check_native_writers(check)
    sys.dont_write_bytecode = True
    os.chdir(inside)
    os.environ["TMPDIR"] = tempfile.tempdir = inside
    sys.addaudithook(hook)


def _check_native_writers(check: Callable[[object], None]) -> None:
    """PyTorch and safetensors open files below Python, where no audit event is raised."""
    import safetensors.torch
    import torch

    save, serialize = torch.save, safetensors.torch.serialize_file

    @functools.wraps(save)
    def checked_save(obj, f, *args, **kwargs):
        check(f)
        return save(obj, f, *args, **kwargs)

    def checked_serialize(tensors, path, *args, **kwargs):
        check(path)
        return serialize(tensors, path, *args, **kwargs)

    torch.save = torch.serialization.save = checked_save
    safetensors.torch.serialize_file = checked_serialize
