"""What the diary watches of captions, and how scores become what is learnt from."""

import pytest

from labs.shapes import make_record, seeded
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards import MixedReward
from labs.train.policy.score import score
from labs.train.policy.watch import world_watch
from tests.train.policy.policy_runs import settings

KINDS = ("circle", "square", "triangle", "star", "ring", "cross")


def asked(task, number, **wanted):
    meta = make_record(task, number, "test", **wanted)["meta"]
    about = {"scene": meta["scene"], "qa": meta["turns"][0]}
    return Prompt(f"{task}{number}", ({"role": "user", "content": "?"},), task=task, about=about)


def said(text):
    return Completion(text, len(text.split()) + 1, True)


def test_inventions_are_counted_a_caption():
    prompts, answers, ghosts, named = [], [], [], []
    for i in range(12):
        prompt = asked("caption", i)
        scene, truth = prompt.about["scene"], prompt.about["qa"].answer
        absent = [k for k in KINDS if k not in scene.kinds][: seeded("ghost", i).randrange(3)]
        text = truth if i % 3 else truth.split(",")[0] + "."
        prompts.append(prompt)
        answers.append(said(text + "".join(f" There is a red {k}." for k in absent)))
        ghosts.append(len(absent))
        named.append(1.0 if i % 3 else 1 / len(scene.objects))
    # Answers to other questions take no part, whatever they name.
    prompts += [
        asked("existence", 0),
        Prompt("free", ({"role": "user", "content": "?"},), task="caption"),
    ]
    answers += [said("A red star, a red ring, a red cross."), said("A red star.")]
    assert {0, 1, 2} == set(ghosts)
    assert world_watch(prompts, answers) == {
        "hallucination_rate": sum(g > 0 for g in ghosts) / 12,
        "objects_invented": sum(ghosts) / 12,
        "objects_named": pytest.approx(sum(named) / 12),
    }


def test_without_captions_there_is_nothing_to_watch():
    assert world_watch([asked("existence", 0)], [said("Yes.")]) == {}


def test_a_reward_is_clipped_and_charged_for_length_and_a_missing_end():
    answers = [Completion("", 4, True), Completion("", 8, False), Completion("", 2, True)]
    prompts = [asked("existence", i) for i in range(3)]
    reward = MixedReward({"given": (lambda p, c: [5.0, 0.5, None], 2.0)})
    reward.skips.allow = True
    policy = settings(reward_clip=3.0, missing_eos_penalty=1.0, length_penalty=0.5)
    found = score(reward, prompts, answers, policy)
    assert found.values == [10.0, 1.0, None]
    assert found.shaped == [3.0 - 0.5 * 4 / 8, 1.0 - 1.0 - 0.5 * 8 / 8, None]
    assert found.parts == {"given": [5.0, 0.5, None]}
