"""How every reader goes through an answer: marker, first sentence, the rest; then why not."""

from collections.abc import Callable

from labs.evaluation.answers.markers import after_marker
from labs.evaluation.answers.normal import normal, sentences
from labs.evaluation.answers.refusals import unread, without_refusals
from labs.evaluation.reading import Reading


def read_final(text: str, read: Callable[[str], Reading], *, refusals: bool = True) -> Reading:
    """What `read` finds in the final answer of a text.

    `read` takes normal text (`labs.evaluation.answers.normal`). After a marker the first sentence
    is read by itself, and the rest only where that says nothing: "Answer: 3. Two are red and one is
    blue" is 3. Sentences that refuse are left out, unless `refusals` is False (an option may be
    "cannot be determined"). Where nothing is read, `unread` says why.
    """
    said, marked = after_marker(text)
    said = normal(said)
    if refusals:
        said, _ = without_refusals(said)
    reading = Reading(None, "none")
    if said and marked:
        start, end = sentences(said)[0]
        reading = read(said[start:end].strip())
    if said and reading.status == "none":
        reading = read(said)
    return unread(text) if reading.status == "none" else reading
