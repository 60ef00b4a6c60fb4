"""The experiments in seconds, for the page: tiny-base goes on training, for a few steps."""

from collections.abc import Sequence

import turns
from cleaning import clean
from faults import collect, rows_of
from lessons import BATCH, encoded, fit, loss_on

from labs.models import load_vlm

STEPS, RATE = 20, 1e-3
PICTURES = STEPS * BATCH // 2
HELD_OUT = 60  # pictures
TURNS_STEPS, TURNS_TOKENS = 12, 1000


def fitted(rows: Sequence[dict], held_out: Sequence[dict], seed: int) -> dict:
    """Losses of STEPS steps of tiny-base on the rows, and its loss on true rows after them."""
    model, processor = load_vlm("tiny-base")
    losses = fit(model, processor, encoded(rows, processor), STEPS, BATCH, seed, RATE)
    return {"losses": losses, "held_out": loss_on(model, processor, encoded(held_out, processor))}


def dirty_short(seed: int = 0) -> dict:
    """Dirty against cleaned. The loss on true rows is lower after the cleaned rows."""
    held_out = rows_of(collect(HELD_OUT, 0, dirty=False, split="val"))
    dirty = collect(PICTURES, seed)
    cleaned, taken = clean(dirty)
    return {
        "dirty": fitted(rows_of(dirty), held_out, seed),
        "cleaned": fitted(cleaned, held_out, seed),
        "taken": taken,
    }


def quarter_short(seed: int = 0) -> dict:
    """All, dirty, against a quarter, clean. The loss on true rows is lower after the quarter."""
    held_out = rows_of(collect(HELD_OUT, 0, dirty=False, split="val"))
    few = collect(PICTURES // 4, seed, dirty=False)
    return {
        "all, dirty": fitted(rows_of(collect(PICTURES, seed)), held_out, seed),
        "a quarter, clean": fitted(rows_of(few), held_out, seed),
    }


def turns_short(seed: int = 0) -> dict:
    """The three forms at equal tokens: cost, and the loss of each on unseen rows of each form."""
    _, processor = load_vlm("tiny-base")
    held_out = {
        form: encoded(turns.rows(form, 24, 0, "val")[:60], processor) for form in turns.FORMS
    }
    found = {}
    for form in turns.FORMS:
        samples, batch, cost = turns.budget(form, processor, TURNS_STEPS, TURNS_TOKENS, seed)
        model, _ = load_vlm("tiny-base")
        fit(model, processor, samples, TURNS_STEPS, batch, seed)
        losses = {name: loss_on(model, processor, rows) for name, rows in held_out.items()}
        found[form] = cost | {"held_out": losses}
    return found
