"""From several sampled answers a prompt to preference pairs, and what was left out. Chapter 5."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from labs.data.preference.annotators import Annotator, Judged, vote
from labs.data.preference.keys import image_key, pair_key, truncated
from labs.errors import InputError
from labs.formats import Preference, Turn
from labs.shapes import seeded

DROPPED = {
    "tied": "both answers are the same text",
    "empty": "an answer with nothing in it",
    "duplicate": "the same two answers to the same prompt again",
    "truncation": "equal after truncation",
    "equal_quality": "equally good answers",
    "split": "annotators split evenly",
    "over_limit": "more pairs than wanted of one prompt",
}


@dataclass(frozen=True)
class Sampled:
    """One prompt and the answers sampled to it, with their qualities (`answer_quality`).

    prompt: turns, the last the user's, with "<image>" where an image stands. facts: what is true of
    the picture, in words; LLaVA-RLHF's factually augmented reward model reads it. meta: further
    fields for the pair's record.
    """

    id: str
    images: tuple
    prompt: tuple[Turn, ...]
    answers: tuple[str, ...]
    quality: tuple[float, ...]
    facts: str | None = None
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        if len(self.answers) != len(self.quality):
            raise ValueError(f"{len(self.answers)} answers and {len(self.quality)} qualities")


@dataclass
class PairReport:
    """prompts and answers given, pairs looked at (`possible`), made, and dropped by reason.

    possible = made + sum(dropped.values()). prompts_without: prompts of which no pair was made.
    unjudged: prompts left out because nothing says how good their answers are.
    """

    prompts: int = 0
    answers: int = 0
    possible: int = 0
    made: int = 0
    prompts_without: int = 0
    unjudged: int = 0
    dropped: Counter = field(default_factory=Counter)

    def to_dict(self) -> dict:
        fields = ("prompts", "answers", "possible", "made", "prompts_without", "unjudged")
        return {**{name: getattr(self, name) for name in fields}, "dropped": dict(self.dropped)}


def make_pairs(
    samples: Iterable[Sampled],
    annotators: Annotator | Sequence[Annotator],
    *,
    keep_equal: bool = False,
    per_prompt: int | None = None,
    tokenize: Callable[[str], Sequence] | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> tuple[list[Preference], PairReport]:
    """Every pair of a prompt's answers that can teach something, labelled by the annotators' majority.

    Dropped and counted, by the first reason that holds (`DROPPED`): equal texts; an answer without
    text; two texts that this prompt already has as a pair; texts whose first `max_tokens` tokens
    (by `tokenize`) are equal; qualities that are equal, unless `keep_equal`; a panel split evenly.
    Of the rest at most `per_prompt` a prompt are kept, drawn by `seed`.

    Which answer an annotator sees first is drawn for each. `meta` keeps "quality" and "lengths"
    (characters) as [chosen, rejected], "votes" (for each annotator whether it agrees), "first" (for
    each whether it saw the chosen one first), "agreement", "margin" (how much better the chosen one
    seemed, on average and at least 0), "facts", and the sample's own meta.

    Raises InputError for no annotators, and for one of tokenize and max_tokens alone. Chapter 5.
    """
    people = (annotators,) if isinstance(annotators, Annotator) else tuple(annotators)
    if not people:
        raise InputError("Nobody is there to compare the answers.", "Pass one annotator at least.")
    if (tokenize is None) != (max_tokens is None):
        raise InputError(
            "Only one of `tokenize` and `max_tokens` was given.",
            "Pass both to drop pairs that truncation makes equal, or neither.",
        )
    report, pairs, seen = PairReport(), [], set()
    for sample in samples:
        report.prompts += 1
        report.answers += len(sample.answers)
        made, shown = 0, tuple(map(image_key, sample.images))
        candidates = list(itertools.combinations(range(len(sample.answers)), 2))
        if per_prompt is not None:
            seeded("pairs", seed, sample.id).shuffle(candidates)
        for i, j in candidates:
            report.possible += 1
            texts = sample.answers[i].strip(), sample.answers[j].strip()
            a, b = (Judged(t, sample.quality[k]) for t, k in zip(texts, (i, j), strict=True))
            key = pair_key(sample.prompt, shown, texts)
            reason = None
            if a.text == b.text:
                reason = "tied"
            elif not (a.text and b.text):
                reason = "empty"
            elif key in seen:
                reason = "duplicate"
            elif tokenize and truncated(a.text, tokenize, max_tokens) == truncated(
                b.text, tokenize, max_tokens
            ):
                reason = "truncation"
            elif a.quality == b.quality and not keep_equal:
                reason = "equal_quality"
            elif per_prompt is not None and made >= per_prompt:
                reason = "over_limit"
            else:
                votes = vote(people, a, b, f"{sample.id}/{i}-{j}")
                if votes.majority is None:
                    reason = "split"
            if reason:
                report.dropped[reason] += 1
                continue
            seen.add(key)
            made += 1
            pairs.append(_preference(sample, f"{sample.id}-{i}-{j}", a, b, votes))
        report.made += made
        report.prompts_without += made == 0
    return pairs, report


def _preference(sample: Sampled, name: str, a: Judged, b: Judged, votes) -> Preference:
    chosen, rejected = (a, b) if votes.majority else (b, a)
    strength = sum(votes.strength) / len(votes.strength)
    meta = {
        **sample.meta,
        "quality": [chosen.quality, rejected.quality],
        "lengths": [len(chosen.text), len(rejected.text)],
        "votes": [v == votes.majority for v in votes.for_a],
        "first": [f == votes.majority for f in votes.a_first],
        "agreement": votes.agreement,
        "margin": max(0.0, strength if votes.majority else -strength),
    }
    if sample.facts is not None:
        meta["facts"] = sample.facts
    return Preference(name, sample.images, sample.prompt, chosen.text, rejected.text, meta)
