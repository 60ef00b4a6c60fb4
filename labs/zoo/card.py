"""A card: what a shipped model is, how it was made, and what it scores, with intervals."""

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from labs.errors import InputError
from labs.models.places import NAMES, ZOO

FILE = "card.json"


@dataclass
class Card:
    """One shipped model.

    data: what it was trained on, with the rates of its diseases, in words. scores: language ->
    question type -> Score.to_dict(); `text` for what is asked about descriptions.
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


def read_card(name: str) -> Card:
    """The card of a shipped model; InputError where there is none."""
    if name not in NAMES:
        raise InputError(f"There is no zoo model {name!r}.", f"Use one of {', '.join(NAMES)}.")
    path = ZOO / name / FILE
    if not path.exists():
        raise InputError(f"The zoo model {name} is not built here.", "Run `make zoo`.")
    return Card(**json.loads(path.read_text(encoding="utf-8")))


def write_card(card: Card, folder: Path) -> None:
    """card.json for programs and README.md for people, each written beside and renamed."""
    from dataclasses import asdict

    text = json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n"
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
    lines = [
        f"# {card.name}", "", card.summary, "",
        f"- Recipe: {', then '.join(f'`labs/recipes/{r}.yaml`' for r in card.recipes)}, "
        f"seed {card.seed}, {card.steps} steps",
        f"- Parameters: {card.parameters:,}",
        f"- Data: {card.data}",
        f"- Trained in {card.seconds / 60:.1f} minutes on {card.hardware}",
        "- " + ", ".join(f"{k} {v}" for k, v in card.versions.items()), "",
        "Scores on held-out questions with balanced answers, greedy, in percent with the 95 % "
        "Wilson interval:", "",
        "| questions | language | n | accuracy | yes rate | hallucinating captions | unparsed |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for language, scores in card.scores.items():
        for name, s in scores.items():
            low, high = s["ci"]
            yes = f"{100 * s['yes_rate']:.1f}" if "yes_rate" in s else ""
            false = f"{100 * s['hallucinated']:.1f}" if "hallucinated" in s else ""
            lines.append(
                f"| {name} | {language} | {s['n']} | {100 * s['accuracy']:.1f} "
                f"({100 * low:.1f} to {100 * high:.1f}) | {yes} | {false} | {s['unparsed']} |"
            )
    return "\n".join(lines) + "\n"
