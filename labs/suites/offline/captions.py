"""Captions: what is right in them, what is made up (CHAIR), what is left out, and how long they are."""

import functools
from collections.abc import Iterator, Sequence

from labs.evaluation.answers import read_text
from labs.evaluation.captions import cider, words
from labs.evaluation.reading import Reading
from labs.shapes import judge, make_record, mentions
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite, described, objects_of, ratio, scene_of
from labs.suites.summary import mean_of, mean_score, share, unparsed


class Captions(WorldSuite):
    """ "Describe the image.", judged object by object against the scene.

    The headline is the accuracy of whole captions: every object described without a contradiction
    and none added. CHAIR alone would be led by a model that says nothing, recall alone by one that
    names everything; only a caption that is true and whole gets this point. Beside it:

        chair_i  share of mentions that are of a kind the picture does not show
        chair_s  share of captions with such a mention
        recall   share of the kinds shown that are mentioned
        objects  objects mentioned a caption; length: words (characters in Chinese)
        cider    CIDEr-D against the true caption, 0 to 10; its interval draws the captions but
                 keeps the weights of words, which come from the whole set

    Lower is better for the first two, and they are read beside recall and length. An empty caption
    has the status "empty": it hallucinates nothing, recalls nothing, and is counted.

    Rohrbach et al. 2018 (CHAIR), arXiv:1809.02156; Vedantam et al. 2015 (CIDEr), arXiv:1411.5726.
    Chapter 7.
    """

    name = "captions"
    title = "Describe the image: hallucination (CHAIR), recall, length"

    def questions(self) -> Iterator[Question]:
        for index in range(self.n):
            record = make_record("caption", index, self.split, self.language)
            scene, [qa] = record["meta"]["scene"], record["meta"]["turns"]
            yield Question(
                id=record["id"],
                prompt=qa.question,
                answer=qa.answer,
                images=(record["image"],),
                about={
                    "objects": objects_of(scene), "language": self.language,
                    "description": described(scene, self.language, record["id"]),
                },
                max_new_tokens=112,
            )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_text(said)

    def score(self, question: Question, reading: Reading) -> float:
        return float(judge(scene_of(question.about["objects"]), reading.value).perfect)

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {
            "accuracy": mean_score(rows),
            "chair_i": ratio(rows, lambda r: len(made_up(r)), lambda r: len(mentioned(r))),
            "chair_s": share(rows, made_up),
            "recall": ratio(rows, lambda r: len(recalled(r)), lambda r: len(shown(r))),
            "objects": mean_of(rows, lambda r: len(mentioned(r))),
            "length": mean_of(rows, lambda r: len(words(r.said))),
        }
        if len(rows) > 1:  # CIDEr weighs words by how many pictures they belong to
            scores = cider([r.said for r in rows], [[r.answer] for r in rows], per_item=True)
            # A rounding error apart is equal: 10 of a perfect caption, whatever its words.
            of = dict(zip((r.id for r in rows), scores.round(9).tolist(), strict=True))
            found["cider"] = mean_of(rows, lambda r: of[r.id])
        found["unparsed"] = unparsed(rows)
        return found


def mentioned(row: Row) -> list[str]:
    """The kinds that the caption names, each as often as it does."""
    return list(_kinds(row.said))


@functools.lru_cache(maxsize=4096)  # each measure asks for them again
def _kinds(text: str) -> tuple[str, ...]:
    return tuple(m.kind for m in mentions(text))


def shown(row: Row) -> set[str]:
    return {o["kind"] for o in row.about["objects"]}


def recalled(row: Row) -> set[str]:
    """The kinds that are shown and mentioned."""
    return shown(row) & set(mentioned(row))


def made_up(row: Row) -> list[str]:
    """The mentions of kinds that the picture does not show."""
    there = shown(row)
    return [kind for kind in mentioned(row) if kind not in there]
