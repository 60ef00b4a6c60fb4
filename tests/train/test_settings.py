"""Settings: what YAML and the command line may say, and how they are corrected."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from labs.errors import InputError
from labs.settings import load, merge, parse_overrides, read_yaml


@dataclass
class Inner:
    depth: int = 1


@dataclass
class Outer:
    rate: float = 0.1
    steps: int = 10
    name: str = "a"
    on: bool = False
    kind: Literal["x", "y"] = "x"
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    sizes: tuple[int, ...] = ()
    by_part: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    "text,value",
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3", 3.0),
        ("1_000.5", 1000.5),
        (".inf", float("inf")),
    ],
)
def test_every_spelling_of_a_float_is_a_float(tmp_path, text, value):
    path = tmp_path / "s.yaml"
    path.write_text(f"rate: {text}\n")
    if text != ".inf":  # JSON has no infinity, and no setting here wants one
        assert load(Outer, path).rate == value
        assert load(Outer, None, [f"rate={text}"]).rate == value
    assert read_yaml(path)[0]["rate"] == value


def test_words_that_only_look_like_numbers_or_booleans_stay_words(tmp_path):
    for word in ("e5", "1e", "v1.5", "2024-01-01x", "e-4", "no", "on", "off", "yes", "y"):
        assert load(Outer, None, [f"name={word}"]).name == word


def test_file_and_command_line_fill_one_dataclass(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("rate: 2e-5\ninner: {depth: 4}\nsizes: [1, 2]\nby_part: {connector: 1e-3}\n")
    loaded = load(Outer, path, ["inner.depth=7", "on=true", "maybe.depth=2"])
    assert loaded == Outer(
        2e-5, on=True, inner=Inner(7), maybe=Inner(2), sizes=(1, 2), by_part={"connector": 1e-3}
    )


@pytest.mark.parametrize(
    "text,words",
    [
        ("rates: 1\n", r"s\.yaml:1: unknown key `rates`.*`rate`"),
        ("steps: 4\ninner:\n  dept: 3\n", r"s\.yaml:3: unknown key `inner\.dept`.*`depth`"),
        ("steps: 1.5\n", r"s\.yaml:1: `steps` cannot be 1\.5 \(a float\)"),
        ("rate: fast\n", r"s\.yaml:1: `rate` cannot be 'fast' \(a str\)"),
        ("on: 1\n", r"s\.yaml:1: `on`"),
        ("steps: true\n", r"s\.yaml:1: `steps`"),
        ("name: 3\n", r"s\.yaml:1: `name`"),
        ("kind: z\n", r"s\.yaml:1: `kind`.*'x' or 'y'"),
        ("\n\nby_part:\n  connector: high\n", r"s\.yaml:4: `by_part\.connector`"),
        ("sizes: [1, two]\n", r"s\.yaml:1: `sizes\.1`"),
        ("inner: 3\n", r"s\.yaml:1: `inner"),
    ],
)
def test_mistakes_name_file_line_key_and_remedy(tmp_path, text, words):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load(Outer, path)


def test_mistakes_on_the_command_line_name_it():
    for argument, words in [
        ("rats=1", "command line: unknown key `rats`.*rate"),
        ("steps=many", "command line: `steps` cannot be 'many'"),
        ("steps", "key=value"),
        ("=3", "key=value"),
    ]:
        with pytest.raises(InputError, match=words):
            load(Outer, None, [argument])
    with pytest.raises(InputError, match="as a whole"):
        parse_overrides(["inner=3", "inner.depth=2"])


def test_merge_goes_into_mappings_and_changes_neither():
    base, over = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}
    assert merge(base, over) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
