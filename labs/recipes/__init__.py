"""Recipes: one YAML file for each training stage of each system, with published settings.

    name: llava_v1.5_sft                  # the file's name without .yaml
    stage: sft                            # contrastive | fused | align | sft
    description: one line
    sources: [repository path @ commit, arXiv number, ...]
    unverified: [each value that was not read in a source, and why]
    differences: [what the published run does and this one does not]
    model:
      name: llava-hf/llava-1.5-7b-hf      # zoo name, local folder or hub id, or instead of it
      build: tiny_llava                   #   tiny_llava | tiny_lm | tiny_clip | tiny_blip with random weights
      assemble: {language_model: ..., vision_tower: ...}   # or a LLaVA put together from two models
      kind: vlm                           # vlm | lm | clip | blip: how `name` is loaded
      seed: 0                             # of `build` and of a new connector
      parts: {language_model: tiny-lm, vision_tower: tiny-clip}   # then weights by part from others
      dtype: float32
    data:                                 # and eval_data, the same or absent
      path: conversations.json            # LLaVA JSON or JSONL, or instead of it
      image_root: images
      world: {length: 20000, split: train, seed: 0, mix: {turns: 6, chinese: 0.25}}   # shapes
                                          # lessons: [{length: 6400, mix: {...}}] come before mix
      max_length: 2048
      overlong: skip                      # skip | truncate | error
    train: {learning_rate: 1e-3, ...}     # any field of labs.train.TrainConfig
    needs: {gpus: 8, gpu_memory_gb: 40, disk_gb: 50, packages: [bitsandbytes]}
    tiny: {train: {...}}                  # what --tiny changes beyond the usual (see tiny())

In `world`, `mix` holds fields of `labs.shapes.Mix`. Recipes are found by name among those that ship
here, or by path.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from labs.errors import InputError
from labs.settings import fill, merge, nearest, parse_overrides, read_yaml
from labs.train.config import TrainConfig

FOLDER = Path(__file__).parent


@dataclass
class ModelSpec:
    """Where the model comes from: exactly one of `name`, `build`, `assemble`."""

    name: str | None = None
    build: Literal["tiny_llava", "tiny_lm", "tiny_clip", "tiny_blip"] | None = None
    assemble: dict[str, str] | None = None
    kind: Literal["vlm", "lm", "clip", "blip"] = "vlm"
    seed: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: str | None = None
    only_tiny: str | None = None  # why the full-size model cannot be loaded here, where it cannot

    def __post_init__(self):
        if sum(x is not None for x in (self.name, self.build, self.assemble)) != 1:
            raise ValueError("give exactly one of name, build and assemble")


@dataclass
class Lesson:
    """The first `length` conversations of a stream, of a mix of their own."""

    length: int
    mix: dict[str, Any] = field(default_factory=dict)


@dataclass
class WorldSpec:
    """A stretch of the offline world's stream.

    `lessons` come first, in order; `length` counts them too. Set `train.shuffle: false` with them.
    """

    length: int = 10_000
    lessons: list[Lesson] = field(default_factory=list)
    split: Literal["train", "val", "test"] = "train"
    seed: int = 0
    mix: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSpec:
    """Where the samples come from: `path` or `world`."""

    path: str | None = None
    image_root: str | None = None
    world: WorldSpec | None = None
    max_length: int | None = None
    overlong: Literal["skip", "truncate", "error"] = "skip"
    allow_skips: bool = False

    def __post_init__(self):
        if (self.path is None) == (self.world is None):
            raise ValueError("give either path or world")


@dataclass
class Needs:
    """What the recipe needs of a machine, for `labs env`."""

    gpus: int = 0
    gpu_memory_gb: float = 0
    disk_gb: float = 1
    packages: list[str] = field(default_factory=list)


@dataclass
class Recipe:
    """One training stage of one system."""

    name: str
    stage: Literal["contrastive", "fused", "align", "sft"]
    description: str
    model: ModelSpec
    data: DataSpec
    train: TrainConfig = field(default_factory=TrainConfig)
    eval_data: DataSpec | None = None
    needs: Needs = field(default_factory=Needs)
    sources: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    tiny: dict[str, Any] = field(default_factory=dict)


def recipe_names() -> list[str]:
    """Names of the recipes that ship here."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name_or_path: str | Path) -> Path:
    """The file of a recipe; raises InputError with the nearest name where there is none."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path  # read_yaml says so where it is missing
    shipped = FOLDER / f"{name_or_path}.yaml"
    if not shipped.is_file():
        guess = nearest(str(name_or_path), recipe_names())
        raise InputError(
            f"There is no recipe `{name_or_path}`.",
            f"Did you mean `{guess}`?" if guess else "See `labs train --list`, or give a path.",
        )
    return shipped


def load(name_or_path: str | Path, overrides: list[str] | tuple = (), tiny: bool = False) -> Recipe:
    """A recipe by name or path, with `key=value` overrides of its `train` settings.

    An override whose first part names a recipe section (`data.path=...`, `model.name=...`)
    changes that section. `tiny=True` gives the recipe's tiny form; overrides come last.
    Raises InputError naming file, line, key and the nearest valid key.
    """
    path = find(name_or_path)
    values, lines = read_yaml(path)
    values.setdefault("name", path.stem)
    recipe = fill(Recipe, values, str(path), lines)
    if tiny:
        values = merge(_plain(recipe), tiny_changes(recipe))
        values = merge(values, recipe.tiny)
        recipe = fill(Recipe, values, f"{path} (--tiny)")
    given = parse_overrides(overrides)
    if given:
        sections = {k: given.pop(k) for k in ("model", "data", "eval_data", "train") if k in given}
        changes = merge({"train": given} if given else {}, sections)
        fill(TrainConfig, changes.get("train", {}), "command line")  # names the key as typed
        values = _plain(recipe)
        if {"name", "build", "assemble"} & set(changes.get("model", {})):
            values["model"] |= {"name": None, "build": None, "assemble": None, "only_tiny": None}
        for section in ("data", "eval_data"):
            for given_one, other in (("path", "world"), ("world", "path")):
                if given_one in changes.get(section, {}):
                    values[section] = {**(values[section] or {}), other: None}
        recipe = fill(Recipe, merge(values, changes), "command line")
    return recipe


def _plain(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe)


def tiny_changes(recipe: Recipe) -> dict[str, Any]:
    """What --tiny does to every recipe: the tiny model, shapes for data, three short steps.

    Learning rates, schedule, freezing, method and accumulation in more than one micro-batch stay:
    they are what the recipe is about.
    """
    kind = {"contrastive": "clip", "fused": "blip"}.get(recipe.stage, recipe.model.kind)
    build = {"clip": "tiny_clip", "blip": "tiny_blip", "lm": "tiny_lm", "vlm": "tiny_llava"}[kind]
    text_only = {"described": 1.0, "digits": 0.0} if kind == "lm" else {}
    mix = recipe.data.world.mix if recipe.data.world else {}
    world = {"length": 24, "split": "train", "seed": 0, "mix": {"turns": 2, **mix, **text_only}}
    data = {"path": None, "image_root": None, "world": world, "max_length": None}
    train = recipe.train
    return {
        "model": {
            "name": None,
            "build": build,
            "assemble": None,
            "parts": {},
            "dtype": "float32",
            "attn_implementation": None,
            "only_tiny": None,
        },
        "data": data,
        "eval_data": {**data, "world": {**world, "length": 4, "split": "val"}},
        "train": {
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "gradient_accumulation_steps": min(train.gradient_accumulation_steps, 2),
            "dataloader_num_workers": 0,
            "group_by_length": False,
            "logging_steps": 1,
            "warmup_steps": 1 if (train.warmup_ratio or train.warmup_steps) else 0,
            "eval_steps": 3,
            "save_steps": None,
            "mixed_precision": "no",
            "torch_compile": False,
        },
    }
