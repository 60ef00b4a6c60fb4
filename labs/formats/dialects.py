"""The words in which conversations are written: roles, and the keys of turns, texts and images.

One table for the strict reader (`labs.formats.conversation`), which refuses what is wrong, and for the
tolerant one of the data doctor, which counts it. Sources: LLaVA docs/Finetune_Custom_Data.md; ShareGPT;
Transformers chat templates; OpenAI chat completions.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re

IMAGE = "<image>"

ROLES = {
    "system": "system", "developer": "system",
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
TURNS = ("conversations", "messages", "conversation")  # where a record has its list of turns
ROLE = ("from", "role")  # where a turn has its role
TEXT = ("value", "content", "text")  # and its text
IMAGES = ("image", "images")  # where a record has its images
PART_IMAGE = ("image", "url", "path", "image_url")  # where a part of a content list has its image
PART_KINDS = ("image", "image_url")  # the parts that are images

# "a.jpg,b.jpg" is two files and "Paris, 1889.jpg" is one: split only where every piece has a suffix.
_FILE = re.compile(r"[^,]*\.[A-Za-z0-9]{2,5}\s*")


def split_references(text: str) -> list[str]:
    """The image references in one string: several where it is a comma-separated list of files."""
    if "," in text and not text.startswith("data:"):
        pieces = text.split(",")
        if all(_FILE.fullmatch(piece) for piece in pieces):
            return [piece.strip() for piece in pieces]
    return [text]


# Formats whose records are objects, by the keys that only they have.
PAIR_IMAGES = ("image", "file_name", "image_path")
PAIR_TEXTS = ("text", "caption")


def record_format(record: object) -> str | None:
    """Which format a JSON record is of: "preference", "llava", "qilin", "pope", "pairs"; None for none."""
    if not isinstance(record, dict):
        return None
    keys = record.keys()
    if {"chosen", "rejected"} <= keys or {"output_1", "output_2"} <= keys:
        return "preference"
    text = record.get("text")
    if isinstance(text, str) and text[:1] == "{" and '"chosen"' in text and '"rejected"' in text:
        return "preference"  # RLHF-V keeps its pair as JSON in a string
    if any(key in keys for key in TURNS):
        return "llava"
    if "note_idx" in keys and keys & {"note_title", "note_content", "image_path", "note_type"}:
        return "qilin"
    if keys & {"search_results", "search_result_details_with_idx", "rec_result_details_with_idx"}:
        return "qilin"
    label = record.get("label")
    if isinstance(label, str) and label.strip().lower() in ("yes", "no") and "text" in keys:
        return "pope"
    if any(key in keys for key in PAIR_IMAGES) and any(key in keys for key in PAIR_TEXTS):
        return "pairs"
    return None


def references_in(record: object) -> list[str]:
    """The image references of a record of any of these formats, as far as they are plain to see."""
    found: list[str] = []
    if not isinstance(record, dict):
        return found
    for key in dict.fromkeys((*IMAGES, *PAIR_IMAGES)):
        value = record.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                item = item.get("path")
            if isinstance(item, str) and item:
                found += split_references(item)
    for key in (*TURNS, "prompt"):
        turns = record.get(key)
        for turn in turns if isinstance(turns, list) else []:
            content = turn.get("content") if isinstance(turn, dict) else None
            for part in content if isinstance(content, list) else []:
                found += _part_references(part)
    return found


def _part_references(part: object) -> list[str]:
    if not isinstance(part, dict) or part.get("type") not in PART_KINDS:
        return []
    for key in PART_IMAGE:
        value = part.get(key)
        if isinstance(value, dict):
            value = value.get("url")
        if isinstance(value, str) and value:
            return [value]
    return []
