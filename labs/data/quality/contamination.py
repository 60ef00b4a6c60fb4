"""Is the test set in the training set? By words and by pictures, exactly and nearly."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from labs.errors import InputError
from labs.formats import IMAGE, Conversation, load_image
from labs.formats.fingerprints import (
    BITS,
    DISTANCE,
    first_near,
    hamming,
    picture_hash,
    text_fingerprint,
)
from labs.formats.text_signs import words

NGRAM, SHORTEST, COMMON = 13, 5, 10
KINDS = ("sample", "text", "ngram", "image", "near_image")


class Hit(NamedTuple):
    """One test sample, the first training sample that it is found in, and what they share."""

    test: int
    train: int
    test_id: str
    train_id: str
    detail: str


@dataclass
class Contamination:
    """hits: of each of KINDS, one Hit for each test sample found so, in the order of the test set.

    unread: pictures that could not be opened, as sentences.
    """

    train_samples: int
    test_samples: int
    hits: dict[str, list[Hit]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    unread: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many test samples are found by each kind; one may be found by several."""
        return {kind: len(found) for kind, found in self.hits.items()}

    def affected(self, *kinds: str) -> set[int]:
        """Indices of the test samples found by any of the kinds (by any at all if none is named)."""
        return {hit.test for kind in kinds or KINDS for hit in self.hits[kind]}


def contamination(
    train: Iterable[Conversation],
    test: Iterable[Conversation],
    images: bool = True,
    distance: int = DISTANCE,
) -> Contamination:
    """Which samples of `test` are in `train`.

    - "text": all of the words of the turns are those of a training sample (case, spaces and
      punctuation aside);
    - "ngram": 13 words in a row are shared (a Han character is a word);
    - shorter texts: of a test sample without a picture and of 5 to 12 words, all of them must be found
      in a row. With a picture, or shorter still, it counts only as "sample": "Is there a dog? Yes"
      may be said of any picture. What occurs in more than 10 training samples is taken for a template
      or a common phrase (GPT-3's rules, arXiv:2005.14165, appendix C). Texts made from few words and
      one pattern, as the offline world's captions, share 13 words by chance: look at the examples;
    - "image": the same pixels, in whatever format they were written; "near_image": pictures that
      look alike (`picture_hash` within `distance` bits), which errs: look at the examples. Pictures
      of one colour are left out;
    - "sample": the same or a like picture with the same question and answer, however short.

    The training set is read as a stream: of it, fingerprints are kept. Chapter 2.
    """
    looker = _Looker(images)
    probes = [_probe(conversation, looker) for conversation in test]
    if not probes:
        raise InputError("The test set is empty.", "Check the path and what was selected.")
    index = _Index(probes)
    seen: list[_Probe] = []
    for number, conversation in enumerate(train):
        probe = _probe(conversation, looker)
        index.look(number, probe)
        seen.append(probe._replace(words=[]))
    report = Contamination(len(seen), len(probes), unread=looker.unread)
    for number, probe in enumerate(probes):
        for kind, where, detail in index.found(probe):
            report.hits[kind].append(Hit(number, where, probe.id, seen[where].id, detail))
    _compare_pictures(report, probes, seen, distance)
    return report


class _Picture(NamedTuple):
    pixels: bytes  # a digest of the decoded pixels
    look: int


class _Probe(NamedTuple):
    id: str
    words: list[str]
    text: int
    answers: frozenset[int]  # of each question with its answer
    pictures: tuple[_Picture, ...]
    shows: bool  # has a picture, be it read or not


class _Looker:
    """Fingerprints of pictures; a file that many samples show is opened once."""

    def __init__(self, on: bool):
        self.on, self.unread = on, []
        self._known: dict[str, _Picture | None] = {}

    def __call__(self, image: str | Image.Image) -> _Picture | None:
        if not self.on:
            return None
        if not isinstance(image, str):
            return self._open(image)
        if image not in self._known:
            self._known[image] = self._open(image)
        return self._known[image]

    def _open(self, image: str | Image.Image) -> _Picture | None:
        try:
            opened = load_image(image)
        except InputError as error:
            self.unread.append(error.what)
            return None
        look = picture_hash(opened)
        digest = hashlib.blake2b(repr(opened.size).encode() + opened.tobytes(), digest_size=16)
        return _Picture(digest.digest(), look) if look else None


