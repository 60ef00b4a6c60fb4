"""What each remedy is predicted to save, from the bytes that were held when memory ran out.

These are shares of measured bytes, not a new prediction of the step: `predict` does that. Standard
library only.
"""

from __future__ import annotations

from labs.doctors.finding import Remedy
from labs.doctors.memory.remedies import remedy

# Checkpointing keeps one tensor a layer and recomputes one layer at a time: of the 24 to 48 copies
# of the hidden states that a layer saves (stas00/ml-engineering, training/performance), most go.
CHECKPOINTED = 0.7
# AdamW's two states: 8 bytes a parameter in float32, 2 in 8 bits.
EIGHT_BIT = 0.75
# Where one thing is wrong, its remedy stands first whatever others would save.
OWN_FIRST = ("memory_grows", "other_process", "fragmentation", "request_exceeds_gpu")
# Remedies of bytes that are counted: without a saving there is nothing for them to save here.
COUNTED = ("chunked_loss", "checkpointing", "adam8bit", "paged_adam", "offload_optimizer", "lora",
           "offload_activations", "zero2", "zero3")  # fmt: skip


def saving(
    id: str,
    held: dict[str, int],
    grown: int = 0,
    others: int = 0,
    stranded: int = 0,
    world: int = 1,
) -> int | None:
    """Predicted bytes saved by remedy `id`; None where these numbers do not tell."""
    activations, logits = held.get("activations", 0), held.get("logits", 0)
    optimizer, gradients = held.get("optimizer", 0), held.get("gradients", 0)
    in_pass = activations + logits + held.get("temporary", 0)
    shared = 1 - 1 / world
    found = {
        "smaller_batch": in_pass / 2,
        "accumulation": in_pass / 2,
        "checkpointing": CHECKPOINTED * activations,
        "offload_activations": activations,
        "chunked_loss": logits,
        "adam8bit": EIGHT_BIT * optimizer,
        "paged_adam": optimizer,
        "offload_optimizer": optimizer,
        "lora": optimizer + gradients,
        "zero2": shared * (optimizer + gradients),
        "zero3": shared * (optimizer + gradients + held.get("weights", 0)),
        "detach_losses": grown,
        "close_other_process": others,
        "expandable_segments": stranded,
    }.get(id)
    return int(found) if found else None


def ranked(
    found: list[Remedy],
    held: dict[str, int],
    need: int,
    cause: str,
    grown: int = 0,
    others: int = 0,
    stranded: int = 0,
    world: int = 1,
) -> list[Remedy]:
    """The remedies of a cause with their savings: the cause's own first, then what saves enough.

    `need`: bytes that were missing. For a true lack of memory whatever saves at least that comes
    first, in the catalogue's order (which is by cost), then the others by what they save.
    """
    ids = [r.id for r in found]
    if cause not in OWN_FIRST:
        extra = ("checkpointing", "smaller_batch", "chunked_loss", "adam8bit", "lora",
                 "offload_optimizer", "zero2")  # fmt: skip
        ids += [i for i in extra if i not in ids and (i != "zero2" or world > 1)]
    known = [
        remedy(id, saves_bytes=saving(id, held, grown, others, stranded, world))
        for id in dict.fromkeys(ids)
    ]
    if cause in OWN_FIRST:
        return known
    known = [r for r in known if r.saves_bytes or r.id in ids[:2] or r.id not in COUNTED]
    enough = [r for r in known if r.saves_bytes and r.saves_bytes >= need]
    rest = [r for r in known if r not in enough]
    return enough + sorted(rest, key=lambda r: -(r.saves_bytes or 0))
