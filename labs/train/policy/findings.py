"""What a policy run's diary says is wrong with it. Chapter 5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labs.train.policy.rules import RULES
from labs.train.policy.view import CannotTell, View


@dataclass(frozen=True)
class Finding:
    """severity: "bad", "warning", or "unknown" where the diary lacks what `rule` reads."""

    severity: str
    title: str
    evidence: str
    advice: str
    rule: str = ""


def findings(
    entries: Sequence[Mapping[str, Any]], run: Mapping[str, Any] | None = None
) -> list[Finding]:
    """What is wrong, the worst first; then what cannot be told. A healthy, complete diary gives nothing.

    run: the run's description (`max_new_tokens`, `kl_target` and `algorithm` are looked up in it).
    """
    view = View(entries, run)
    found = []
    for rule, (title, judge) in RULES.items():
        try:
            found += [Finding(*what, rule=rule) for what in judge(view)]
        except CannotTell as why:
            advice = "Log it, or train longer, and read the diary again."
            found.append(Finding("unknown", f"{title}: cannot be told", str(why), advice, rule))
    return sorted(found, key=lambda f: ("bad", "warning", "unknown").index(f.severity))
