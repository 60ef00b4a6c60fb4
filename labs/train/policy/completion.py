"""What a policy said, and what judges it. Chapter 5."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from labs.train.policy.prompts import Prompt


@dataclass(frozen=True)
class Completion:
    """One sampled answer. tokens: its length, the end token counted. finished: it ended by itself."""

    text: str
    tokens: int
    finished: bool


class Reward(Protocol):
    """Scores completions. `None` says nothing about one: it takes no part in the mix for it."""

    name: str

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]: ...
