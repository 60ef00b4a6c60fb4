"""Facts for a reward model: what is true of the picture, read beside it. Chapter 5.

LLaVA-RLHF's "factually augmented" reward (arXiv:2309.14525): a reward model that sees no better than
the policy is won over by the policy's own mistakes, so it is given the pictures' true captions as
text. The policy never sees them, in training or after.

Layout. The facts stand in the first user turn, after its pictures and before its words:

    <image>                                 <image>
    Is there a ring?                        a small red cross at the top.
                                            Is there a ring?

LLaVA-RLHF writes them into one more user turn behind the answer, with instructions for the rater. In
front they are seen by every token of the answer (attention looks back only), so a claim can be held
against them where it is made; a cut to `max_length` takes the end of the answer and never a fact; and
the last token stays the answer's own, at the same place with facts and without.
"""

from collections.abc import Mapping, Sequence

from labs.errors import InputError
from labs.formats import IMAGE, Turn
from labs.shapes import caption


def facts_of(about: Mapping, where: str) -> str:
    """The facts in `Preference.meta` or `Prompt.about`: a text, or texts, under "facts".

    Without them the true caption of the "scene" (in its "language"), if the picture is of the
    offline world. Raises InputError where there is neither: a fact that is missing must not pass for
    a picture without any.
    """
    facts = about.get("facts")
    if facts is None and about.get("scene") is not None:
        facts = caption(about["scene"], about.get("language", "en"))
    lines = [facts] if isinstance(facts, str) else facts
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
        lines = []
    text = "\n".join(line.strip() for line in lines if line.strip())
    if not text:
        raise InputError(
            f"{where} comes without facts, and the reward model is to read some.",
            'Give the true caption as "facts", or use a reward model that was trained without.',
        )
    return text.replace(IMAGE, "")


def add_facts(turns: Sequence[Turn], facts: str) -> tuple[Turn, ...]:
    """The turns with `facts` in the first user turn, as laid out above."""
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise InputError("A prompt without a user's turn has no place for facts.", "Ask something.")
    rest, pictures = turns[first].text, ""
    while rest.startswith(IMAGE):
        cut = len(IMAGE) + (rest[len(IMAGE) :].startswith("\n"))
        pictures, rest = pictures + rest[:cut], rest[cut:]
    if pictures and not pictures.endswith("\n"):
        pictures += "\n"
    told = Turn("user", f"{pictures}{facts}\n{rest}")
    return (*turns[:first], told, *turns[first + 1 :])
