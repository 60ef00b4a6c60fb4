"""Synthetic data: what two models write, what the oracle says of it, what agreement finds; three seeds.

`tiny-base`, trained on true answers, and `tiny-sft`, whose data named absent objects, answer five
times at temperature 1. Kept is the first answer as it is, or what 3, 4 or all 5 say alike; the
oracle says how much of it is true. One thread: about five minutes.
"""

import functools
import json
import random
from collections.abc import Callable, Iterator

import lessons

from labs.data.synthetic import Rate, SyntheticReport, ask_for_caption, synthesise
from labs.models import generate, load_vlm, user_message
from labs.shapes import QA, Scene, sample_scene, seeded
from labs.shapes.tasks import MAKERS
from labs.shapes.vocabulary import PARTNER

MODELS = ("tiny-base", "tiny-sft")
SAMPLES, AGREE = 5, (None, 3, 4, 5)  # None: the first answer, whatever the others say
CODE = [
    "labs/data/synthetic.py", "labs/shapes", "labs/models/generation.py",
    "labs/formats/fingerprints.py", "labs/zoo/weights/tiny-base", "labs/zoo/weights/tiny-sft",
    "chapters/ch02_data/lessons.py", "chapters/ch02_data/measure_ch02_synthetic.py",
]  # fmt: skip


def ask_for_partner(rng: random.Random, scene: Scene) -> QA:
    """ "Is there a star?" of what is shown, or of what usually goes with it and is absent."""
    return MAKERS["existence"](rng, scene, "en", negatives="adversarial")


ASKED: dict[str, Callable[[random.Random, Scene], QA]] = {
    "caption": ask_for_caption,
    "count": functools.partial(MAKERS["count"], language="en"),
    "existence": ask_for_partner,
}


def scenes(count: int, seed: int) -> list[Scene]:
    """Unseen scenes that lack the partner of something shown."""
    found, index = [], 0
    while len(found) < count:
        scene, index = sample_scene(seeded("to write about", seed, index), "test"), index + 1
        if {PARTNER[kind] for kind in scene.kinds} - scene.kinds:
            found.append(scene)
    return found


def sampler(model, processor, seed: int, temperature: float = 1.0):
    """A `generate` for `synthesise` that samples anew at each call."""
    calls = iter(range(1000 * seed, 1000 * (seed + 1)))

    def write(prompts: list) -> list[str]:
        return generate(
            model, processor, [[user_message(q, images=1)] for _, q in prompts],
            [[image] for image, _ in prompts], max_new_tokens=112, temperature=temperature,
            seed=next(calls), batch_size=100,
        )  # fmt: skip

    return write


def remembered(write, memory: list[list[str]]):
    """What `write` says, from memory where it was asked before: rounds of the same prompts in turn."""
    rounds: Iterator[int] = iter(range(SAMPLES))

    def say(prompts: list) -> list[str]:
        number = next(rounds)
        if number == len(memory):
            memory.append(write(prompts))
        return memory[number]

    return say


def row(report: SyntheticReport) -> dict:
    """Counts and rates: kept of what was asked; true of what agreement let through."""
    return {
        "asked": report.asked, "disagreed": report.disagreed, "unreadable": report.unreadable,
        "wrong": report.wrong, "duplicates": report.duplicates, "kept": len(report.kept),
        "problems": dict(report.problems), "yield": report.yield_rate._asdict(),
        "true": report.precision._asdict(),
    }  # fmt: skip


def pooled(rows: list[dict]) -> dict:
    """The rates over all seeds."""
    asked, through, kept = 0, 0, 0
    true = 0
    for r in rows:
        asked, kept = asked + r["asked"], kept + r["kept"]
        through += r["asked"] - r["disagreed"]
        true += r["asked"] - r["disagreed"] - r["wrong"] - r["unreadable"]
    return {
        "yield": Rate.of(kept, asked)._asdict(),
        "let_through": Rate.of(through, asked)._asdict(),
        "true": Rate.of(true, through)._asdict(),
    }


def main() -> None:
    size = lessons.size()
    found = []
    for name in MODELS:
        model, processor = load_vlm(name)
        for task, ask in ASKED.items():
            rows: dict[int | None, list[dict]] = {agree: [] for agree in AGREE}
            for seed in size.seeds:
                about = scenes(size.questions, seed)
                write, memory = sampler(model, processor, seed), []
                for agree in AGREE:
                    report = synthesise(
                        remembered(write, memory), about, ask, seed=seed, batch_size=len(about),
                        samples=SAMPLES if agree else 1, agree=agree,
                    )  # fmt: skip
                    rows[agree].append({"seed": seed} | row(report))
            for agree, of in rows.items():
                entry = {"model": name, "task": task, "agree": agree} | pooled(of)
                lessons.say_progress(str(entry))
                found.append(entry | {"runs": of})
    results = {"samples": SAMPLES, "temperature": 1.0, "scenes": size.questions, "rows": found}
    print(json.dumps({"seed": list(size.seeds), "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
