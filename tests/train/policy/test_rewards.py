"""Rewards: the oracle's, a file's answers, penalties, their mix, and rewards that misbehave."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.models import user_message
from labs.shapes import Mix, Object, Scene, caption
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SIZES
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards import (
    AnswerReward,
    HallucinationPenalty,
    MixedReward,
    RewardSkips,
    WorldReward,
    YesBiasBonus,
    run_reward,
    shape_rewards,
)
from labs.train.policy.world import WorldPrompts

RING = Object("ring", "red", "large", 0)
STAR = Object("star", "blue", "small", 8)


def said(*texts):
    return [Completion(text, len(text.split()) + 1, True) for text in texts]


def asked(answer=None, question="What?", **about):
    return Prompt("p-1", (user_message(question),), answer=answer, about=about)


def describe(*objects):
    """A prompt for a description of a scene, made by hand."""
    from labs.shapes import QA

    scene = Scene(tuple(objects))
    qa = QA("caption", "Describe the image.", caption(scene), {})
    return Prompt("c-1", (user_message(qa.question),), task="caption", answer=qa.answer,
                  about={"scene": scene, "qa": qa, "language": "en"})  # fmt: skip


@pytest.fixture(scope="module")
def world():
    tasks = dict.fromkeys(
        ("caption", "existence", "conjunction", "count", "colour", "position", "grounding",
         "reasoning", "dialogue"), 1.0,
    )  # fmt: skip
    return list(WorldPrompts(150, Mix(tasks=tasks)))


def test_true_answers_to_every_task_are_worth_one(world):
    completions = said(*(p.answer for p in world))
    assert {p.task for p in world} >= {"caption", "grounding", "dialogue", "ocr", "reasoning"}
    assert WorldReward()(world, completions) == [1.0] * len(world)
    assert AnswerReward()(world, completions) == [1.0] * len(world)
    assert HallucinationPenalty()(world, completions) == [0.0] * len(world)


def test_another_prompts_answer_is_often_wrong_and_nonsense_always(world):
    shifted = [p.answer for p in world[1:]] + [world[0].answer]
    values = WorldReward()(world, said(*shifted))
    assert sum(v == 1 for v in values) < len(world) / 2
    reward = WorldReward()
    assert reward(world, said(*["hm"] * len(world))) == [0.0] * len(world)
    captions = sum(p.task == "caption" for p in world)
    assert captions > 0 and reward.unread == len(world) - captions


def test_a_caption_is_scored_by_the_formula_in_the_docstring():
    prompt = describe(RING, STAR)
    texts = {
        "a large red ring at the top left, a small blue star at the bottom right.": 1.0,
        "a large red ring at the top left.": 1 / 2,
        "": 0.0,
        "a large red ring at the top left, a small blue star at the left.": (1 - 0.5) / 2,
        "a large red ring at the top left, a small green cross at the left.": (1 - 1.5) / 2,
        "a large red ring at the top left, a large red ring at the top left.": (1 - 1.5) / 2,
        "a green cross, a green circle, a green square": -1.0,  # -4.5 / 2, clipped
    }
    values = WorldReward()([prompt] * len(texts), said(*texts))
    assert values == pytest.approx(list(texts.values()))
    harsh = WorldReward(hallucination=1.75, mistake=0)
    values = harsh([prompt] * len(texts), said(*texts))
    assert values[3] == pytest.approx(1 / 2) and values[4] == pytest.approx(-0.75 / 2)
    with pytest.raises(ValueError, match="hallucination"):
        WorldReward(hallucination=1.0)([prompt], said("a ring"))


objects = st.builds(Object, st.sampled_from(KINDS), st.sampled_from(COLOURS),
                    st.sampled_from(SIZES), st.integers(0, 8))  # fmt: skip
scenes = st.lists(objects, min_size=1, max_size=4, unique_by=lambda o: o.cell)


@given(scenes, st.data())
def test_an_invented_object_costs_more_than_a_missed_one(shown, data):
    prompt, scene = describe(*shown), Scene(tuple(shown))
    absent = sorted(set(KINDS) - scene.kinds)
    ghost = Object(data.draw(st.sampled_from(absent)), "red", "large",
                   data.draw(st.integers(0, len(CELLS) - 1)))  # fmt: skip
    full = caption(scene)
    less = caption(Scene(tuple(shown[1:]))) if shown[1:] else ""
    more = caption(Scene((*shown, ghost)))
    whole, missed, invented = WorldReward()([prompt] * 3, said(full, less, more))
    assert whole == 1.0
    assert invented < missed < whole


def test_prompts_without_a_scene_or_an_answer_say_nothing():
    for reward in (WorldReward(), AnswerReward(), HallucinationPenalty(), YesBiasBonus()):
        assert reward([asked()], said("yes")) == [None]


@pytest.mark.parametrize(
    ("prompt", "text", "wanted"),
    [
        (asked("yes"), "Yes, there is.", 1),
        (asked("Yes."), "No.", 0),
        (asked("否"), "没有", 1),
        (asked("3"), "There are three of them.", 1),
        (asked("three"), "3", 1),
        (asked("3"), "2", 0),
        (asked("B"), "The answer is (B).", 1),
        (asked("B"), "C", 0),
        (asked("B", options=["a ring", "a star"]), "a star", 1),
        (asked("a star", options=["a ring", "a star"]), "B", 1),
        (asked("a star", options=["a ring", "a star"]), "A", 0),
        (asked("New York"), "The answer is **new  york**.", 1),
        (asked("New York"), "York", 0),
        (asked("New York"), "", 0),
    ],
)
def test_an_answer_is_read_as_the_right_one_is_written(prompt, text, wanted):
    assert AnswerReward()([prompt], said(text)) == [wanted]


def test_unreadable_answers_are_counted():
    reward = AnswerReward()
    assert reward([asked("yes")] * 3, said("maybe", "", "no")) == [0, 0, 0]
    assert reward.unread == 2


def test_hallucinated_kinds_are_counted_once_each_and_denials_are_none():
    prompt = describe(RING)
    texts = ["a ring", "a ring, a star", "a star, two stars, a cross", "there is no star", "yes"]
    assert HallucinationPenalty()([prompt] * 5, said(*texts)) == [0, -1, -2, 0, 0]


def test_the_yes_bias_bonus_is_asymmetric():
    truths = [asked(a) for a in ("no", "no", "no", "yes", "yes", "否", "red")]
    texts = ["no", "Yes.", "hm", "no", "yes", "没有", "no"]
    assert YesBiasBonus()(truths, said(*texts)) == [0.5, -0.5, 0, 0, 0, 0.5, None]


def constant(*values):
    def reward(prompts, completions):
        return list(values)

    return reward


def test_a_mix_is_the_weighted_sum_of_those_that_say_something():
    mix = MixedReward({
        "a": (constant(1, 2, None), 1.0), "b": (constant(10, None, None), 0.5),
        "c": constant(-1, -1, 4),
    })  # fmt: skip
    mixed = mix.score([asked()] * 3, said("x", "y", "z"))
    assert mixed.values == [1 + 5 - 1, 2 - 1, 4]
    assert mixed.parts == {"a": [1, 2, None], "b": [10, None, None], "c": [-1, -1, 4]}
    assert mix([asked()] * 3, said("x", "y", "z")) == mixed.values
    assert mix.skips.seen == 6 and mix.skips.total == 0


def test_what_nobody_judges_and_what_is_not_finite_is_skipped_and_counted():
    mix = MixedReward({"a": constant(None, math.nan, 1), "b": constant(None, 1, math.inf)})
    mixed = mix.score([asked()] * 3, said("x", "y", "z"))
    assert mixed.values == [None] * 3
    assert mixed.parts == {"a": [None, None, 1], "b": [None, 1, None]}
    assert mix.skips.counts == {
        "judged by no reward": 1, "not finite from a": 1, "not finite from b": 1,
    }  # fmt: skip


def test_more_than_a_hundredth_skipped_of_a_hundred_stops_the_run():
    values = [math.nan] + [1.0] * 49
    mix = MixedReward({"spiky": constant(*values)})
    batch = [asked()] * 50, said(*(f"answer {i}" for i in range(50)))
    mix.score(*batch)  # one of 50: too few to judge
    with pytest.raises(InputError) as error:
        mix.score(*batch)
    assert "2 of 100" in error.value.what and "spiky" in error.value.what
    assert "answer 0" in error.value.what and "allow_skips" in error.value.do
    # Exactly one in a hundred is within the limit.
    fine = MixedReward({"rare": constant(math.nan, *[1.0] * 99)})
    fine.score([asked()] * 100, said(*["x"] * 100))
    allowed = MixedReward({"spiky": constant(*values)}, RewardSkips(allow=True))
    for _ in range(4):
        allowed.score(*batch)
    assert allowed.skips.counts == {"not finite from spiky": 4}
    again = RewardSkips()
    again.load_state_dict(allowed.skips.state_dict())
    assert (again.seen, again.counts) == (200, allowed.skips.counts)


def test_a_mix_of_nothing_or_with_a_weight_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="no reward"):
        MixedReward({})
    for weight in (math.nan, "1", True, None):
        with pytest.raises(InputError, match="weight"):
            MixedReward({"a": (constant(1), weight)})


def test_a_reward_that_raises_is_named_with_the_completion_it_failed_on():
    def fussy(prompts, completions):
        return [1 / len(c.text) for c in completions]

    prompts = [Prompt(f"p-{i}", (user_message("Why?"),)) for i in range(3)]
    with pytest.raises(InputError) as error:
        run_reward(fussy, prompts, said("a", "b", ""))
    assert "'fussy' raised ZeroDivisionError" in error.value.what and "p-2" in error.value.what
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        ([1.0], "1 scores for 2 completions"),
        ([1.0] * 3, "3 scores for 2 completions"),
        (None, "NoneType"),
        (1.0, "float"),
        ("ab", "str"),
        ([1.0, "good"], "'good'"),
        ([1.0, [0.5]], r"\[0.5\]"),
        ([1.0, 1j], "1j"),
        (torch.ones(2, 2), "as a score"),
    ],
)
def test_what_is_no_list_of_scores_is_refused_by_name(returned, match):
    class Odd:
        name = "odd"

        def __call__(self, prompts, completions):
            return returned

    with pytest.raises(InputError, match=match) as error:
        run_reward(Odd(), [asked()] * 2, said("x", "y"))
    assert "'odd'" in error.value.what and "eturn" in error.value.do


def test_numbers_of_any_kind_are_scores():
    for given_ in ([1, True], np.ones(2), torch.ones(2), [np.float32(1), torch.tensor([1.0])]):
        scores = run_reward(lambda p, c, g=given_: g, [asked()] * 2, said("x", "y"))
        assert scores == ([1.0, 1.0], [False, False])
        assert [type(v) for v in scores.values] == [float, float]


@given(
    st.lists(st.tuples(st.none() | st.floats(-50, 50), st.integers(1, 64), st.booleans()),
             min_size=1, max_size=8),
    st.none() | st.floats(0.1, 10), st.none() | st.floats(0, 8), st.floats(0, 10),
)  # fmt: skip
def test_shaping_equals_a_slow_loop(rows, clip, eos, length):
    completions = [Completion("x", tokens, finished) for _, tokens, finished in rows]
    shaped = shape_rewards([v for v, _, _ in rows], completions, clip=clip,
                           missing_eos_penalty=eos, length_penalty=length, max_new_tokens=64)  # fmt: skip
    for (value, tokens, finished), got in zip(rows, shaped, strict=True):
        if value is None:
            assert got is None
            continue
        if clip is not None:
            value = clip if value > clip else -clip if value < -clip else value
        if not finished and eos is not None:
            value -= eos
        assert got == pytest.approx(value - length * tokens / 64)


def test_a_bound_or_a_length_that_is_none_is_refused():
    with pytest.raises(ValueError, match="bound"):
        shape_rewards([1.0], said("x"), clip=0)
    with pytest.raises(ValueError, match="max_new_tokens"):
        shape_rewards([1.0], said("x"), max_new_tokens=0)
