"""CHAIR: which of the objects a caption names are not in the picture."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from labs.evaluation.checks import check_items


class ChairScores(NamedTuple):
    chair_i: float  # share of mentions that are of absent objects
    chair_s: float  # share of captions with at least one such mention
    recall: float  # share of the objects shown that are mentioned


def chair_scores(
    mentioned: Sequence[Collection[str]], true: Sequence[Collection[str]]
) -> ChairScores:
    """Caption hallucination, from the objects each caption mentions and those its picture shows.

        chair_i = #(mentions of absent objects) / #(mentions)
        chair_s = #(captions with such a mention) / #(captions)
        recall  = sum #(mentioned and shown) / sum #(shown)

    Lower is better for the first two; they are read beside recall, because a caption that says
    nothing hallucinates nothing. As in the authors' code an object mentioned twice is two mentions;
    recall counts each object once. Objects are compared as given: join synonyms before. A ratio
    with nothing below it is 0. Raises InputError for no captions or lists that do not pair up.

    Rohrbach et al. 2018, arXiv:1809.02156, section 2. Chapter 7.
    """
    check_items("chair_scores", mentioned, true)
    mentions = absent = bad_captions = found = shown = 0
    for said, objects in zip(mentioned, true, strict=True):
        objects = set(objects)
        wrong = sum(name not in objects for name in said)
        mentions += len(said)
        absent += wrong
        bad_captions += wrong > 0
        found += len(objects & set(said))
        shown += len(objects)
    return ChairScores(
        chair_i=absent / mentions if mentions else 0.0,
        chair_s=bad_captions / len(true),
        recall=found / shown if shown else 0.0,
    )
