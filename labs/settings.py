"""Settings: one typed dataclass, filled from a YAML file and from `key=value` on the command line.

YAML 1.1, which PyYAML reads, takes `1e-4` for a *string* (it wants `1.0e-4`); a learning rate that is
silently a string is a classic. So is `mixed_precision: no`, which it takes for false. The loader here
reads numbers as numbers, and only true and false as booleans, as YAML 1.2 does. Types are checked
strictly by pydantic: `"8"` is no integer, `1` is no boolean; `1` is a fine float.
"""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from labs.errors import InputError

T = TypeVar("T")
Lines = dict[tuple[str, ...], int]  # key path -> line in the file, counted from 1


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats and booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
            |[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_yaml(path: str | Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file and the line on which each of its keys stands.

    Raises InputError where the file is missing, is no YAML, is no mapping, or names a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a YAML text file.") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path} holds no mapping of keys to values.", "Write `key: value`.")
        lines = dict(_key_lines(node, path))
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(
            f"{where} is not valid YAML: {getattr(error, 'problem', error)}.", "Mend that line."
        ) from None
    finally:
        loader.dispose()


def _key_lines(node: yaml.MappingNode, path: Path, prefix: tuple[str, ...] = ()):
    seen = set()
    for key, value in node.value:
        place = (*prefix, str(key.value))
        line = key.start_mark.line + 1
        if place in seen:
            raise InputError(f"{path}:{line} sets `{'.'.join(place)}` twice.", "Keep one of them.")
        seen.add(place)
        yield place, line
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, path, place)


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`["learning_rate=1e-4", "lora.r=8"]` as a nested mapping; values are read as YAML."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"`{argument}` on the command line is no setting.",
                "Write settings as key=value, for example learning_rate=1e-4.",
            )
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            value = text
        *parents, last = key.strip().split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(
                    f"`{argument}` sets a part of `{parent}`, which was given a value as a whole.",
                    "Give one or the other.",
                )
        place[last] = value
    return values


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, key by key in nested mappings."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value
    return merged


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like `name`, if any does."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def fill(
    cls: type[T],
    values: Mapping[str, Any],
    where: str = "the settings",
    lines: Lines | None = None,
    prefix: tuple[str, ...] = (),
) -> T:
    """An instance of the dataclass `cls` with these values; nested dataclasses from nested mappings.

    `where` names the source in errors (a file, "the command line"), `lines` its keys' lines, and
    `prefix` the keys under which `values` lie in it.
    Raises InputError naming the key and the nearest valid name (unknown key) or the type wanted.
    """
    lines = lines or {}

    def at(path: tuple[str, ...]) -> str:
        # The innermost key of the path that has a line: list items and overrides have none.
        for end in range(len(path), 0, -1):
            if path[:end] in lines:
                return f"{where}:{lines[path[:end]]}"
        return where

    _check_keys(cls, values, at, prefix)
    try:
        # JSON mode: strict about scalars, and a list may fill a tuple, as YAML has only lists.
        text = json.dumps(values, default=str)
        return pydantic.TypeAdapter(cls).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = (*prefix, *(str(part) for part in first["loc"]))
        # Union branches add their own name to the location; the key is what the file knows.
        known = [part for part in path if re.fullmatch(r"[A-Za-z0-9_.\-]+", part)]
        key = ".".join(known) or "a value"
        if first["type"] == "missing":
            raise InputError(f"{at(prefix)}: `{key}` is missing.", f"Add `{key}`.") from None
        got = first.get("input")
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{at(path)}: `{key}` cannot be {got!r} (a {type(got).__name__}).",
            f"{message}." if not message.endswith(".") else message,
        ) from None


def _check_keys(cls: type, values: Mapping[str, Any], at, path: tuple[str, ...]) -> None:
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        here = (*path, str(key))
        if key not in fields:
            guess = nearest(str(key), fields)
            raise InputError(
                f"{at(here)}: unknown key `{'.'.join(here)}`.",
                f"Did you mean `{guess}`?" if guess else f"Valid keys: {', '.join(fields)}.",
            )
        nested = _dataclass_in(hints[key])
        if nested and isinstance(value, Mapping):
            _check_keys(nested, value, at, here)


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass in `hint`: itself, or the one in `X | None`."""
    if dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)]
        return found[0] if found else None
    return None


def load(cls: type[T], path: str | Path | None = None, overrides: Iterable[str] = ()) -> T:
    """`cls` from a YAML file (if any) with `key=value` overrides on top."""
    values, lines = read_yaml(path) if path is not None else ({}, {})
    over = parse_overrides(overrides)
    if over:  # checked alone first, so that an error names the command line and not the file
        _check_keys(cls, over, lambda _: "command line", ())
    return fill(cls, merge(values, over), str(path or "command line"), lines)
