"""Readers and writers of public file formats.

Names are imported when they are first asked for (PEP 562): a doctor that reads text needs neither
Pillow nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__all__ = [
    "IMAGE", "MAX_PIXELS", "Conversation", "Turn", "atomic_write", "check_file", "load_image",
    "parse_conversation", "read_conversations", "read_llava", "read_records", "resolve_image", "write_llava",
]  # fmt: skip

_MODULES = {
    "conversation": ("Conversation", "Turn", "parse_conversation"),
    "dialects": ("IMAGE",),
    "files": ("atomic_write", "check_file"),
    "images": ("MAX_PIXELS", "load_image"),
    "llava": ("read_conversations", "read_llava", "read_records", "resolve_image", "write_llava"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
