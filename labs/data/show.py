"""A sample as the model sees it: which tokens it reads, which carry loss, which are image."""

import html
from collections.abc import Iterable

from rich.text import Text

from labs.data.encode import encode
from labs.data.labels import IGNORE
from labs.formats import Conversation

KINDS = {
    "context": ("read, no loss", "dim"),
    "label": ("read, carries loss", "bold green"),
    "image": ("image token", "magenta"),
    "special": ("special token, no loss", "cyan"),
}
_CSS = """body{font:15px/1.7 ui-monospace,monospace;max-width:60rem;margin:2rem auto;padding:0 1rem;
background:#fff;color:#555;white-space:pre-wrap;overflow-wrap:anywhere}.label{color:#0a6b2d;
background:#dff5e3;font-weight:600}.image{color:#8a1c8a;background:#f7e3f7}.special{color:#0b6b83}
@media(prefers-color-scheme:dark){body{background:#161616;color:#aaa}.label{color:#8fe3a4;
background:#133d20}.image{color:#eea6ee;background:#3c153c}.special{color:#7fd4e8}}"""


def describe(conversation: Conversation, processor, max_length: int | None = None) -> dict:
    """Encode a conversation and say of each token what it is.

    Returns {"id", "tokens", "labelled", "image_tokens", "images": [tokens of each], "runs"}; a run
    is a stretch of tokens of one kind: {"kind", "start", "ids", "text"}, kind one of KINDS. Runs,
    not tokens, are decoded: a Chinese character may lie in several tokens.
    """
    sample = encode(conversation, processor, max_length, overlong="truncate")
    tokenizer = getattr(processor, "tokenizer", processor)
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    image_id = getattr(processor, "image_token_id", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)

    def kind(token: int, label: int) -> str:
        if token == image_id:
            return "image"
        return "label" if label != IGNORE else "special" if token in special else "context"

    runs: list[dict] = []
    for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
        name = kind(token, label)
        if not runs or runs[-1]["kind"] != name:
            runs.append({"kind": name, "start": position, "ids": []})
        runs[-1]["ids"].append(token)
    for run in runs:
        run["text"] = tokenizer.decode(run["ids"], skip_special_tokens=False)
        if run["kind"] == "image":
            run["text"] = f"{tokenizer.decode(run['ids'][:1])} x {len(run['ids'])}"
    return {
        "id": conversation.id,
        "tokens": len(ids),
        "labelled": sum(label != IGNORE for label in labels),
        "image_tokens": ids.count(image_id),
        "images": sample["num_image_tokens"],
        "runs": runs,
    }


def as_text(described: dict) -> Text:
    """Coloured for the terminal. Where there is no colour, answers stand in brackets: [[…]]."""
    text = Text()
    for run in described["runs"]:
        before, after = ("[[", "]]") if run["kind"] == "label" else ("", "")
        text.append(before, "green")
        text.append(_visible(run["text"]), KINDS[run["kind"]][1])
        text.append(after, "green")
    return text


def summary(described: dict) -> str:
    """One line of numbers."""
    share = 100 * described["labelled"] / described["tokens"]
    return (
        f"{described['id']}: {described['tokens']} tokens, {described['labelled']} carry loss "
        f"({share:.0f} %), {described['image_tokens']} are image tokens of "
        f"{len(described['images'])} image(s)"
    )


def as_html(described: Iterable[dict]) -> str:
    """One static page, light and dark, without anything from outside."""
    parts = []
    for one in described:
        runs = "".join(
            f'<span class="{run["kind"]}" title="{KINDS[run["kind"]][0]}, '
            f'{len(run["ids"])} token(s) from {run["start"]}">{html.escape(run["text"])}</span>'
            for run in one["runs"]
        )
        parts.append(f"<h3>{html.escape(summary(one))}</h3>{runs}")
    legend = " · ".join(f'<span class="{k}">{name}</span>' for k, (name, _) in KINDS.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>What the model sees</title>'
        f"<style>{_CSS}</style><p>{legend}</p>{''.join(parts)}</html>\n"
    )


def _visible(text: str) -> str:
    """Control characters of the data must not move the reader's cursor."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
