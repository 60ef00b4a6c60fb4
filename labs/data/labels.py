"""The label mask: which tokens of a conversation of several turns carry loss."""

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from labs.data.template import ChatFormat
from labs.errors import InputError
from labs.formats import Conversation

IGNORE = -100


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One conversation as tokens.

    input_ids, labels: [T]; a label is the token itself where it carries loss and -100 elsewhere (no
    shift: the loss shifts). image_spans: [start, end) over tokens, one an image, in order.
    """

    input_ids: Int[Tensor, " tokens"]
    labels: Int[Tensor, " tokens"]
    image_spans: list[tuple[int, int]]


def build_labels(conversation: Conversation, processor, replacements: Sequence[str] = ()) -> Tokens:
    """Tokenise a conversation with its chat template and label what the assistant says.

    labels[t] = input_ids[t] if token t overlaps an answer or its end-of-turn token, else -100.
    System and user turns, role headers, image tokens and padding carry no loss; the end of turn
    does, or the model never learns to stop.

    processor: a Transformers processor or a text-only tokenizer, with a fast tokenizer.
    replacements: the text that stands for each image, e.g. "<image>" times 576, as the processor's
    `replace_image_token` gives it (`labs.data.encode` does all of that).

    Tokens are matched to answers by character offsets over the text with the images expanded, so
    any template and tokenizer works whose template only appends. Raises InputError for one that
    rewrites history, a slow tokenizer, and image tokens that do not match the images. Derived in
    chapter 3.
    """
    chat = ChatFormat.of(processor)
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers.",
            "Load the fast tokenizer (use_fast=True), which is backed by the tokenizers library.",
        )
    rendered = chat.locate(conversation)
    text, answers, images = rendered.text, rendered.spans, []
    places = _find_all(text, chat.image_token)
    if len(places) != len(replacements):
        raise InputError(
            f"Sample {conversation.id}: the rendered text holds {len(places)} image token(s) "
            f"{chat.image_token or ''}, but there are {len(replacements)} image(s).",
            "Look for the image token inside the text of a turn, or for an image too many.",
        )
    # An image is nearly always one token repeated. Then the text is tokenised with a single one and
    # the token repeated after: 576 tokens an image would take longer than all the words.
    repeats = _repeats(replacements, chat.image_token)
    if repeats is None:
        text, answers, images = _expand(text, answers, places, chat.image_token, replacements)
    # As Transformers does: a processor leaves the beginning-of-text token to its tokenizer, unless
    # the template wrote it; a tokenizer's chat template writes everything itself.
    bos = tokenizer.bos_token
    add_special = tokenizer is not processor and not (bos and text.startswith(bos))
    encoding = tokenizer(
        text, add_special_tokens=add_special, return_offsets_mapping=True, verbose=False
    )
    ids = np.array(encoding["input_ids"], dtype=np.int64)
    offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    is_answer = _covers(offsets, answers)
    if repeats:
        ids, is_answer, image_spans = _repeat(ids, is_answer, _starts_at(offsets, places), repeats)
    else:
        image_spans = _token_spans(offsets, images)
    for start, end in image_spans:
        is_answer[start:end] = False
    labels = np.where(is_answer, ids, IGNORE)
    return Tokens(torch.from_numpy(ids), torch.from_numpy(labels), image_spans)


def _find_all(text: str, word: str | None) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(word), text)] if word else []


def _repeats(replacements: Sequence[str], image_token: str | None) -> list[int] | None:
    """How often each replacement repeats the image token; None if one is anything else."""
    counts = [len(text) // len(image_token) for text in replacements]
    whole = all(t == image_token * n for t, n in zip(replacements, counts, strict=True))
    return counts if whole and all(counts) else None


def _repeat(ids, is_answer, at, counts):
    """Repeat the image token at each place; the spans are those of the repeated tokens."""
    repeats = np.ones(len(ids), dtype=np.int64)
    repeats[at] = counts
    ends = np.cumsum(repeats)[at]
    spans = [(int(end) - count, int(end)) for end, count in zip(ends, counts, strict=True)]
    return np.repeat(ids, repeats), np.repeat(is_answer, repeats), spans


def _expand(text, answers, places, image_token, replacements):
    """Put each image's replacement into the text and move the answers' spans along."""
    pieces, images, gained, last = [], [], [0], 0
    for at, replacement in zip(places, replacements, strict=True):
        pieces += (text[last:at], replacement)
        images.append((at + gained[-1], at + gained[-1] + len(replacement)))
        gained.append(gained[-1] + len(replacement) - len(image_token))
        last = at + len(image_token)
    pieces.append(text[last:])

    def shift(position: int) -> int:
        return position + gained[bisect_right(places, position - 1)]

    return "".join(pieces), [(shift(start), shift(end)) for start, end in answers], images


def _covers(offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """For each token, whether it overlaps a span [start, end).

    Byte-level tokenizers may trim white space off the offsets, so that a token of spaces only is
    left with an empty range at its own end: it belongs to the span that holds the character before.
    Tokens added by the tokenizer (beginning of text) are (0, 0) and belong to none.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    last = np.where(ends > starts, starts, starts - 1)
    if not spans:
        return np.zeros(len(offsets), dtype=bool)
    edges = np.array(spans, dtype=np.int64)
    # Spans are in order and do not touch: the first one that ends after the token's start decides.
    which = np.minimum(np.searchsorted(edges[:, 1], last, side="right"), len(edges) - 1)
    begin, end = edges[which, 0], edges[which, 1]
    return (last < end) & (np.maximum(ends, last + 1) > begin)


def _starts_at(offsets: np.ndarray, places: list[int]) -> np.ndarray:
    """The token that starts with the character at each place."""
    # Trimmed tokens and a leading (0, 0) keep the ends in order, so a binary search is enough.
    return np.searchsorted(offsets[:, 1], np.array(places, dtype=np.int64), side="right")


def _token_spans(offsets: np.ndarray, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The token range of each character span. Image tokens are whole tokens: the edges are exact."""
    first = _starts_at(offsets, [start for start, _ in spans])
    after = _starts_at(offsets, [end for _, end in spans])
    return list(zip(first.tolist(), after.tolist(), strict=True))
