"""LLaVA's conversation JSON: read as a stream, written whole or not at all."""

import codecs
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from PIL import Image

from labs.errors import InputError
from labs.formats.conversation import Conversation, parse_conversation
from labs.formats.files import atomic_write, check_file

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


def read_conversations(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None, follow_links: bool = False
) -> Iterator[Conversation]:
    """Yield the conversations of a JSON list, one JSON object, or JSONL, one at a time.

    A list is decoded record by record, so that the 1 GB files of real instruction data need the
    memory of one record. Image paths are resolved under `image_root` (the file's own folder if
    None); a path that leaves it, by "..", by an absolute path or through a link, is refused
    (`follow_links=True` allows links, for a data folder that links to others).

    Raises InputError for a file that is missing or something else than JSON, bad JSON (with its
    line), a bad record (with its position) and a file without any record.
    """
    path = Path(path)
    check_file(path, "data file")
    root = Path(image_root) if image_root is not None else path.parent
    return _conversations(path, root, follow_links)


read_llava = read_conversations


def _conversations(path: Path, root: Path, follow_links: bool) -> Iterator[Conversation]:
    number = 0
    for number, (line, record) in enumerate(read_records(path), 1):
        where = f"{path}, line {line}" if line else f"{path}, record {number}"
        conversation = parse_conversation(record, where)
        images = tuple(
            resolve_image(image, root, where, follow_links) if isinstance(image, str) else image
            for image in conversation.images
        )
        yield Conversation(conversation.id, images, conversation.turns, conversation.meta)
    if number == 0:
        raise InputError(
            f"{path} holds no conversation: the data set is empty.",
            "Check that the right file was written.",
        )


def resolve_image(reference: str, root: Path, where: str, follow_links: bool = False) -> str:
    """The path of an image of a data set under `root`; raises InputError where it would leave `root`."""
    if reference.startswith("data:"):
        return reference
    if re.match(r"[a-z]+://", reference):
        raise InputError(
            f"{where}: the image {reference} is a web address.",
            "Download the images first: nothing is fetched while training.",
        )
    base = os.path.abspath(root)
    path = os.path.normpath(os.path.join(base, reference))  # an absolute reference replaces base
    inside = _is_under(path, base)
    if inside and not follow_links:
        # The folder's own links are looked up once; only the last step needs a look for each image.
        real = os.path.join(_real(os.path.dirname(path)), os.path.basename(path))
        inside = _is_under(os.path.realpath(real) if os.path.islink(real) else real, _real(base))
    if not inside:
        raise InputError(
            f"{where}: the image path {reference} leaves the data folder {base}.",
            "Move the images under it, or name the folder that holds them as the image root.",
        )
    return path


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def read_records(path: str | os.PathLike) -> Iterator[tuple[int | None, dict]]:
    """Yield (line, record) from a JSON list, an object or JSONL; the line is known for JSONL only."""
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = _first_character(file)
            if first == "[":
                yield from ((None, record) for record in _stream_list(file, path))
            else:
                yield from _lines_or_object(file, path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}).",
            "Convert it to UTF-8, or check that it is a JSON file at all.",
        ) from None


def _first_character(file: TextIO) -> str:
    """The first character that is not white space; the file is left at its start."""
    first = ""
    while block := file.read(4096):
        if block := block.lstrip(_SPACE):
            first = block[0]
            break
    file.seek(0)
    return first.lstrip(codecs.BOM_UTF8.decode())


def _lines_or_object(file: TextIO, path: Path) -> Iterator[tuple[int | None, dict]]:
    """JSONL, unless the first record goes on over several lines: then the file is one object."""
    first = True
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if not first:
                raise _bad_json(path, number, error.msg) from None
            file.seek(0)
            try:
                yield None, json.loads(file.read().lstrip("\ufeff"))
                return
            except json.JSONDecodeError as whole:
                # A line that ends like a record was meant as one; else blame the place further down.
                line_number = number if line.rstrip().endswith("}") else whole.lineno
                message = error.msg if line_number == number else whole.msg
                raise _bad_json(path, line_number, message) from None
        first = False
        yield number, record


