"""Items to rate: scenes with captions by models that are better or worse by rule."""

import json
import random
from pathlib import Path

from labs.shapes import caption
from labs.suites.rating import Item, Key, read_key, simulated_votes, write_sheets
from tests.suites.judge_world import scenes, with_ghost, wrong_colour

MODELS = ("tiny-base", "model-x")


def items(n: int = 12, models=MODELS, seed: int = 0, language: str = "en") -> list[Item]:
    """The first model is right about most pictures, the others each about fewer; no two say the same."""
    rng = random.Random(seed)
    made = []
    for record in scenes(n, language):
        scene = record["meta"]["scene"]
        said = {}
        for number, model in enumerate(models):
            good = rng.random() < 0.9 - 0.3 * number
            text = caption(scene, language) if good else with_ghost(scene, language)
            if text in said.values():
                text = wrong_colour(scene, language)
            said[model] = text if text not in said.values() else f"{text} {number}"
        question = record["meta"]["turns"][0].question
        made.append(
            Item(record["id"], question, said, (record["image"],), caption(scene, language))
        )
    return made


def sheets(folder: Path, made=None, **options):
    """Sheets written to `folder`, and their key read back."""
    written = write_sheets(folder, made or items(), **({"n": 6, "raters": 2} | options))
    return written, read_key(written.key)


def sent_back(folder: Path, key: Key, truth, **options) -> list[Path]:
    """Files of votes of simulated raters, one a sheet. options: of `simulated_votes`, or by rater."""
    paths = []
    for number, sheet in enumerate(key.sheets):
        own = {k: v[number] if isinstance(v, list) else v for k, v in options.items()}
        path = folder / f"votes-{number + 1}.json"
        path.write_text(json.dumps(simulated_votes(key, sheet, truth, **own)), encoding="utf-8")
        paths.append(path)
    return paths
