"""Why a picture was not changed, and how often."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from labs.formats import Conversation


class Refused(Exception):
    """The change would make the text false, or nobody can tell whether it would.

    reason: one of a few names, for counting. detail: what exactly, in the words of the text.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Outcomes:
    """How many conversations were changed, and why the others were not (an example of each reason)."""

    applied: int = 0
    refused: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of all that were tried, how many were changed; 0 where none was tried."""
        total = self.applied + self.refused.total()
        return self.applied / total if total else 0.0


def augmented(
    conversations: Iterable[Conversation],
    change: Callable[[Conversation], Conversation],
    outcomes: Outcomes,
) -> Iterator[Conversation]:
    """The changed copies of all conversations that can be changed; the rest is counted in `outcomes`."""
    for conversation in conversations:
        try:
            changed = change(conversation)
        except Refused as refused:
            outcomes.refused[refused.reason] += 1
            outcomes.examples.setdefault(refused.reason, f"{conversation.id}: {refused.detail}")
        else:
            outcomes.applied += 1
            yield changed
