"""A prediction as a page: headline, timeline, breakdown, cards, remedies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labs.doctors import page
from labs.doctors.finding import size
from labs.doctors.memory.forecast.data import Worst
from labs.doctors.memory.forecast.observed import Compared
from labs.doctors.memory.forecast.prediction import Prediction
from labs.doctors.memory.forecast.show import VERDICT, data_lines, plan_line

# One colour each in all charts; what stays first, for it lies at the bottom of the timeline.
ORDER = (
    "weights", "optimizer", "gradients", "activations", "logits", "temporary", "workspace", "kv_cache",
    "fragmentation", "context",
)  # fmt: skip
TONE = {"yes": "good", "perhaps": "warn", "no": "bad"}


def page_of(
    answer: Prediction, worst: Worst | None = None, compared: Sequence[Compared] = ()
) -> str:
    """The whole page."""
    return page.render(
        f"Memory of {answer.plan.model}",
        _sections(answer, worst, compared),
        subtitle=plan_line(answer),
    )


def _sections(answer: Prediction, worst: Worst | None, compared: Sequence[Compared]) -> Iterator:
    gpu = answer.gpu
    verdict = f"{answer.target.card}: {VERDICT[answer.target.verdict]}"
    yield page.tag(
        "div",
        page.paragraph(
            "GPU peak ",
            page.tag("strong", size(gpu.bytes)),
            f" in {answer.peak_phase}",
            kind="answer",
        ),
        page.paragraph(
            f"Band {size(gpu.low)} to {size(gpu.high)}, not calibrated on a GPU", kind="note"
        ),
        page.paragraph(verdict, kind=TONE[answer.target.verdict]),
    )
    if answer.timeline:
        yield page.section("One step", page.figure(_timeline(answer), _caption(answer)))
    parts = [(name, count) for name, count in answer.breakdown.items() if count > 0]
    blocks = [page.breakdown([("At the peak", parts)], _limit(answer), ORDER)]
    if answer.modules:
        blocks.append(page.breakdown([("Activations by module", list(answer.modules.items()))]))
    yield page.section("What it is made of", *(page.figure(block) for block in blocks))
    yield page.section(
        "What it fits",
        page.table(
            ["Card", "Offers", "Verdict", "Largest batch"],
            [
                [
                    fit.card,
                    size(fit.usable),
                    page.tag("span", VERDICT[fit.verdict], class_=TONE[fit.verdict]),
                    "" if fit.largest_batch is None else f"{fit.largest_batch:,}",
                ]
                for fit in answer.fits
            ],
            numbers=[1, 3],
        ),
        page.paragraph(
            "Largest batch by the best estimate, all rows as long as the longest of this plan.",
            kind="note",
        ),
    )
    if answer.remedies:
        yield page.section("What to change", *_remedies(answer))
    if worst:
        yield page.section(
            "The worst batch of the data", page.code("\n".join(data_lines(worst, 100)))
        )
    if compared:
        rows = [
            [line.name, size(line.predicted), size(line.observed), f"{line.error:+.1%}"]
            for line in compared
        ]
        yield page.section(
            "Beside what was measured",
            page.table(["", "Predicted", "Measured", "Error"], rows, numbers=[1, 2, 3]),
        )
    yield page.section(
        "How sure",
        page.bullets([*gpu.reasons, *answer.notes, f"host memory about {size(answer.host.bytes)}: {'; '.join(answer.host.reasons)}", answer.basis]),
    )  # fmt: skip


def _limit(answer: Prediction) -> list[tuple[str, float]]:
    """The card's line, unless it is so far off that the bars would shrink to nothing."""
    usable = answer.target.usable
    return [(answer.target.card, usable)] if usable < 3 * answer.gpu.bytes else []


def _timeline(answer: Prediction) -> page.Html:
    line = answer.timeline
    order = sorted(line.categories, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER))
    return page.timeline(
        {name: line.categories[name] for name in order},
        phases=line.phases,
        lines={"reserved": line.reserved} if any(line.reserved) else None,
        limits=_limit(answer),
        of=line.events,
        colours=ORDER,
    )


def _caption(answer: Prediction) -> str:
    words = "Live bytes by category, in the order of events, not of time."
    if answer.plan.sharding != "none" and answer.plan.world_size > 1:
        words += " One process without sharding: what is divided is in the breakdown."
    return words


def _remedies(answer: Prediction) -> Iterator[page.Html]:
    bars = [("As planned", [("peak", answer.gpu.bytes)])]
    bars += [(tried.title, [("peak", tried.gpu)]) for tried in answer.remedies]
    if answer.together:
        bars.append((f"Together: {answer.together.id}", [("peak", answer.together.gpu)]))
    yield page.figure(
        page.breakdown(bars, _limit(answer)),
        f"Each predicted by itself. Line: {answer.target.card}.",
    )
    yield page.table(
        ["Remedy", "Peak", "Saves", "Costs", "How"],
        [
            [
                tried.title,
                size(tried.gpu),
                size(tried.saves),
                tried.costs,
                page.join(page.tag("div", page.tag("code", how)) for how in tried.how.values()),
            ]
            for tried in answer.remedies
        ],
        numbers=[1, 2],
    )
