"""Readers and writers of public file formats.

Names are imported when they are first asked for (PEP 562): a doctor that reads text needs neither
Pillow nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labs.formats.coco import (
        CocoCaption,
        CocoImage,
        read_coco,
        read_coco_results,
        write_coco,
        write_coco_results,
    )
    from labs.formats.conversation import Conversation, Turn, parse_conversation
    from labs.formats.dialects import IMAGE
    from labs.formats.files import atomic_write, check_file
    from labs.formats.images import MAX_PIXELS, load_image
    from labs.formats.llava import (
        read_conversations,
        read_llava,
        read_records,
        resolve_image,
        write_llava,
    )
    from labs.formats.mmbench import MMBenchQuestion, read_mmbench, write_mmbench
    from labs.formats.mme import MmeQuestion, read_mme, write_mme, write_mme_answers
    from labs.formats.pairs import ImageText, read_pairs, write_pairs
    from labs.formats.pope import PopeQuestion, read_pope, write_pope
    from labs.formats.preference import Preference, read_preferences, write_preferences
    from labs.formats.qilin import (
        Note,
        SearchRequest,
        read_notes,
        read_qrels,
        read_search,
        write_notes,
        write_search,
    )
    from labs.formats.shard_writer import write_shards
    from labs.formats.sniff import Layout
    from labs.formats.vqa import (
        VqaAnswer,
        VqaQuestion,
        read_vqa,
        read_vqa_results,
        write_vqa,
        write_vqa_results,
    )
    from labs.formats.webdataset import read_samples, read_shard

__all__ = [
    "IMAGE", "MAX_PIXELS", "CocoCaption", "CocoImage", "Conversation", "ImageText", "Layout", "MMBenchQuestion",
    "MmeQuestion", "Note", "PopeQuestion", "Preference", "SearchRequest", "Turn", "VqaAnswer", "VqaQuestion",
    "atomic_write", "check_file", "load_image", "parse_conversation", "read_coco", "read_coco_results",
    "read_conversations", "read_llava", "read_mmbench", "read_mme", "read_notes", "read_pairs", "read_pope",
    "read_preferences", "read_qrels", "read_records", "read_samples", "read_search", "read_shard", "read_vqa",
    "read_vqa_results", "resolve_image", "write_coco", "write_coco_results", "write_llava", "write_mmbench",
    "write_mme", "write_mme_answers", "write_notes", "write_pairs", "write_pope", "write_preferences",
    "write_search", "write_shards", "write_vqa", "write_vqa_results",
]  # fmt: skip

_MODULES = {
    "coco": ("CocoCaption", "CocoImage", "read_coco", "read_coco_results", "write_coco", "write_coco_results"),
    "conversation": ("Conversation", "Turn", "parse_conversation"),
    "dialects": ("IMAGE",),
    "files": ("atomic_write", "check_file"),
    "images": ("MAX_PIXELS", "load_image"),
    "llava": ("read_conversations", "read_llava", "read_records", "resolve_image", "write_llava"),
    "mmbench": ("MMBenchQuestion", "read_mmbench", "write_mmbench"),
    "mme": ("MmeQuestion", "read_mme", "write_mme", "write_mme_answers"),
    "pairs": ("ImageText", "read_pairs", "write_pairs"),
    "pope": ("PopeQuestion", "read_pope", "write_pope"),
    "preference": ("Preference", "read_preferences", "write_preferences"),
    "qilin": (
        "Note", "SearchRequest", "read_notes", "read_qrels", "read_search", "write_notes", "write_search",
    ),
    "shard_writer": ("write_shards",),
    "sniff": ("Layout",),
    "vqa": (
        "VqaAnswer", "VqaQuestion", "read_vqa", "read_vqa_results", "write_vqa", "write_vqa_results",
    ),
    "webdataset": ("read_samples", "read_shard"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
