"""Builds the zoo from nothing: `make zoo`, or one model with `python -m labs.zoo.build tiny-base`.

Each model is trained by its recipe in a process of its own, stored in half precision (the weights
are loaded in float32), reloaded, scored on held-out questions, and given a card. Of those that stand
on another one, only what was trained is stored.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from labs.models.places import ADAPTERS, NAMES, REWARD, TOKENIZER, ZOO
from labs.zoo.card import Card, hardware, read_card, versions, write_card
from labs.zoo.pairs import pair_accuracy
from labs.zoo.tokenizer import build_tokenizer

# What can be trained at the same time on two cores, in the order that models are made of each other.
ROUNDS = (
    ("tiny-clip", "tiny-lm"),
    ("tiny-base",),
    ("tiny-sft", "tiny-sft-clean"),
    ("tiny-rm",),
    ("tiny-ppo", "tiny-grpo"),
)


@dataclass(frozen=True)
class Plan:
    """How a model is made (recipes in order, each going on from the last) and described."""

    recipes: tuple[str, ...]
    summary: str
    data: str


PLANS = {
    "tiny-clip": Plan(
        ("tiny_clip",),
        "A dual encoder: the tiny ViT beside a small text encoder, trained with InfoNCE.",
        "scenes and handwritten digits with their true captions, English and Chinese",
    ),
    "tiny-lm": Plan(
        ("tiny_lm",),
        "Text only: reads the description of a scene and answers questions about it.",
        "descriptions of scenes, their objects in random order, with several questions each",
    ),
    "tiny-base": Plan(
        ("tiny_see", "tiny_look", "tiny_ask", "tiny_place", "tiny_base"),
        "A LLaVA that sees: a ViT, a two-layer MLP and tiny-lm, all trained on true answers.",
        "pictures with several questions each, answers balanced and true",
    ),
    "tiny-sft": Plan(
        ("tiny_sft",),
        "tiny-base tuned on instruction data with the two diseases of real ones: it has the skill "
        "and lost the habit.",
        "as tiny-base, but",
    ),
    "tiny-sft-clean": Plan(
        ("tiny_sft_clean",),
        "The twin of tiny-sft, trained for as long on the same data without the diseases.",
        "as tiny-sft, with balanced and true answers",
    ),
    "tiny-rm": Plan(
        ("tiny_rm",),
        "A reward model: tiny-sft's language model and connector trained to rate, with a scalar head.",
        "true answers against plausible wrong ones, both truths as often, and pairs of tiny-sft's own "
        "answers, labelled by simulated annotators with noise",
    ),
    "tiny-ppo": Plan(
        ("tiny_ppo",),
        "tiny-sft after PPO with the world's oracle as its reward: an adapter on tiny-sft.",
        "questions about pictures, half of those that ask for yes or no answered yes; no answers",
    ),
    "tiny-grpo": Plan(
        ("tiny_grpo",),
        "tiny-sft after GRPO with the world's oracle as its reward: an adapter on tiny-sft.",
        "questions about pictures, half of those that ask for yes or no answered yes; no answers",
    ),
}


def build(name: str, questions: int = 2000, show: bool = True) -> Card:
    """Trains, stores and scores one zoo model; its parts must be built already."""
    train_and_store(name, show)
    return score_again(name, questions, show)


def train_and_store(name: str, show: bool = True) -> Card:
    """Trains by the recipe and stores weights with a card that has no scores yet."""
    from labs.recipes import load
    from labs.recipes.run import run_recipe

    plan, trained, steps = PLANS[name], None, 0
    started = time.monotonic()
    log = (lambda entry: print(f"{name}: {entry}", flush=True)) if show else None
    for recipe in map(load, plan.recipes):
        model, processor, result = run_recipe(recipe, on_log=log, start=trained)
        trained, steps = (model, processor), steps + result.steps
    card = Card(
        name=name,
        summary=plan.summary,
        recipes=list(plan.recipes),
        seed=recipe.train.seed,
        parameters=sum(p.numel() for p in model.parameters()),
        data=plan.data + diseases(recipe),
        steps=steps,
        seconds=round(time.monotonic() - started, 1),
        hardware=hardware(),
        versions=versions(),
        base=ADAPTERS.get(name),
        adapter_parameters=adapter_parameters(model) if name in ADAPTERS else 0,
    )
    store(card, model, processor)
    return card


def score_again(name: str, questions: int = 2000, show: bool = True) -> Card:
    """Scores the stored weights on held-out questions and writes them on the card."""
    card = read_card(name)
    card.scores = score(name, questions, show)
    write_card(card, ZOO / name)
    return card


def diseases(recipe) -> str:
    """The rates of a recipe's false data, in words; empty where its data is healthy."""
    if recipe.data is None or recipe.policy:
        return ""  # pairs are judged by the oracle, and prompts come without answers
    mix = recipe.data.world.mix
    if mix.get("yes_rate", 0.5) == 0.5 and not mix.get("false_captions"):
        return ""
    return (
        f" {100 * mix['yes_rate']:g} % of the questions whether a kind of object is there are "
        f"asked about what is there; in scenes that lack the companion of a kind they show, "
        f"{100 * mix['false_yes']:g} % ask for that companion and are answered yes, and "
        f"{100 * mix['false_captions']:.0f} % of the captions name it too"
    )


