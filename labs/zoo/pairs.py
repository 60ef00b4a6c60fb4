"""What a shipped reward model is scored by: held-out pairs of its base's own answers. Chapter 5."""

from labs.evaluation import wilson_ci
from labs.models.places import ADAPTERS

TASKS = ("caption", "existence", "conjunction", "count", "colour", "position", "reasoning")


def pair_accuracy(name: str, questions: int, show: bool = False) -> dict[str, dict[str, dict]]:
    """How often it prefers the better of two answers, by language and task.

    Its base answers up to `questions` held-out questions of each task four times (an eighth as many
    in Chinese); of each question one pair of answers of unequal quality counts, labelled by the
    oracle without noise. n is how many there were. A tie counts as wrong.
    """
    from labs.models import load_vlm
    from labs.models.scalar_head import RewardModel

    rated, asked = RewardModel.load(name), load_vlm(ADAPTERS[name])
    scores: dict[str, dict[str, dict]] = {}
    for language, count in (("en", questions), ("zh", max(1, questions // 8))):
        scores[language] = {}
        for task in TASKS:
            found = _score(rated, asked, task, language, count)
            if found is None:
                continue
            scores[language][task] = found
            if show:
                print(f"{name} {language} {task}: {100 * found['accuracy']:.1f} %", flush=True)
    return scores


def _score(rated, asked: tuple, task: str, language: str, count: int) -> dict | None:
    """One task's entry; None where no question got answers of unequal quality."""
    from labs.data.preference import Annotator
    from labs.shapes import Mix
    from labs.train.policy.world import WorldPrompts
    from labs.train.preferences import sample_pairs
    from labs.train.reward_run import score_pairs

    chinese = float(language == "zh")
    mix = Mix(tasks={task: 1.0}, chinese=chinese, digits=0.0, adversarial=0.5)
    prompts = WorldPrompts(count, mix, "test", seed=0)
    pairs, _ = sample_pairs(
        *asked, prompts, 4, 1.0, Annotator(noise=0.0), seed=0, per_prompt=1,
        max_new_tokens=64,
    )  # fmt: skip
    if not pairs:
        return None
    differences = score_pairs(rated, rated.processor, pairs, batch_size=128).differences
    right = sum(d > 0 for d in differences)
    return {
        "name": task, "language": language, "n": len(pairs), "correct": right,
        "accuracy": right / len(pairs), "ci": list(wilson_ci(right, len(pairs))),
    }  # fmt: skip
