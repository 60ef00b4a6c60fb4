"""How many tokens a picture becomes, by its size, as the processor itself says. Python 3.9 or newer.

The processor is run on a blank picture. Most processors can also tell the number from the size alone;
that is quick, and used where it agrees with the run on pictures of very different shapes (it does not
for every configuration: a LLaVA that resizes without cropping is told the size of the crop).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from labs.doctors.data.tokens.dialogue import Dialogue

PROBES = ((640, 480), (64, 48), (480, 1333), (1500, 320), (224, 224), (1021, 997))
LARGEST = 30_000_000  # pixels of a blank picture; larger ones only by the size


class Picture(NamedTuple):
    """tokens: what one image token becomes. visual: those of them that carry pixels. text: what to put
    in its place where neighbouring text may merge with it, else None."""

    tokens: int
    visual: int
    text: str | None = None


class Refused(Exception):
    """The processor refuses a picture of this size; the argument says why."""


class Pictures:
    """Tokens of pictures by size, remembered. `fixed` is what every size becomes, where that is so."""

    def __init__(self, processor: Any, dialogue: Dialogue):
        self._processor, self._dialogue = processor, dialogue
        tokenizer = dialogue.tokenizer
        self._id = getattr(processor, "image_token_id", None)
        if self._id is None:
            self._id = tokenizer.convert_tokens_to_ids(dialogue.image_token)
        self._known: dict[tuple[int, int], Picture | str] = {}
        self.fixed: Picture | None = None
        self._around: int | None = None  # marker tokens beside the visual ones, where constant
        probed = [(size, self.of(size)) for size in PROBES]
        if len({picture for _, picture in probed}) == 1:
            self.fixed = probed[0][1]
        around = {picture.tokens - picture.visual for _, picture in probed}
        plain = all(picture.text is None for _, picture in probed)
        if plain and len(around) == 1 and all(self._told(s) == p.tokens for s, p in probed):
            self._around = around.pop()

    def of(self, size: tuple[int, int] | None) -> Picture | None:
        """The tokens of a picture of (width, height); None where they cannot be told.

        Raises Refused where the processor does not take such a picture.
        """
        if self.fixed is not None or size is None:
            return self.fixed
        if size not in self._known:
            self._known[size] = self._find(size)
        found = self._known[size]
        if isinstance(found, str):
            raise Refused(found)
        return found

    def _find(self, size: tuple[int, int]) -> Any:
        if self._around is not None:
            tokens = self._told(size)
            if tokens is not None:
                return Picture(tokens, tokens - self._around)
        if size[0] * size[1] > LARGEST:
            return None
        try:
            return self._run(size)
        except Exception as error:  # processors refuse odd sizes in many ways
            return " ".join(str(error).split())[:200] or type(error).__name__

    def _told(self, size: tuple[int, int]) -> int | None:
        """By the processor's own arithmetic on (height, width), where it has one."""
        try:
            told = self._processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])
            return int(told["num_image_tokens"][0])
        except Exception:  # not there, or not for this size
            return None

    def _run(self, size: tuple[int, int]) -> Picture:
        from PIL import Image

        tokenizer = self._dialogue.tokenizer
        inputs = self._processor(
            images=[Image.new("RGB", size, "grey")],  # some take black for padding
            text=[self._dialogue.image_token],
            add_special_tokens=False,
        )
        ids = [int(i) for i in inputs["input_ids"][0]]
        # Gemma's placeholder is not the token that its pictures become: the one that is repeated is.
        visual = max(ids.count(i) for i in {self._id, *ids})
        special = set(tokenizer.all_special_ids) | {self._id}
        special |= {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        if ids and ids[0] in special and ids[-1] in special:
            return Picture(len(ids), visual)
        # Text at its ends could merge with its neighbours: it is tokenised in its place.
        text = tokenizer.decode(ids, skip_special_tokens=False)
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        return Picture(len(ids), visual, text if again == ids else None)
