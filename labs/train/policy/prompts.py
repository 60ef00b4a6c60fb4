"""What a policy is asked: a prompt with its pictures, and what a reward may know about it. Chapter 5."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One question of a rollout.

    messages: chat messages (`labs.models.user_message`), the last one the user's. images: Pillow
    images or paths, in the order of their placeholders. task: the name under which the diary
    averages. answer: the right answer, where one is known. about: what a reward needs beyond it
    (the scene, a caption); never shown to the policy.
    """

    id: str
    messages: tuple[dict, ...]
    images: tuple = ()
    task: str = ""
    answer: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the user's last turn says, without its pictures."""
        content = self.messages[-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content).strip()
