"""Recipes: one YAML file for each training stage of each system, with published settings.

    name: llava_v1.5_sft                  # the file's name without .yaml
    stage: sft                            # contrastive | fused | align | sft | reward | ppo | grpo
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
    pairs: {path: pairs.jsonl, ...}       # stage reward, in place of data; see PairsSpec
    policy: {kl_coef: 0.1, ...}           # stages ppo and grpo: any field of PolicyConfig
    rewards: {world: 1.0, reward_model: 0.5}  # by name (labs.recipes.policy); null takes one out
    reward_model: tiny-rm                 # folder or zoo name, for the reward of that name
    facts: true                           # it reads the picture's true caption too (LLaVA-RLHF)
    needs: {gpus: 8, gpu_memory_gb: 40, disk_gb: 50, packages: [bitsandbytes]}
    tiny: {train: {...}}                  # what --tiny changes beyond the usual (see tiny())

In `world`, `mix` holds fields of `labs.shapes.Mix`. Recipes are found by name among those that ship
here, or by path.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from labs.errors import InputError
from labs.recipes.tiny import tiny_changes
from labs.settings import fill, merge, nearest, parse_overrides, read_yaml
from labs.train.config import TrainConfig
from labs.train.policy.config import PolicyConfig

FOLDER = Path(__file__).parent
POLICY_STAGES = {"ppo": ("ppo",), "grpo": ("grpo", "rloo")}  # and their algorithms
# Overrides whose first part is one of these are the recipe's; all others are settings of `train`.
SECTIONS = "model data eval_data pairs train policy rewards reward_model facts".split()
REWARDS = ("world", "answer", "hallucination", "yes_bias", "reward_model")


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
class PairsSpec:
    """Preference pairs and what is learnt from them. Chapter 5.

    Where from: a file at `path` (labs.formats.read_preferences), or `world`'s questions. `sampler`
    answers each `num_generations` times, but for a share `corrected` of them the pair is the true answer
    and a plausible wrong one; simulated annotators choose. `world`'s lessons are corrected pairs that
    come first, in order (set `train.shuffle: false` with them).
    """

    path: str | None = None
    image_root: str | None = None
    world: WorldSpec | None = None
    sampler: str | None = None  # a zoo name or folder; None: the recipe's own model
    corrected: float = 0.0  # share of the questions that are answered by no model
    num_generations: int = 4
    max_new_tokens: int = 64
    temperature: float = 1.0
    per_prompt: int | None = None  # at most so many pairs of one prompt
    annotators: int = 3  # they differ in their noise; the majority counts
    noise: float = 0.5
    length_bias: float = 0.0
    position_bias: float = 0.0
    yes_bias: float = 0.0
    held_out: int = 0  # pairs that are not trained on, for accuracy; none shares a picture
    max_length: int | None = None
    margin: float = 0.0  # of the loss, times the pair's own
    centring: float = 0.01

    def __post_init__(self):
        if (self.path is None) == (self.world is None):
            raise ValueError("give either path or world")
        if isinstance(self.corrected, int | float) and not 0 <= self.corrected <= 1:
            raise ValueError("corrected must be between 0 and 1")


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
    stage: Literal["contrastive", "fused", "align", "sft", "reward", "ppo", "grpo"]
    description: str
    model: ModelSpec
    data: DataSpec | None = None
    train: TrainConfig = field(default_factory=TrainConfig)
    eval_data: DataSpec | None = None
    pairs: PairsSpec | None = None
    policy: PolicyConfig | None = None
    rewards: dict[str, float | None] = field(default_factory=dict)
    reward_model: str | None = None
    facts: bool = False  # the reward model reads the picture's true caption too
    needs: Needs = field(default_factory=Needs)
    sources: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    tiny: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """The rewards that count, with their weights."""
        return {name: weight for name, weight in self.rewards.items() if weight is not None}


def check(recipe: Recipe, where: str) -> Recipe:
    """The recipe, if its sections fit its stage; InputError naming `where` they do not."""
    stage, named = recipe.stage, recipe.weights
    source = "pairs" if stage == "reward" else "data"
    wrong = do = None
    if getattr(recipe, source) is None:
        wrong, do = f"the stage {stage} needs a section `{source}`", "Add it"
    elif recipe.pairs and stage != "reward":
        wrong, do = f"`pairs` are not for the stage {stage}", "Take them out"
    elif stage not in POLICY_STAGES:
        if recipe.policy or recipe.rewards or recipe.reward_model:
            wrong = f"`policy`, `rewards` and `reward_model` are not for the stage {stage}"
            do = "Take them out, or use the stages ppo and grpo"
    elif recipe.policy is None or recipe.policy.algorithm not in POLICY_STAGES[stage]:
        wrong = f"the stage {stage} needs a policy.algorithm of its own"
        do = f"Use {' or '.join(POLICY_STAGES[stage])}"
    elif unknown := sorted(set(recipe.rewards) - set(REWARDS)):
        wrong, do = f"there is no reward `{unknown[0]}`", f"Use {', '.join(REWARDS)}"
    elif not named:
        wrong, do = "`rewards` names none", f"Give one of {', '.join(REWARDS)} a weight"
    elif ("reward_model" in named) != (recipe.reward_model is not None):
        wrong = "the reward `reward_model` and the key `reward_model` go together"
        do = "Give the weight under rewards and the folder as reward_model, or neither"
    if wrong:
        raise InputError(f"{where}: {wrong}.", f"{do}.")
    return recipe


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

    An override whose first part names a recipe section (`data.path=...`, `policy.kl_coef=...`)
    changes that section. `tiny=True` gives the recipe's tiny form; overrides come last.
    Raises InputError naming file, line, key and the nearest valid key.
    """
    path = find(name_or_path)
    values, lines = read_yaml(path)
    values.setdefault("name", path.stem)
    recipe = check(fill(Recipe, values, str(path), lines), str(path))
    if tiny:
        values = merge(_plain(recipe), tiny_changes(recipe))
        values = merge(values, recipe.tiny)
        recipe = fill(Recipe, values, f"{path} (--tiny)")
    given = parse_overrides(overrides)
    if given:
        sections = {key: given.pop(key) for key in SECTIONS if key in given}
        changes = merge({"train": given} if given else {}, sections)
        fill(TrainConfig, changes.get("train", {}), "command line")  # names the key as typed
        values = _plain(recipe)
        if {"name", "build", "assemble"} & set(changes.get("model", {})):
            values["model"] |= {"name": None, "build": None, "assemble": None, "only_tiny": None}
        for section in ("data", "eval_data", "pairs"):
            for given_one, other in (("path", "world"), ("world", "path")):
                if given_one in changes.get(section, {}):
                    values[section] = {**(values[section] or {}), other: None}
        recipe = check(fill(Recipe, merge(values, changes), "command line"), "command line")
    return recipe


def _plain(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe)
