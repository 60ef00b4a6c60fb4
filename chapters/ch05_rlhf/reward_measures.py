"""What is measured of one reward model, for `measure_ch05_reward_model.py`. Chapter 5."""


def differences(rated, pairs, facts: bool):
    """Raw reward(chosen) - reward(rejected), whose sigmoid is a probability."""
    import numpy as np

    from labs.train.reward_run import score_pairs

    found = score_pairs(rated, rated.processor, pairs, facts=facts, batch_size=128)
    return np.array(found.differences)


def calibration_of(rated, facts: bool, pairs: list, noise: float) -> dict:
    """Of 70 %, do 70 % come true? Pairs turned at random; annotators nobody asked before."""
    import numpy as np

    from labs.data.preference import Judged, panel, vote
    from labs.evaluation.calibration import expected_calibration_error, reliability

    difference = differences(rated, pairs, facts)
    turned = np.random.default_rng(0).random(len(pairs)) < 0.5
    probability = 1 / (1 + np.exp(-np.where(turned, -difference, difference)))
    found = {}
    for size in (1, 3):
        people = panel(size, seed=77, noise=noise)  # the recipe's have other seeds
        outcomes = []
        for pair, other_way in zip(pairs, turned, strict=True):
            a, b = (
                Judged(text, quality)
                for text, quality in zip(
                    (pair.chosen, pair.rejected), pair.meta["quality"], strict=True
                )
            )
            outcomes.append(vote(people, a, b, pair.id).majority != bool(other_way))
        found[f"{size} asked"] = {
            "n": len(pairs), "ece": expected_calibration_error(probability, outcomes),
            "curve": [b._asdict() for b in reliability(probability, outcomes)],
        }  # fmt: skip
    return found


def length_of(rated, facts: bool, asked, captions: list) -> dict:
    """Rewards of tiny-sft's captions against their length, at equal quality of one prompt."""
    from labs.data.preference import answer_quality
    from labs.evaluation import wilson_ci
    from labs.evaluation.calibration import length_bias
    from labs.models.rollout import sample_completions
    from labs.shapes import Mix
    from labs.train.policy.completion import Completion
    from labs.train.policy.rewards_model import ModelReward
    from labs.train.policy.world import WorldPrompts

    mix = Mix(tasks={"caption": 1.0}, chinese=0.0, digits=0.0)
    prompts = list(WorldPrompts(200, mix, "test", seed=9))
    said = sample_completions(
        *asked, [p.messages for p in prompts], [p.images for p in prompts], num_generations=8,
        max_new_tokens=112, seed=9,
    )  # fmt: skip
    again = [p for p in prompts for _ in range(8)]
    completions = [
        Completion(t, int(n), bool(f))
        for t, n, f in zip(said.texts, said.mask.sum(1), said.finished, strict=True)
    ]
    rewards = ModelReward(rated, rated.processor, 128, facts)(again, completions)
    strata = [
        f"{p.id} {answer_quality(p.about['qa'], p.about['scene'], c.text)}"
        for p, c in zip(again, completions, strict=True)
    ]
    found = {"sampled": length_bias(rewards, [len(t) for t in said.texts], strata)._asdict()}
    pairs = [p for p in captions if len(p.chosen) != len(p.rejected)]
    right = differences(rated, pairs, facts) > 0
    for row, longer in (("better is longer", True), ("better is shorter", False)):
        own = [r for r, p in zip(right, pairs, strict=True)
               if (len(p.chosen) > len(p.rejected)) == longer]  # fmt: skip
        found[row] = {"n": len(own), "accuracy": sum(own) / len(own)}
        found[row]["ci"] = list(wilson_ci(int(sum(own)), len(own)))
    return found


def faults_of(rated, facts: bool, corrected: list, questions: int) -> dict:
    """How often the true caption is preferred, by the fault of the other."""
    from labs.shapes import Mix, judge
    from labs.train.policy.world import WorldPrompts
    from labs.zoo.pairs import score_row

    kinds: dict[str, list] = {"invented": [], "left out": [], "misdescribed": []}
    mix = Mix(tasks={"caption": 1.0}, chinese=0.0, digits=0.0, adversarial=0.5)
    scenes = {p.id: p.about["scene"] for p in WorldPrompts(questions, mix, "test", seed=0)}
    for pair in corrected:
        found = judge(scenes[pair.id.rsplit("-", 2)[0]], pair.rejected)
        fault = (
            "invented" if found.hallucinated else "left out" if found.missing else "misdescribed"
        )
        kinds[fault].append(pair)
    return {fault: score_row(rated, pairs, facts) for fault, pairs in kinds.items()}
