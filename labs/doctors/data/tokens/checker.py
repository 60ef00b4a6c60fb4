# ruff: noqa: B905 - Python 3.9 has no zip(strict=)
"""Length, truncation and template of samples under one processor. Python 3.9 or newer.

A sample's text is tokenised with one image token for each picture, and what the processor puts in its
place is added: 576 tokens a picture would take longer than all the words.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

from labs.doctors.data.sample import Problem, Sample
from labs.doctors.data.tokens.dialogue import Dialogue, TemplateFails
from labs.doctors.data.tokens.lengths import Lengths
from labs.doctors.data.tokens.loading import load_processor
from labs.doctors.data.tokens.pictures import Picture, Pictures, Refused
from labs.doctors.data.tokens.special import special_tokens, split_tokens
from labs.formats.dialects import IMAGE

Sizes = Sequence[Optional["tuple[int, int]"]]


class Counted(NamedTuple):
    """problems of one sample; its tokens, the visual ones among them (None where they cannot be told)."""

    problems: list[Problem]
    tokens: int | None
    visual_tokens: int | None


@dataclasses.dataclass
class _Slot:
    """A picture's place in the text that is tokenised: characters [start, end), of `moved` more than
    the template wrote; `extra` tokens are added to those of the text."""

    start: int
    end: int
    moved: int
    picture: Picture | None

    @property
    def extra(self) -> int:
        picture = self.picture
        return picture.tokens - 1 if picture is not None and picture.text is None else 0


@dataclasses.dataclass
class _Draft:
    """A sample on its way: `rendered` by the template, `text` with the slots filled."""

    sample: Sample
    problems: list[Problem] = dataclasses.field(default_factory=list)
    rendered: str = ""
    text: str | None = None
    slots: list[_Slot] = dataclasses.field(default_factory=list)

    @property
    def known(self) -> bool:
        return all(slot.picture is not None for slot in self.slots)

    def extra(self, at: float = float("inf")) -> int:
        """Tokens added by the pictures that end at or before a character."""
        return sum(slot.extra for slot in self.slots if slot.end <= at)


# An answer that begins beyond max_length: the first, then all are lost, or the last.
_BEYOND = ("answer_cut_off", "later_answer_cut_off")


def make_checker(model: Any, max_length: int | None = None) -> Checker:
    """A checker for a processor or tokenizer: a folder, a hub name, or the object itself.

    Raises InputError where it cannot be loaded. Takes seconds (Transformers is imported): make one a
    process.
    """
    processor = load_processor(model) if isinstance(model, (str, os.PathLike)) else model
    return Checker(processor, max_length)


class Checker:
    """special_tokens: all that must stay whole. startup_problems: what is wrong with the processor
    itself. unchecked: sentences about what it cannot check, and why."""

    def __init__(self, processor: Any, max_length: int | None = None):
        self.max_length = max_length
        self._dialogue = Dialogue(processor)
        self._lengths = Lengths(self._dialogue.tokenizer)
        self._pictures: Pictures | None = None
        self.special_tokens = special_tokens(self._dialogue)
        self.startup_problems = split_tokens(self._dialogue.tokenizer, self.special_tokens)
        self.unchecked: list[str] = []
        if not self._dialogue.template:
            self.unchecked.append(
                "Lengths, truncation and the chat template were not checked: the model has no chat template."
            )
            return
        if max_length is None:
            self.unchecked.append("Truncation was not checked: no --max-length was given.")
        if self._dialogue.image_token is None:
            self.unchecked.append(
                "Visual tokens were not counted: the model is a tokenizer alone, without a processor of images."
            )
            return
        try:
            self._pictures = Pictures(processor, self._dialogue)
        except Exception as error:  # a processor that cannot be run on a blank picture
            words = " ".join(str(error).split())[:200] or type(error).__name__
            self.unchecked.append(f"Visual tokens were not counted: the processor fails ({words}).")

    @property
    def fixed_pictures(self) -> bool:
        """Whether every picture becomes as many tokens, so that sizes need not be known."""
        return self._pictures is None or self._pictures.fixed is not None

    def check(self, sample: Sample, image_sizes: Sizes = ()) -> Counted:
        """One sample. image_sizes: (width, height) of each picture as shown, None where unknown."""
        return self.check_many([(sample, image_sizes)])[0]

    def check_many(self, samples: Iterable[tuple[Sample, Sizes]]) -> list[Counted]:
        """Many samples, tokenised together."""
        drafts = [self._draft(sample, sizes) for sample, sizes in samples]
        lengths: dict[int, int] = {}
        for add_special in (False, True):
            chosen = [
                i
                for i, draft in enumerate(drafts)
                if draft.text is not None and self._dialogue.adds_special(draft.text) == add_special
            ]
            texts = [drafts[i].text for i in chosen]
            lengths.update(zip(chosen, self._lengths.many(texts, add_special)))
        return [
            self._judge(draft, lengths[i]) if i in lengths else Counted(draft.problems, None, None)
            for i, draft in enumerate(drafts)
        ]

    def _draft(self, sample: Sample, sizes: Sizes) -> _Draft:
        draft = _Draft(sample)
        if not self._dialogue.template or not sample.turns:
            return draft
        try:
            draft.rendered = self._dialogue.render(sample.turns)
        except TemplateFails as error:
            draft.problems.append(Problem("template_fails", str(error)))
            return draft
        self._fill(draft, sizes)
        return draft

    def _fill(self, draft: _Draft, sizes: Sizes) -> None:
        """Find the pictures' places in the rendered text, and what each becomes."""
        token = self._dialogue.image_token
        if token is None:
            draft.text = draft.rendered
            return
        first, *rest = draft.rendered.split(token)
        asked = sum(words.count(IMAGE) for _, words in draft.sample.turns)
        if asked == len(sizes) != len(rest):
            words = f"the template writes {token} {len(rest)} times for {len(sizes)} pictures"
            draft.problems.append(Problem("template_fails", words))
        text = [first]
        length = len(first)
        for number, piece in enumerate(rest):
            picture = self._picture(draft, sizes, number)
            word = token if picture is None or picture.text is None else picture.text
            draft.slots.append(_Slot(length, length + len(word), len(word) - len(token), picture))
            text += (word, piece)
            length += len(word) + len(piece)
        draft.text = "".join(text)

    def _picture(self, draft: _Draft, sizes: Sizes, number: int) -> Picture | None:
        if self._pictures is None or number >= len(sizes):
            return None
        try:
            return self._pictures.of(sizes[number])
        except Refused as error:
            width, height = sizes[number]
            words = f"the processor refuses {width} x {height}: {error}"
            draft.problems.append(Problem("absurd_image", words))
            return None

    def _judge(self, draft: _Draft, length: int) -> Counted:
        tokens = length + draft.extra()
        limit = self.max_length
        if limit is not None and tokens > limit:
            self._judge_cut(draft, tokens, limit)
        elif limit is not None:
            self._judge_alternatives(draft, tokens, limit)
        if not draft.known:
            return Counted(draft.problems, None, None)
        visual = sum(slot.picture.visual for slot in draft.slots)
        return Counted(draft.problems, tokens, visual)

    def _judge_cut(self, draft: _Draft, tokens: int, limit: int) -> None:
        """What truncation to `limit` takes away."""
        text, turns = draft.text, draft.sample.turns
        find = self._lengths.finder(text, self._dialogue.adds_special(text))
        told = f"{'' if draft.known else 'at least '}{tokens:,} tokens, max_length {limit:,}"

        def begins(turn: int) -> int:
            at = self._dialogue.answer(turns, draft.rendered, turn)
            for slot in draft.slots:  # from the rendered text into the filled one
                at += slot.moved if slot.start < at else 0
            return find(at) + draft.extra(at)

        answers = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
        for turn, kind, which in zip(answers[:1] + answers[-1:], _BEYOND, ("first", "last")):
            if (begun := begins(turn)) >= limit:
                words = f"the {which} answer begins at token {begun + 1:,}, max_length {limit:,}"
                draft.problems.append(Problem(kind, words))
                break
        else:
            draft.problems.append(Problem("overlong", told))
        lost = sum(find(slot.end) + draft.extra(slot.end) > limit for slot in draft.slots)
        if lost:
            words = f"{lost} of {len(draft.slots)} pictures lie wholly or partly beyond; {told}"
            draft.problems.append(Problem("image_cut_off", words))

    def _judge_alternatives(self, draft: _Draft, tokens: int, limit: int) -> None:
        """The other answer of a preference pair may be the longer one."""
        turns, others = draft.sample.turns, draft.sample.alternatives
        if not others or turns[-1][0] != "assistant":
            return
        own, *lengths = self._lengths.many([turns[-1][1], *others], False)
        longest = tokens - own + max(lengths)
        if longest > limit:
            words = f"{longest:,} tokens with the other answer, max_length {limit:,}"
            draft.problems.append(Problem("overlong", words))
