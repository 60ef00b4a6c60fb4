"""How the rules ask a diary: for a quantity, its trend, a setting of the run. Chapter 5."""

from collections.abc import Mapping, Sequence
from typing import Any

from labs.train.policy.series import HUGE, Change, Series, change, number, series


class CannotTell(Exception):
    """What is missing, as a sentence."""


class View:
    """A diary as the rules ask it."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], run: Mapping[str, Any] | None):
        self.entries, self.run = entries, run or {}

    def get(self, name: str, least: int = 3) -> Series:
        """The finite values of a quantity; raises CannotTell with fewer than `least`."""
        found = series(self.entries, name)
        if len(found) < least:
            had = f"in only {len(found)} entries" if len(found) else "in no entry"
            raise CannotTell(f"{name} is {had}; at least {least} are needed.")
        return found

    def trend(self, name: str) -> Change:
        return change(self.get(name, 12))

    def has(self, name: str) -> bool:
        return len(series(self.entries, name)) > 0

    def setting(self, name: str) -> float | str | None:
        return setting(self.run, name)

    @property
    def critic(self) -> bool:
        """Whether the run has a value head: PPO does."""
        return self.setting("algorithm") == "ppo" or self.has("value_loss")

    def number(self, name: str) -> float | None:
        """A setting above 0, or None: a description may come from anywhere."""
        value = number(self.setting(name))
        return value if value is not None and 0 < value < HUGE else None


def setting(run: Mapping[str, Any], name: str, depth: int = 4) -> Any:
    """The first value of key `name` in nested dicts that is not None: configurations lie in configurations."""
    if run.get(name) is not None:
        return run[name]
    inner = (value for value in run.values() if isinstance(value, Mapping) and depth)
    found = (setting(value, name, depth - 1) for value in inner)
    return next((value for value in found if value is not None), None)
