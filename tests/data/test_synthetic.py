"""Synthetic data: what the oracle must keep and drop, agreement, and a real model as the writer."""

import dataclasses
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.data.synthetic import (
    Rate,
    SyntheticReport,
    oracle_problems,
    self_consistent,
    synthesise,
)
from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.formats import read_conversations
from labs.models import load_vlm
from labs.models.generation import generate, user_message
from labs.shapes import QA, is_correct, judge, mentions, sample_digit_scene, sample_scene
from labs.shapes.language import caption
from labs.shapes.tasks import MAKERS, Impossible


def scenes(count, seed=0, split="train"):
    rng = random.Random(seed)
    return [sample_scene(rng, split) for _ in range(count)]


def writer(texts):
    """A generator that answers from a list, whatever it is shown."""
    stream = iter(texts)
    return lambda prompts: [next(stream) for _ in prompts]


def test_the_truth_is_kept_and_written_with_its_pictures(tmp_path):
    made = scenes(30)
    report = synthesise(writer(map(caption, made)), made, batch_size=7)
    assert report.asked == 30 and report.wrong == report.unreadable == report.disagreed == 0
    distinct = len({s.content() for s in made})
    assert len(report.kept) == distinct and report.duplicates == 30 - distinct
    assert report.error_rate == Rate(0.0, 0.0, report.error_rate.high)
    assert report.write(tmp_path / "made.json") == distinct
    back = list(read_conversations(tmp_path / "made.json"))
    by_text = {c.turns[1].text for c in back}
    assert by_text == {caption(s) for s in made}
    assert all(c.turns[0].text.startswith("<image>\n") for c in back)
    assert all(c.meta == {"task": "caption", "source": "synthetic"} for c in back)


def broken(scene, how):
    """A caption with one known fault."""
    text = caption(scene)
    if how == "hallucinated":
        absent = next(k for k in ("circle", "ring", "star", "cross") if k not in scene.kinds)
        return text[:-1] + f", a small red {absent} in the centre."
    if how == "missing":
        return caption(scene, order=list(range(1, len(scene.objects))))
    if how == "mistaken":
        first = scene.objects[0]
        wrong = dataclasses.replace(first, colour="green" if first.colour != "green" else "red")
        return caption(dataclasses.replace(scene, objects=(wrong, *scene.objects[1:])))
    return "I would rather not say."


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["hallucinated", "missing", "mistaken", "unreadable", None]),
        min_size=1,
        max_size=12,
    )
)
def test_each_fault_is_counted_by_its_kind(faults):
    rng = random.Random(len(faults))
    made = []
    while len(made) < len(faults):
        scene = sample_scene(rng, "train", count=3)
        if len(scene.kinds) == 3 and scene.content() not in {s.content() for s in made}:
            made.append(scene)
    texts = [caption(s) if f is None else broken(s, f) for s, f in zip(made, faults, strict=True)]
    report = synthesise(writer(texts), made)
    for name in ("hallucinated", "missing", "mistaken", "unreadable"):
        assert report.problems[name] == faults.count(name), (name, faults)
    good = [text for text, fault in zip(texts, faults, strict=True) if fault is None]
    assert [r["conversations"][1]["value"] for r in report.kept] == good
    wrong = sum(f not in (None, "unreadable") for f in faults)
    assert (report.wrong, report.unreadable) == (wrong, faults.count("unreadable"))
    assert report.asked == report.unreadable + report.wrong + report.duplicates + len(report.kept)
    read = len(faults) - report.unreadable
    if read:
        assert report.error_rate[1:] == pytest.approx(wilson_ci(wrong, read), abs=1e-9)
        assert report.error_rate.value == wrong / read
    assert report.yield_rate[1:] == pytest.approx(wilson_ci(len(good), len(faults)), abs=1e-9)


@pytest.mark.parametrize(
    "task", ["existence", "count", "colour", "position", "grounding", "reasoning"]
)
def test_other_questions_are_judged_by_their_answers(task):
    def ask(rng, scene):
        try:
            return MAKERS[task](rng, scene, "en")
        except Impossible:
            return MAKERS["caption"](rng, scene, "en")

    asked = []

    def parrot(prompts):
        asked.extend(prompts)
        return ["hm" for _ in prompts]

    made = scenes(20, 3)
    report = synthesise(parrot, made, ask)
    assert report.unreadable == 20 and not report.kept and math.isnan(report.error_rate.value)
    wanted = []
    synthesise(lambda prompts: [wanted.append(q) or "" for _, q in prompts], made, ask)
    assert [question for _, question in asked] == wanted  # the same seed, the same questions
    rng = random.Random(0)
    for scene in made:
        qa = ask(rng, scene)
        assert oracle_problems(scene, qa, qa.answer) == []
        if qa.answer in ("yes", "no"):
            other = "no" if qa.answer == "yes" else "yes"
            assert oracle_problems(scene, qa, other) == ["wrong"]


def test_digits_are_read_whatever_the_question_is_called():
    rng = random.Random(1)
    scene = sample_digit_scene(rng, "train", 3)
    qa = MAKERS["ocr"](rng, scene, "en")
    assert oracle_problems(scene, qa, f"It says {qa.answer}.") == []
    assert oracle_problems(scene, qa, "It says 9999.") == ["wrong"]
    assert oracle_problems(scene, qa, "a ring") == ["unreadable"]
    described = QA("caption", "Describe the image.", caption(scene), {})
    assert oracle_problems(scene, described, caption(scene)) == []


