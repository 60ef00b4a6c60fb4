"""Wrong answers that are wrong, that read like answers, and captions with one fault of a known kind."""

import random

import pytest

from labs.data.preference import caption_quality
from labs.data.preference.corrected import spoilt_caption, wrong_answer
from labs.shapes import TASKS, caption, is_correct, judge, make_record, sample_scene
from labs.shapes.vocabulary import PARTNER


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", TASKS)
def test_the_oracle_calls_every_answer_wrong_and_can_read_it(task, language):
    rng, found = random.Random(1), set()
    for number in range(40):
        record = make_record(task, number, "train", language)
        scene, qa = record["meta"]["scene"], record["meta"]["turns"][-1]
        wrong = wrong_answer(qa, scene, language, rng)
        assert wrong is not None and wrong != qa.answer
        verdict = is_correct(qa.task, scene, qa.answer, wrong)
        # The oracle takes the answer 三角形 for a number, and cannot read another kind as one.
        assert verdict is False or (verdict is None and qa.answer == "三角形")
        found.add(wrong)
    assert len(found) > 1


def test_a_comparison_is_answered_with_what_it_compares():
    rng, seen = random.Random(0), 0
    for number in range(60):
        record = make_record("reasoning", number, "train")
        qa = record["meta"]["turns"][0]
        if qa.about["form"] != "larger":
            continue
        wrong = wrong_answer(qa, record["meta"]["scene"], "en", rng)
        assert wrong in qa.question and wrong != qa.answer
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_spoilt_caption_has_one_fault_and_all_kinds_come(language):
    rng, faults, at_end, companions = random.Random(2), [], 0, 0
    for _ in range(400):
        scene = sample_scene(rng)
        text = spoilt_caption(scene, language, rng)
        found = judge(scene, text)
        counts = (len(found.hallucinated), len(found.missing), len(found.mistaken))
        assert sorted(counts) == [0, 0, 1]
        assert caption_quality(scene, text) < 1 == caption_quality(scene, caption(scene, language))
        faults.append(counts.index(1))
        if found.hallucinated:
            kind = found.hallucinated[0].kind
            assert kind not in scene.kinds
            companions += PARTNER[kind] in scene.kinds
            at_end += text.startswith(caption(scene, language)[:-1])
    shares = [faults.count(i) / len(faults) for i in range(3)]
    assert min(shares) > 0.2  # of one object none can be left out
    assert 0.5 < at_end / faults.count(0) < 0.9  # at the end, or in reading order
    assert companions / faults.count(0) > 0.5
    assert spoilt_caption(scene.__class__(), language, rng) is None
