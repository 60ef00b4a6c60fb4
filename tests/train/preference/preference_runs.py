"""Pairs about the world, objectives with a shaken adapter, and an independent way to log p(answer)."""

import copy
import dataclasses
from functools import cache

import torch

from labs.formats import Preference, Turn
from labs.models import build_tiny_llava
from labs.models.lora import add_lora
from labs.shapes import make_record
from labs.train.freezing import trainable_names
from labs.train.preference.collate import PreferenceCollator
from labs.train.preference.config import PreferenceConfig
from labs.train.preference.objective import PreferenceObjective
from labs.train.preference.pairs import PreferencePairs

TASKS = ("existence", "caption", "colour")


def pair(index=0, task="existence", chosen=None, rejected=None, **meta) -> Preference:
    """A pair about a scene: the right answer, and a wrong one."""
    record = make_record(task, index, "train")
    qa = record["meta"]["turns"][0]
    wrong = {"yes": "no", "no": "yes"}.get(qa.answer, "a large red ring.")
    return Preference(
        f"{task}-{index}",
        (record["image"],),
        (Turn("user", "<image>\n" + qa.question),),
        qa.answer if chosen is None else chosen,
        wrong if rejected is None else rejected,
        meta,
    )


def some_pairs(count=5) -> list[Preference]:
    return [pair(i, TASKS[i % len(TASKS)]) for i in range(count)]


def swapped(pair: Preference) -> Preference:
    return dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def shake(model, scale=0.05, seed=0) -> None:
    """Move everything that trains, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += scale * torch.randn(p.shape, generator=generator)


@cache
def _tiny():
    return build_tiny_llava(seed=0)[0]


def fresh():
    """A tiny LLaVA of its own, always the same one, and what is drawn next (adapters) too."""
    model = copy.deepcopy(_tiny())
    torch.manual_seed(0)
    return model


def objective(method="dpo", what="lora", shaken=True, reference_model=None, **changes):
    """On a tiny LLaVA: adapters on the language model ("lora"), or all of it ("full")."""
    model = fresh()
    policies = {}
    if what == "lora":
        model.requires_grad_(False)
        add_lora(model, 4)
        policies = {"vision_tower": "frozen", "connector": "frozen", "language_model": "frozen"}
        policies["lora"] = "all"
    made = PreferenceObjective(model, PreferenceConfig(method, **changes), reference_model)
    made.keep_reference(trainable_names(model, policies))
    if shaken:
        shake(model)
    return made


def batch_of(processor, pairs, method="dpo", stored=None, **options):
    data = PreferencePairs(pairs, processor, corrupted=method == "mdpo", stored=stored, **options)
    items = [data[i] for i in range(len(pairs))]
    return PreferenceCollator(processor, method == "kto")(items)


def slow_logprob(model, encoded, side, pixels="pixels", answer_only=False):
    """(sum, tokens) of log p(answer | image, prompt) by the model's own forward on one row."""
    answer = encoded[side]
    if answer_only:
        logits = model(input_ids=answer[None]).logits[0, :-1]
        answer = answer[1:]
    else:
        ids = torch.cat([encoded["prompt"], answer])[None]
        logits = model(input_ids=ids, **encoded[pixels]).logits[0, len(encoded["prompt"]) - 1 : -1]
    found = logits.log_softmax(-1).gather(-1, answer[:, None])
    return found.sum(), len(found)
