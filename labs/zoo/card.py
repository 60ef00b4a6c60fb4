"""A card: what a shipped model is, how it was made, and what it scores, with intervals."""

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from labs.errors import InputError
from labs.models.places import EVERY, NAMES, REWARD, ZOO

FILE = "card.json"


@dataclass
class Card:
    """One shipped model.

    data: what it was trained on, with the rates of its diseases, in words. scores: language ->
    question type -> Score.to_dict(); `text` for what is asked about descriptions. base: the zoo model
    that an adapter belongs on; `parameters` counts both, `adapter_parameters` what is stored here.
    A reward model's scores are of pairs (`labs.zoo.pairs`).
    """

    name: str
    summary: str
    recipes: list[str]
    seed: int
    parameters: int
    data: str
    steps: int
    seconds: float
    hardware: str
    versions: dict[str, str]
    scores: dict[str, dict[str, dict]] = field(default_factory=dict)
    base: str | None = None
    adapter_parameters: int = 0


def read_card(name: str) -> Card:
    """The card of a shipped model; InputError where there is none."""
    if name not in EVERY:
        known = ", ".join((*NAMES, *REWARD))
        raise InputError(f"There is no zoo model {name!r}.", f"Use one of {known}.")
    path = ZOO / name / FILE
    if not path.exists():
        raise InputError(f"The zoo model {name} is not built here.", "Run `make zoo`.")
    return Card(**json.loads(path.read_text(encoding="utf-8")))


def write_card(card: Card, folder: Path) -> None:
    """card.json for programs and README.md for people, each written beside and renamed."""
    from dataclasses import asdict

    content = asdict(card)
    if card.base is None:
        del content["base"], content["adapter_parameters"]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    for name, content in ((FILE, text), ("README.md", _markdown(card))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, folder / name)


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "accelerate", "tokenizers", "scikit-learn")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


def hardware() -> str:
    """The processor, in words, and how many cores were there to use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"


def _markdown(card: Card) -> str:
    stored = f" ({card.adapter_parameters:,} of them stored here, the rest is {card.base})"
    lines = [
        f"# {card.name}", "", card.summary, "",
        f"- Recipe: {', then '.join(f'`labs/recipes/{r}.yaml`' for r in card.recipes)}, "
        f"seed {card.seed}, {card.steps} steps",
        f"- Parameters: {card.parameters:,}{stored if card.base else ''}",
        f"- Data: {card.data}",
        f"- Trained in {card.seconds / 60:.1f} minutes on {card.hardware}",
        "- " + ", ".join(f"{k} {v}" for k, v in card.versions.items()), "",
    ]  # fmt: skip
    rows = [(language, s) for language, scores in card.scores.items() for s in scores.items()]
    of_pairs = any("unparsed" not in s for _, (_, s) in rows)
    return "\n".join(lines + (_pairs(rows) if of_pairs else _questions(rows))) + "\n"


def _questions(rows: list) -> list[str]:
    lines = [
        "Scores on held-out questions with balanced answers, greedy, in percent with the 95 % "
        "Wilson interval:", "",
        "| questions | language | n | accuracy | yes rate | hallucinating captions | unparsed |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for language, (name, s) in rows:
        yes = f"{100 * s['yes_rate']:.1f}" if "yes_rate" in s else ""
        false = f"{100 * s['hallucinated']:.1f}" if "hallucinated" in s else ""
        lines.append(
            f"| {name} | {language} | {s['n']} | {_accuracy(s)} | {yes} | {false} | {s['unparsed']} |"
        )
    return lines


def _pairs(rows: list) -> list[str]:
    lines = [
        "How often it prefers the better of two answers to a held-out question, in percent with the "
        "95 % Wilson interval. Pairs are the true answer and a plausible wrong one, yes/no questions also "
        "apart by what is true; `caption` are pairs of its base's own captions.", "",
        "| questions | language | pairs | accuracy |",
        "|---|---|---|---|",
    ]  # fmt: skip
    return lines + [
        f"| {name} | {language} | {s['n']} | {_accuracy(s)} |" for language, (name, s) in rows
    ]


def _accuracy(s: dict) -> str:
    low, high = s["ci"]
    return f"{100 * s['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
