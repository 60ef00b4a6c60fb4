"""Cleaning by means that do not know the truth: the words themselves, copies, the CLIP score."""

from collections.abc import Sequence

from faults import RATES, Picture

from labs.data.quality.captions import caption_problems
from labs.data.quality.clip import clip_scores
from labs.formats.fingerprints import BITS, DISTANCE, first_near, picture_hash, plain_text
from labs.models import load_clip
from labs.shapes import make_record

TRUSTED = 300  # pairs that somebody has looked at: they say which scores are usual
SHARE = 0.02  # of the trusted pairs lie below the threshold
STEPS = ("words", "copies", "clip")


def clean(pictures: Sequence[Picture]) -> tuple[list[dict], dict]:
    """The rows that are left, and what was taken away: see `account`."""
    gone: dict[str, str] = {}  # id of a row -> the step that took it
    for p in pictures:
        if words_are_wrong(answer(p.caption)):
            gone[p.caption["id"]] = "words"
        if not all(t["value"] for t in p.questions["conversations"]):
            gone[p.questions["id"]] = "words"
    for p in copies(pictures):
        gone |= {row["id"]: "copies" for row in p.rows if row["id"] not in gone}
    asked = [p for p in pictures if p.caption["id"] not in gone]
    clip = load_clip("tiny-clip")
    trusted = [make_record("caption", i, "val") for i in range(TRUSTED)]
    usual = clip_scores(*clip, [(r["image"], answer(r)) for r in trusted])
    threshold = sorted(usual)[int(SHARE * TRUSTED)]
    scores = clip_scores(*clip, [(p.image, answer(p.caption)) for p in asked])
    for p, s in zip(asked, scores, strict=True):
        if s < threshold:  # the questions were written from the caption: they go with it
            gone |= {row["id"]: "clip" for row in p.rows if row["id"] not in gone}
    rows = [row for p in pictures for row in p.rows if row["id"] not in gone]
    return rows, {"threshold": threshold, "kept": len(rows)} | account(pictures, gone)


def answer(row: dict) -> str:
    return row["conversations"][1]["value"]


def words_are_wrong(text: str) -> bool:
    """A caption with one of `caption_problems`, or one that ends in mid-sentence."""
    return bool(caption_problems(text)) or text[-1] not in ".!?"


def copies(pictures: Sequence[Picture]) -> list[Picture]:
    """Those that look like an earlier picture whose caption says the same."""
    groups: dict[str, list[Picture]] = {}
    for p in pictures:
        groups.setdefault(plain_text(answer(p.caption)), []).append(p)
    found = []
    for group in groups.values():
        first = first_near([picture_hash(p.image) for p in group], DISTANCE, BITS)
        found += [p for p, before in zip(group, first, strict=True) if before is not None]
    return found


def account(pictures: Sequence[Picture], gone: dict[str, str]) -> dict:
    """For the rows with each fault, copies and good rows: how many, and how many each step took.

    A copy is one whatever else is wrong with it. A good row of which a copy is kept is not gone.
    """
    kept = {
        row["id"].split("-copy")[0] for p in pictures for row in p.rows if row["id"] not in gone
    }
    out = {n: {"rows": 0, "removed": 0} | dict.fromkeys(STEPS, 0) for n in (*RATES, "copy", "good")}
    for p in pictures:
        for row, wrong in zip(p.rows, p.wrong, strict=True):
            copy = p.source != p.number
            entry = out["copy" if copy else p.fault if wrong else "good"]
            entry["rows"] += 1
            if row["id"] in gone and (copy or row["id"] not in kept):
                entry["removed"] += 1
                entry[gone[row["id"]]] += 1
    return out