def _stream_list(file: TextIO, path: Path) -> Iterator[dict]:
    """The elements of one JSON list, decoded one by one from a sliding window over the file.

    `raw_decode` needs a whole element in the window. When it fails the window may just end too
    early, so it is doubled and tried again; a failure at the end of the file is the author's.
    """
    decode = json.JSONDecoder().raw_decode
    window, position, line, ended, chunk = "", 0, 1, False, _CHUNK

    def more() -> None:
        nonlocal window, position, line, ended, chunk
        line += window.count("\n", 0, position)
        block = file.read(chunk)
        window, position, ended = window[position:] + block, 0, not block
        chunk = max(_CHUNK, len(window))

    def skip_space() -> str:
        nonlocal position
        while True:
            while position < len(window) and window[position] in _SPACE + "\ufeff":
                position += 1
            if position < len(window) or ended:
                return window[position : position + 1]
            more()

    def here(message: str, at: int | None = None) -> InputError:
        return _bad_json(
            path, line + window.count("\n", 0, position if at is None else at), message
        )

    skip_space()
    position += 1  # the opening bracket, which the caller has seen
    if skip_space() == "]":
        position += 1
        if skip_space():
            raise here("text after the end of the list")
        return
    while True:
        skip_space()
        try:
            record, end = decode(window, position)
            # A bare number may go on beyond the window: "1" may be the start of "1.5".
            after = window[end : end + 1]
            whole = isinstance(record, dict | list | str) or (after and after in ",]" + _SPACE)
            complete = whole or ended
        except json.JSONDecodeError as error:
            # Only an error near the window's end can be a cut: elsewhere the text itself is wrong.
            if ended:
                raise here(error.msg, error.pos) from None
            complete = False
        if not complete:
            more()
            continue
        position = end
        yield record
        separator = skip_space()
        position += 1
        if separator == "]":
            if skip_space():
                raise here("text after the end of the list")
            return
        if separator != ",":
            position -= 1
            raise here(
                "the list is cut off"
                if not separator
                else "expected a comma or the end of the list"
            )


def _bad_json(path: Path, line: int, message: str) -> InputError:
    message = message[:1].lower() + message[1:]
    return InputError(
        f"{path}, line {line}: bad JSON: {message}.",
        "Correct that line, or write the file again with a JSON library.",
    )


def write_llava(
    records: Iterable[dict | Conversation], path: str | os.PathLike, image_folder: str | None = None
) -> int:
    """Write conversations as LLaVA JSON, or as JSONL if `path` ends in .jsonl; return how many.

    Images held in memory are saved as PNG files in `image_folder` (default: the file's stem with
    "_images") beside the file and named by the record's number; paths under the file's folder are
    written relative to it. The file appears only when it is complete.
    """
    path = Path(path)
    folder = Path(image_folder or f"{path.stem}_images")
    lines, count = path.suffix == ".jsonl", 0
    with atomic_write(path) as file:
        for count, record in enumerate(records, 1):
            conversation = record
            if not isinstance(record, Conversation):
                conversation = parse_conversation(record, f"record {count}")
            images = [
                _image_path(image, path.parent, folder / f"{count - 1:06d}_{index}.png")
                for index, image in enumerate(conversation.images)
            ]
            text = json.dumps(_record(conversation, images), ensure_ascii=False, default=_plain)
            if lines:
                file.write(text + "\n")
            else:
                file.write(("[\n" if count == 1 else ",\n") + text)
        if count == 0:
            raise InputError(f"No conversation to write to {path}.", "Check what was selected.")
        if not lines:
            file.write("\n]\n")
    return count


def _record(conversation: Conversation, images: list[str]) -> dict:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    record: dict = {"id": conversation.id}
    if images:
        record["image"] = images[0] if len(images) == 1 else images
    record["conversations"] = [
        {"from": names[turn.role], "value": turn.text} for turn in conversation.turns
    ]
    if conversation.meta:
        record["meta"] = conversation.meta
    return record


def _image_path(image: str | Image.Image, parent: Path, target: Path) -> str:
    if isinstance(image, str):
        if os.path.isabs(image) and _is_under(os.path.normpath(image), os.path.abspath(parent)):
            return Path(os.path.relpath(image, parent.absolute())).as_posix()
        return image
    with atomic_write(parent / target, "wb") as file:
        image.save(file, format="PNG")
    return target.as_posix()


def _plain(value):
    """Dataclasses and tuples of a record's `meta` as JSON; anything else by its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # NumPy numbers and arrays
        return value.tolist()
    return str(value)
