"""What a shipped reward model is scored by: held-out pairs, both truths as often. Chapter 5."""

from collections.abc import Sequence

from labs.evaluation import wilson_ci
from labs.formats import Preference
from labs.models.places import ADAPTERS

TASKS = ("caption", "existence", "conjunction", "count", "colour", "position", "reasoning")
OWN = "caption"  # the task whose pairs are its base's own answers; the base is seldom of two minds of others


def pair_accuracy(name: str, questions: int, show: bool = False) -> dict[str, dict[str, dict]]:
    """How often it prefers the better of two answers, by language and task.

    Up to `questions` held-out questions of each task (an eighth as many in Chinese), half of those
    that ask for yes or no answered yes. Of each a pair of the true answer and a plausible wrong one
    (`labs.data.preference.corrected`) counts; "existence, yes" are those whose truth is yes.
    "caption" are pairs of its base's own captions, of four samples the first two of unequal quality,
    labelled by the oracle without noise; "caption, corrected" true captions against spoilt ones. n is
    how many there were. A tie counts as wrong. The yes/no questions' pairs of its base's own answers
    are left out: where it is of two minds, the truth is nearly always no.
    """
    from labs.models import load_vlm
    from labs.models.scalar_head import RewardModel

    rated, asked = RewardModel.load(name), load_vlm(ADAPTERS[name])
    scores: dict[str, dict[str, dict]] = {}
    for language, count in (("en", questions), ("zh", max(2, questions // 8))):
        scores[language] = {}
        for task in TASKS:
            for row, pairs in held_out_pairs(asked, task, language, count).items():
                if not pairs:
                    continue
                found = score_row(rated, pairs)
                scores[language][row] = {"name": row, "language": language, **found}
                if show:
                    print(f"{name} {language} {row}: {100 * found['accuracy']:.1f} %", flush=True)
    return scores


def held_out_pairs(
    asked: tuple | None, task: str, language: str, count: int, split: str = "test"
) -> dict[str, list[Preference]]:
    """One task's pairs by the row they count in; yes/no questions in three: all, and by truth.

    asked: (model, processor) that captions are sampled from; None leaves these pairs out.
    """
    from labs.data.preference import Annotator
    from labs.shapes import Mix
    from labs.train.policy.world import WorldPrompts
    from labs.train.preferences import sample_pairs

    mix = Mix(tasks={task: 1.0}, chinese=float(language == "zh"), digits=0.0, adversarial=0.5)
    prompts, oracle = WorldPrompts(count, mix, split, seed=0), Annotator(noise=0.0)
    written, _ = sample_pairs(None, None, prompts, annotator=oracle, corrected=1.0)
    if task == OWN:
        if asked is None:
            return {f"{task}, corrected": written}
        own, _ = sample_pairs(*asked, prompts, annotator=oracle, per_prompt=1, max_new_tokens=112)
        return {task: own, f"{task}, corrected": written}
    rows = {task: written}
    verdicts = {"yes": "yes", "no": "no", "是": "yes", "否": "no"}
    for pair in written:
        if pair.meta["answer"] in verdicts:
            rows.setdefault(f"{task}, {verdicts[pair.meta['answer']]}", []).append(pair)
    return rows


def score_row(rated, pairs: Sequence[Preference], facts: bool = False) -> dict:
    """n, correct, accuracy and its Wilson interval of a reward model on pairs."""
    from labs.train.reward_run import score_pairs

    found = score_pairs(rated, rated.processor, pairs, facts=facts, batch_size=128).differences
    right = sum(d > 0 for d in found)
    return {
        "n": len(pairs), "correct": right, "accuracy": right / len(pairs),
        "ci": list(wilson_ci(right, len(pairs))),
    }  # fmt: skip