def _probe(conversation: Conversation, looker: _Looker) -> _Probe:
    said = [t for t in conversation.turns if t.role != "system"]
    texts = [turn.text.replace(IMAGE, " ") for turn in said]
    pairs = [
        text_fingerprint(f"{question}\n{answer}")
        for question, answer in zip(texts[::2], texts[1::2], strict=False)
    ]
    whole = "\n".join(texts)
    pictures = tuple(p for p in map(looker, conversation.images) if p)
    return _Probe(
        conversation.id,
        words(whole),
        text_fingerprint(whole),
        frozenset(pairs),
        pictures,
        bool(conversation.images),
    )


class _Index:
    """The grams of the test set, and the training samples in which each was seen (a few of them)."""

    def __init__(self, probes: list[_Probe]):
        self._seen: dict[int, list[int]] = {}
        self._lengths: set[int] = set()
        for probe in probes:
            for length, gram in _grams(probe):
                self._lengths.add(length)
                self._seen[gram] = []
            self._seen[probe.text] = []

    def look(self, number: int, probe: _Probe) -> None:
        grams = {gram for n in self._lengths for gram in _of_length(probe.words, n)}
        for key in grams | {probe.text}:
            places = self._seen.get(key)
            if places is not None and len(places) <= COMMON:
                places.append(number)

    def found(self, probe: _Probe) -> list[tuple[str, int, str]]:
        out: list[tuple[str, int, str]] = []
        grams = _grams(probe)
        if not grams:
            return out
        if 0 < len(self._seen[probe.text]) <= COMMON:
            out.append(("text", self._seen[probe.text][0], " ".join(probe.words[:NGRAM])))
        for start, (length, gram) in enumerate(grams):
            if 0 < len(self._seen[gram]) <= COMMON:
                shared = " ".join(probe.words[start : start + length])
                out.append(("ngram", self._seen[gram][0], shared))
                break
        return out


def _grams(probe: _Probe) -> list[tuple[int, int]]:
    """(length, key) of the grams that a test sample is looked for by; none where it is too short."""
    length = min(NGRAM, len(probe.words))
    if length < (NGRAM if probe.shows else SHORTEST):
        return []
    return [(length, gram) for gram in _of_length(probe.words, length)]


def _of_length(text: list[str], length: int) -> list[int]:
    return [hash(tuple(text[i : i + length])) for i in range(len(text) - length + 1)]


def _compare_pictures(
    report: Contamination, probes: list[_Probe], seen: list[_Probe], distance: int
) -> None:
    same: dict[bytes, list[int]] = {}
    looks: dict[int, list[int]] = {}
    for number, probe in enumerate(seen):
        for picture in probe.pictures:
            same.setdefault(picture.pixels, []).append(number)
            looks.setdefault(picture.look, []).append(number)
    known = list(looks)
    wanted = sorted({picture.look for probe in probes for picture in probe.pictures})
    like = {
        look: known[at]
        for look, at in zip(wanted, first_near(wanted, distance, BITS, known), strict=True)
        if at is not None
    }
    for number, probe in enumerate(probes):
        found: dict[str, tuple[int, str]] = {}
        for picture in probe.pictures:
            exact = same.get(picture.pixels, [])
            near = looks[like[picture.look]] if picture.look in like else []
            if exact:
                found.setdefault("image", (exact[0], "the same pixels"))
            elif near:
                bits = hamming(picture.look, like[picture.look])
                found.setdefault("near_image", (near[0], f"{bits} of {BITS} bits differ"))
            for other in (*exact, *near):
                if probe.answers & seen[other].answers:
                    what = "the same" if other in exact else "a like"
                    detail = f"{what} picture with the same question and answer"
                    found.setdefault("sample", (other, detail))
                    break
        for kind, (where, detail) in found.items():
            report.hits[kind].append(Hit(number, where, probe.id, seen[where].id, detail))