def test_the_same_words_about_the_same_look_are_kept_once():
    scene = scenes(1)[0]
    again = dataclasses.replace(scene, noise=scene.noise + 1, background=230)
    other = next(s for s in scenes(50, 9) if s.content() != scene.content())
    made = [scene, again, other]
    report = synthesise(writer([caption(scene), caption(scene).upper(), caption(other)]), made)
    assert report.duplicates == 1 and len(report.kept) == 2


def test_without_an_oracle_everything_is_kept_and_nothing_is_claimed():
    report = synthesise(writer(["anything", "goes"]), scenes(2), judge=None)
    assert len(report.kept) == 2 and report.yield_rate.value == 1
    assert math.isnan(report.error_rate.value) and math.isnan(report.precision.value)


def test_bad_generators_and_settings_are_named():
    with pytest.raises(InputError, match="1 answers came back"):
        synthesise(lambda prompts: ["one"], scenes(3))
    with pytest.raises(InputError, match="no scene"):
        synthesise(writer([]), [])
    for settings_ in ({"samples": 0}, {"samples": 3, "agree": 4}, {"samples": 2, "agree": -1}):
        with pytest.raises(InputError, match="cannot agree"):
            synthesise(writer(["x"] * 9), scenes(1), **settings_)
    with pytest.raises(InputError, match="cannot agree"):
        self_consistent(writer(["x"]), [], samples=1)
    with pytest.raises(InputError):
        SyntheticReport().write("nothing.json")


# Agreement


def test_agreement_keeps_what_enough_samples_say():
    rounds = [["Yes.", "no", "two"], ["yes", "no", "three"], ["yes!", "maybe", "four"]]
    prompts = [(None, "a"), (None, "b"), (None, "c")]

    def sampled():
        stream = iter(rounds)
        return lambda asked: next(stream)

    assert self_consistent(sampled(), prompts, 3) == ["Yes.", None, None]
    assert self_consistent(sampled(), prompts, 3, agree=2) == ["Yes.", "no", None]
    assert self_consistent(sampled(), prompts, 3, agree=2, key=len) == ["Yes.", "no", None]
    assert self_consistent(sampled(), prompts, 3, key=len) == [None, None, None]


def noisy(rng, rate):
    """Writes the truth, and with some rate one of a few falsehoods: the more samples, the less it agrees."""

    def answer(prompts):
        return [str(2 if rng.random() > rate else rng.randrange(3, 6)) for _ in prompts]

    return answer


def test_agreement_raises_precision_and_the_oracle_measures_it():
    """Independent errors at 40 %: five of five agree rarely, and hardly ever on the same falsehood."""

    def ask(rng, scene):
        return QA("count", "How many?", "2", {})

    made = scenes(2_000, 5)
    alone = synthesise(noisy(random.Random(1), 0.4), made, ask)
    five = synthesise(noisy(random.Random(2), 0.4), made, ask, samples=5)
    assert alone.precision.value == pytest.approx(0.6, abs=0.05)
    # 0.6^5 against 3 (0.4/3)^5: 0.998 of what agrees is true.
    assert five.precision.value > 0.98 and five.precision.low > alone.precision.high
    assert five.asked == 2_000 and 0.04 < 1 - five.disagreed / 2_000 < 0.13
    assert five.asked == (
        five.disagreed + five.unreadable + five.wrong + five.duplicates + len(five.kept)
    )


# A real model


@pytest.fixture(scope="module")
def base():
    return load_vlm("tiny-base")


@pytest.fixture(scope="module")
def sft():
    """The zoo's model that was trained on false captions: it hallucinates."""
    return load_vlm("tiny-sft")


def asking(model, processor, **options):
    def ask(prompts):
        messages = [[user_message(question, images=1)] for _, question in prompts]
        images = [[picture] for picture, _ in prompts]
        return generate(model, processor, messages, images, **options)

    return ask


@pytest.mark.parametrize("name", ["base", "sft"])
def test_a_model_writes_and_every_kept_caption_is_true(name, request, tmp_path):
    made = scenes(40, 11, "val")
    writes = asking(*request.getfixturevalue(name), max_new_tokens=60)
    steps = []
    report = synthesise(writes, made, batch_size=20, progress=steps.append)
    assert steps == [20, 40] and report.asked == 40
    if name == "base":
        assert len(report.kept) >= 30
    else:
        assert report.problems["hallucinated"] >= 3 and report.kept
    assert report.yield_rate.low < len(report.kept) / 40 <= report.yield_rate.high
    numbers = [int(record["id"].rsplit("-", 1)[1]) for record in report.kept]
    assert numbers == sorted(set(numbers))
    for number, record in zip(numbers, report.kept, strict=True):
        text = record["conversations"][1]["value"]
        assert judge(made[number], text).perfect and is_correct("caption", made[number], "", text)
        assert record["image"].size == (48, 48)
    report.write(tmp_path / "data.jsonl")
    assert len(list(read_conversations(tmp_path / "data.jsonl"))) == len(report.kept)


def test_samples_of_a_model_agree_on_what_it_sees(base):
    """By what is described, not by the order of words: the same objects with the same attributes."""
    made = scenes(12, 12, "val")
    seeds = iter(range(100))

    def sampled(prompts):
        ask = asking(*base, max_new_tokens=60, temperature=1.0, seed=next(seeds))
        return ask(prompts)

    report = synthesise(
        sampled, made, samples=3, key=lambda text: tuple(sorted(map(str, mentions(text))))
    )
    assert report.asked == 12 and 0 < len(report.kept) <= 12 - report.disagreed
    assert next(seeds) == 3
