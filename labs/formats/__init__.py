"""Readers and writers of public file formats."""

from labs.formats.conversation import IMAGE, Conversation, Turn, parse_conversation
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
