"""Which parts of a model train: names to parts, policies, and the table that shows it. Chapter 3."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from labs.errors import InputError
from labs.models.parts import PARTS, part_of
from labs.settings import nearest

_BLOCK = re.compile(r"\b(?:layers|blocks|layer|h)\.(\d+)\.")


def _chosen_blocks(policy: str, count: int, part: str) -> set[int] | None:
    """The block numbers that train under `last:N`, `first:N` or both joined by `+`."""
    chosen: set[int] = set()
    for term in policy.split("+"):
        match = re.fullmatch(r"(first|last):(\d+)", term.strip())
        if not match:
            raise InputError(
                f"`{part}: {policy}` is no freezing policy.",
                "Use frozen, all, last:N or first:N, or two of the latter joined by +.",
            )
        number = int(match[2])
        if number > count:
            raise InputError(
                f"`{part}: {policy}` asks for {number} blocks; the {part} has {count}.",
                "Name at most that many.",
            )
        chosen |= set(range(number) if match[1] == "first" else range(count - number, count))
    return chosen


def trainable_names(model: nn.Module, policies: Mapping[str, str]) -> set[str]:
    """Names of the parameters that train under `policies` (part -> frozen | all | last:N | first:N).

    `last:12` means the last twelve transformer blocks of that part and nothing else of it (as
    ShareGPT4V's TUNE_VIT_FROM=12 does). A part that is not named trains.
    Raises InputError for a part that the model lacks, or a policy that is none.
    """
    by_part: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        # Quantised weights are integers: they cannot carry a gradient whatever the policy.
        by_part.setdefault(part_of(name), [])
        # AdaLoRA's rank counter is a parameter in name only.
        if parameter.is_floating_point() and "ranknum" not in name:
            by_part[part_of(name)].append(name)
    names: set[str] = set()
    for part in policies:
        if part not in by_part:
            guess = nearest(part, by_part)
            raise InputError(
                f"The model has no part `{part}`.",
                f"Did you mean `{guess}`?" if guess else f"Its parts: {', '.join(by_part)}.",
            )
    for part, members in by_part.items():
        policy = policies.get(part, "all")
        if policy == "all":
            names.update(members)
        elif policy != "frozen":
            blocks = {name: int(m[1]) for name in members if (m := _BLOCK.search(name))}
            chosen = _chosen_blocks(policy, len(set(blocks.values())), part)
            names.update(name for name, block in blocks.items() if block in chosen)
    return names


def freeze(model: nn.Module, policies: Mapping[str, str]) -> set[str]:
    """Set `requires_grad` of every parameter by `policies`; returns the names that train."""
    names = trainable_names(model, policies)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return names


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part: how many there are, how many train."""

    part: str
    total: int
    trainable: int


def count_parts(model: nn.Module) -> list[PartCount]:
    """Parameters by part, in the order of PARTS."""
    totals: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = totals.setdefault(part_of(name), [0, 0])
        # bitsandbytes packs two 4-bit weights in a byte and keeps the shape aside.
        state = getattr(parameter, "quant_state", None)
        size = state.shape.numel() if state is not None else parameter.numel()
        count[0] += size
        count[1] += size if parameter.requires_grad else 0
    return [PartCount(part, *totals[part]) for part in PARTS if part in totals]


def parts_table(model: nn.Module):
    """A rich table: what trains, by part."""
    from rich.table import Table

    table = Table(title="What trains", title_justify="left")
    for heading in ("part", "parameters", "trainable", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    counts = count_parts(model)
    total = PartCount("all", sum(c.total for c in counts), sum(c.trainable for c in counts))
    for count in [*counts, total]:
        if count is total:
            table.add_section()
        share = 100 * count.trainable / max(count.total, 1)
        table.add_row(count.part, f"{count.total:,}", f"{count.trainable:,}", f"{share:.1f} %")
    return table