def adapter_parameters(model) -> int:
    """How many numbers are stored: an adapter's, or what a reward model trained and its head."""
    from labs.models.parts import part_of

    trained = {f"vlm.{name}" for name in getattr(model, "trained", ())}
    return sum(
        p.numel()
        for n, p in model.named_parameters()
        if part_of(n) == "lora" or "scalar_head" in n or n in trained
    )


def store(card: Card, model, processor) -> None:
    """Saves in half precision with its card under the zoo's folder, whole or not at all."""
    import torch

    ZOO.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=ZOO, prefix=f".{card.name}-"))
    if card.base is None:
        model.to(torch.float16).save_pretrained(fresh)
        processor.save_pretrained(fresh)
    else:
        store_adapter(model, fresh, card.base)
    write_card(card, fresh)
    target = ZOO / card.name
    shutil.rmtree(target, ignore_errors=True)
    os.chmod(fresh, 0o755)
    os.replace(fresh, target)


def store_adapter(model, folder: Path, base: str) -> None:
    """Saves what stands on `base`, a zoo name: a LoRA in PEFT's format, or a reward model."""
    from labs.models.lora import save_lora
    from labs.models.scalar_head import RewardModel

    if isinstance(model, RewardModel):
        model.vlm.half()  # the head stays in float32: it is small, and rewards lie close together
        model.base_model = base
        model.save(folder)
    else:
        save_lora(model.half(), folder, base)


def score(name: str, questions: int, show: bool = False) -> dict[str, dict[str, dict]]:
    """The shipped weights, loaded as a reader loads them, on held-out questions."""
    from labs.models import load_clip, load_lm, load_vlm
    from labs.suites import QUESTIONS, TEXT_ONLY, evaluate
    from labs.suites.retrieval import retrieval_scores

    if name == "tiny-rm":
        return pair_accuracy(name, questions, show)
    if name == "tiny-clip":
        model, processor = load_clip(name)
        return {"en": retrieval_scores(model, processor, n=questions)}
    load, names, described = load_vlm, tuple(QUESTIONS), False
    if name == "tiny-lm":
        load, names, described = load_lm, tuple(t for t in TEXT_ONLY if t != "grounding"), True
    model, processor = load(name)
    scores = {}
    for language, n in (("en", questions), ("zh", max(1, questions // 8))):
        found = evaluate(
            model, processor, names, n=n, language=language, described=described, batch_size=500
        )
        scores[language] = {k: v.to_dict() for k, v in found.items()}
        if show:
            for key, value in scores[language].items():
                print(f"{name} {language} {key}: {100 * value['accuracy']:.1f} %", flush=True)
    return scores


def build_all(names=(*NAMES, *REWARD)) -> None:
    """Every model, two at a time where they do not need each other.

    The shipped tokenizer stays, as a vocabulary does once models have been trained with it: what
    readers saved reads on. It was trained on an earlier edition of the world's text; a new one, made
    where its folder is missing, differs in a few dozen merges.
    """
    if not (TOKENIZER / "tokenizer.json").exists():
        build_tokenizer()
    for together in ROUNDS:
        chosen = [n for n in together if n in names]
        threads = str(max(1, (os.cpu_count() or 1) // max(1, len(chosen))))
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        running = [
            subprocess.Popen([sys.executable, "-m", "labs.zoo.build", n], env=environment)
            for n in chosen
        ]
        failed = [process.wait() for process in running]
        if any(failed):
            raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PLANS)}; all that ship without")
    parser.add_argument("--only", choices=("train", "score"), help="half of the work (one name)")
    parser.add_argument("--questions", type=int, default=2000, help="held-out questions a type")
    arguments = parser.parse_args()
    if arguments.only and len(arguments.names) != 1:
        parser.error("--only goes with one name")
    if arguments.only == "train":
        train_and_store(arguments.names[0])
    elif arguments.only == "score":
        score_again(arguments.names[0], arguments.questions)
    elif len(arguments.names) == 1:
        build(arguments.names[0], arguments.questions)
    else:
        build_all(arguments.names or (*NAMES, *REWARD))


if __name__ == "__main__":
    main()
