"""A judge that takes an answer apart and asks about each piece."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from labs.errors import InputError
from labs.shapes import mentions, parse_yes_no
from labs.shapes.language import QUESTIONS
from labs.shapes.vocabulary import KINDS, say
from labs.suites.judge.base import PointwiseJudge, Request
from labs.suites.judge.model import JudgeModel
from labs.suites.judge.pairs import Pair, is_chinese


class Claim(NamedTuple):
    """A statement of an answer, as the yes/no question that checks it. about: what it names."""

    question: str
    about: str


def world_claims(text: str, language: str) -> list[Claim]:
    """One claim for every object that a text on the world mentions: "Is there a red ring?"

    What is said of size and place is not asked: the world has no such yes/no question, so a judge
    that lives in it cannot see those mistakes.
    """
    joint = "" if language == "zh" else " "
    claims = []
    for mention in mentions(text):
        words = [mention.colour, mention.kind] if mention.colour else [mention.kind]
        what = joint.join(say(word, language) for word in words)
        form = "conjunction" if mention.colour else "existence"
        claims.append(Claim(QUESTIONS[language][form][0].format(what=what), mention.kind))
    return claims


class ClaimJudge(PointwiseJudge):
    """The answer whose claims a model confirms in a larger share.

        precision = claims answered yes / claims read        (an answer without claims: 0)
        recall    = kinds that the model says are there and the answer names / kinds it says are there
        mark      = precision, or with by="f1" their harmonic mean, which asks six more questions a pair

    Precision alone favours whoever says little: one sure object beats four of which one is wrong.

    A claim whose answer is neither yes nor no is left out and counted (`notes["claims unread"]` of
    `notes["claims asked"]`). No verdict where neither answer makes a claim, or nothing of an answer's
    claims could be read. decompose: (text, language) -> claims, for other worlds than this one.

    FaithScore, Jing et al. 2023, arXiv:2311.01477 (claims checked against the picture). Chapter 7.
    """

    def __init__(
        self,
        model,
        processor,
        model_name: str,
        *,
        by: Literal["precision", "f1"] = "precision",
        decompose: Callable[[str, str], list[Claim]] = world_claims,
    ):
        super().__init__()
        if by not in ("precision", "f1"):
            raise InputError(f"by = {by!r} is unknown.", 'Use "precision" or "f1".')
        self.by, self.decompose = by, decompose
        self.name, self.model = f"claims ({by}) by {model_name}", model_name
        self.asked = JudgeModel(model, processor, model_name)

    def requests(self, pairs: Sequence[Pair]) -> list[Request]:
        return [
            Request(pair.images, question, None, MAX_NEW_TOKENS)
            for pair in pairs
            for question in self._questions(pair)
        ]

    def marks(self, pairs, *, batch_size=32, progress=None):
        said = iter(self.asked.say(self.requests(pairs), batch_size, progress))
        marks = []
        for pair in pairs:
            # A question that both answers raise is asked once.
            replies = {q: parse_yes_no(next(said)) for q in self._questions(pair)}
            self.notes["claims asked"] += len(replies)
            self.notes["claims unread"] += sum(reply is None for reply in replies.values())
            marks.append(self._marks(pair, replies))
        return marks

    def lengths(self, requests):
        return self.asked.lengths(requests)

    def describe(self) -> dict:
        return {"kind": "claims", "name": self.name, "model": self.model, "by": self.by}

    def _claims(self, pair: Pair) -> tuple[list[Claim], list[Claim]]:
        language = _language(pair)
        return self.decompose(pair.first, language), self.decompose(pair.second, language)

    def _questions(self, pair: Pair) -> list[str]:
        first, second = self._claims(pair)
        asked = [claim.question for claim in first + second]
        if self.by == "f1" and asked:
            asked += _kinds(_language(pair)).values()
        return list(dict.fromkeys(asked))

    def _marks(self, pair: Pair, replies: dict[str, str | None]):
        first, second = self._claims(pair)
        if not first and not second:
            return None, None
        seen = set()
        if self.by == "f1":
            kinds = _kinds(_language(pair))
            seen = {kind for kind, question in kinds.items() if replies[question] == "yes"}
        return self._mark(first, replies, seen), self._mark(second, replies, seen)

    def _mark(self, claims: list[Claim], replies, seen: set[str]) -> float | None:
        if not claims:
            return 0.0
        read = Counter(replies[claim.question] for claim in claims)
        if not read["yes"] + read["no"]:
            return None
        precision = read["yes"] / (read["yes"] + read["no"])
        if self.by == "precision" or not seen:
            return precision
        recall = len(seen & {claim.about for claim in claims}) / len(seen)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


MAX_NEW_TOKENS = 8  # a yes or a no, and its end


def _language(pair: Pair) -> str:
    return "zh" if is_chinese(pair.question + pair.first + pair.second) else "en"


def _kinds(language: str) -> dict[str, str]:
    """Every kind of the world -> the question whether it is there."""
    form = QUESTIONS[language]["existence"][0]
    return {kind: form.format(what=say(kind, language)) for kind in KINDS}
