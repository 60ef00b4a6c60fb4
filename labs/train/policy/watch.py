"""What the diary watches beside the reward: how often captions invent. Chapter 5."""

from collections.abc import Sequence

from labs.shapes import judge
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt


def world_watch(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> dict[str, float]:
    """hallucination_rate: share of captions that name a kind that is not there; objects_invented
    and objects_named: such mentions, and the scene's objects that are named, a caption. Empty where
    no prompt asks for a caption of a known scene."""
    invented, named = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        scene = prompt.about.get("scene")
        if prompt.task != "caption" or scene is None or scene.digits:
            continue
        verdict = judge(scene, completion.text)
        invented.append(sum(m.kind not in scene.kinds for m in verdict.hallucinated))
        named.append((len(verdict.right) + len(verdict.mistaken)) / len(scene.objects))
    if not invented:
        return {}
    n = len(invented)
    return {
        "hallucination_rate": sum(i > 0 for i in invented) / n,
        "objects_invented": sum(invented) / n,
        "objects_named": sum(named) / n,
    }
