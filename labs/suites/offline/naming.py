"""Naming: the colour, the place or the kind of an object, one word of a known list."""

from collections.abc import Iterator, Sequence

from labs.errors import InputError
from labs.evaluation.answers import read_one_of
from labs.evaluation.reading import Reading
from labs.shapes import make_record, render, sample_scene, seeded
from labs.shapes.language import QUESTIONS, caption
from labs.shapes.oracle import ATTRIBUTES, parse_word
from labs.shapes.vocabulary import KINDS
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite, described, synonyms
from labs.suites.summary import mean_score, unparsed

NAMED = {
    "colour": "What colour is the ring?",
    "position": "Where is the ring?",
    "kind": "What is in the picture? of a single object",
}


class Naming(WorldSuite):
    """Questions whose answer is one word of a list: one of six colours, nine places or six kinds.

    - colour: "What colour is the ring?" and "What colour is the object at the top?" in turn;
    - position: "Where is the ring?";
    - kind: "What is in the picture?" of a picture with one object. Only the kind is read, so a
      caption that errs about colour or place is right here.

    Colours and kinds are asked for evenly; places are as they fall. Synonyms count, in both
    languages; two different words of the list in one answer are "several". The accuracy of every
    word is reported beside the whole, for what is confused is always a pair of them. Chapter 7.
    """

    def __init__(self, of: str = "colour", *, n: int = 500, language="en", split="test"):
        super().__init__(n=n, language=language, split=split)
        if of not in NAMED:
            raise InputError(f"There is no naming of {of!r}.", f"Use one of {', '.join(NAMED)}.")
        self.of = self.name = of
        self.title = NAMED[of]
        self.words = synonyms(ATTRIBUTES[of])

    def questions(self) -> Iterator[Question]:
        for index in range(self.n):
            if self.of == "kind":
                name, scene, image, prompt, answer = self._single(index)
            else:
                record = make_record(self.of, index, self.split, self.language)
                scene, [qa] = record["meta"]["scene"], record["meta"]["turns"]
                name, image, prompt, answer = record["id"], record["image"], qa.question, qa.answer
            yield Question(
                id=name, prompt=prompt, answer=answer, images=(image,),
                about={
                    "word": parse_word(answer, self.of), "language": self.language,
                    "description": described(scene, self.language, name),
                },
            )  # fmt: skip

    def _single(self, index: int):
        rng = seeded("naming", index, self.split)
        while True:
            scene = sample_scene(rng, self.split, count=1)
            if scene.objects[0].kind == KINDS[index % len(KINDS)]:
                break
        name = f"{self.split}-kind-{self.language}-{index}"
        prompt = QUESTIONS[self.language]["caption"][1]
        return name, scene, render(scene), prompt, caption(scene, self.language)

    def read(self, question: Question, said: str) -> Reading:
        return read_one_of(said, self.words)

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.about["word"])

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {"accuracy": mean_score(rows)}
        for word in self.words:
            if alike := [row for row in rows if row.about["word"] == word]:
                found[f"accuracy_{word.replace(' ', '_')}"] = mean_score(alike)
        found["unparsed"] = unparsed(rows)
        return found
