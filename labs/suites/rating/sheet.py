"""`write_sheets`: one page a rater, and the key that says which side was whose."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labs.errors import InputError
from labs.formats.files import atomic_write
from labs.suites.folder import dumps, write_json
from labs.suites.rating.comparisons import Comparison, Item, choose, gold_of
from labs.suites.rating.design import Placed, assign, needed
from labs.suites.rating.page import render
from labs.suites.rating.pictures import data_url, page_picture, suffix
from labs.suites.rating.words import WORDS

KEY = "key.json"
FORMAT, VERSION = "labs-rating-key", 1


@dataclass(frozen=True)
class Sheets:
    """What was written. left_out: pairs of answers that are not asked about, by reason."""

    key: Path
    pages: list[Path]
    comparisons: int
    gold: int
    items: list[int]  # a page
    left_out: dict[str, int]


def write_sheets(
    folder: str | Path,
    items: Sequence[Item],
    *,
    n: int = 50,
    raters: int = 3,
    overlap: int | None = None,
    gold: int = 0,
    language: str = "en",
    seed: int = 0,
    suite: str | None = None,
) -> Sheets:
    """Write folder/rater-1.html, …, and folder/key.json with folder/pictures/, which raters never see.

    n: comparisons a rater. overlap: raters a comparison, by default all. So n · raters / overlap
    different comparisons are made, evenly over all pairs of models. gold: checks of attention beside
    them, the same for all raters. language: of the page, "en" or "zh".

    Pages are blind: no model's name is in them, items have names that tell nothing, and their order
    and sides are shuffled for each rater (`design.assign`). The same arguments write the same bytes.

    Raises InputError for too few answers that differ (`comparisons.choose`), pictures that cannot be
    opened, numbers that cannot be, and a folder that holds another key: its votes could not be read
    any more. Chapter 7.
    """
    folder = Path(folder)
    overlap = raters if overlap is None else overlap
    if language not in WORDS:
        raise InputError(f"There is no page in {language!r}.", "Use 'en' or 'zh'.")
    if gold < 0:
        raise InputError(f"{gold} checks cannot be.", "Give --gold 0 or more.")
    compared, left_out = choose(items, needed(n, raters, overlap), seed)
    checks = gold_of(items, gold, seed, compared)
    everything = compared + checks
    pictures = _Pictures(everything)
    plans = assign([c.models for c in compared], len(checks), raters, overlap, seed)
    key: dict = {
        "format": FORMAT, "version": VERSION, "suite": suite, "seed": seed, "overlap": overlap,
        "models": list(items[0].answers),
        "comparisons": [
            {
                "id": c.item.id, "question": c.item.question, "models": list(c.models),
                "answers": list(c.answers), "gold": c.gold,
                "pictures": [pictures.names[p] for p in pictures.of[i]],
            }
            for i, c in enumerate(everything)
        ],
        "left_out": dict(left_out),
        "sheets": {},
    }  # fmt: skip
    pages = []
    for number, plan in enumerate(plans, 1):
        name, (shown, urls) = f"rater-{number}", _page(plan, everything, pictures)
        # The sheet is named by what is on it, so that votes of another one cannot pass for its own.
        sheet = hashlib.sha256(dumps([seed, name, shown, urls])).hexdigest()[:12]
        key["sheets"][sheet] = {
            "rater": name,
            "items": {p.name: {"comparison": p.number, "flipped": p.flipped} for p in plan},
        }
        pages.append((folder / f"{name}.html", render(sheet, name, language, shown, urls)))
    _refuse_another(folder / KEY, key)
    for name, data in zip(pictures.names, pictures.data, strict=True):
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    write_json(folder / KEY, key)
    for path, text in pages:
        with atomic_write(path) as file:
            file.write(text)
    return Sheets(
        folder / KEY, [path for path, _ in pages], len(compared), len(checks),
        [len(plan) for plan in plans], dict(left_out),
    )  # fmt: skip


class _Pictures:
    """Each different picture once. of: for each comparison the places of its pictures."""

    def __init__(self, comparisons: Sequence[Comparison]):
        self.data: list[bytes] = []
        self.of: list[list[int]] = []
        place: dict[bytes, int] = {}
        for comparison in comparisons:
            places = []
            for image in comparison.item.images:
                try:
                    data = page_picture(image)
                except InputError as error:
                    raise InputError(
                        f"A picture of {comparison.item.id} cannot be shown: {error.what}", error.do
                    ) from None
                if data not in place:
                    place[data] = len(self.data)
                    self.data.append(data)
                places.append(place[data])
            self.of.append(places)
        self.names = [f"pictures/{i:04d}.{suffix(data)}" for i, data in enumerate(self.data)]


def _page(plan: list[Placed], comparisons: Sequence[Comparison], pictures: _Pictures):
    """The items of one page in their order, and the pictures that they need, numbered anew: numbers
    that are shared with other pages would let raters tell which items they have in common."""
    shown, urls, place = [], [], {}
    for placed in plan:
        comparison = comparisons[placed.number]
        left, right = comparison.answers[::-1] if placed.flipped else comparison.answers
        places = []
        for number in pictures.of[placed.number]:
            if number not in place:
                place[number] = len(urls)
                urls.append(data_url(pictures.data[number]))
            places.append(place[number])
        shown.append(
            {
                "id": placed.name, "question": comparison.item.question, "pictures": places,
                "left": left, "right": right,
            }
        )  # fmt: skip
    return shown, urls


def _refuse_another(path: Path, key: dict) -> None:
    if path.exists() and path.read_bytes() != dumps(key, indent=1) + b"\n":
        raise InputError(
            f"{path} is the key of other sheets: without it their votes cannot be read.",
            "Give another --output, or remove that folder if nobody rates its sheets.",
        )
