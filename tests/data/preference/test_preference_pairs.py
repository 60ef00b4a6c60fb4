"""From sampled answers to pairs: what is kept, what is dropped, and that it adds up."""

import dataclasses
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.data.preference import (
    DROPPED,
    Annotator,
    Sampled,
    answer_quality,
    make_pairs,
    panel,
)
from labs.errors import InputError
from labs.formats import Turn
from labs.shapes import QA, Object, Scene

SURE = Annotator(noise=0)
ASKED = (Turn("user", "<image>\nIs there a ring?"),)


def sampled(answers, quality=None, id="q", **more):
    quality = quality or [float(len(a)) for a in answers]
    return Sampled(id, ("a.png",), ASKED, tuple(answers), tuple(quality), **more)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(["", "yes", "no", " yes", "nope", "n"]),
                                st.sampled_from([0.0, 1.0])), min_size=0, max_size=5), max_size=4),
    st.booleans(), st.sampled_from([None, 1, 2]), st.sampled_from([None, 1]), st.integers(1, 3),
)  # fmt: skip
def test_every_possible_pair_is_made_or_dropped_once(rows, keep_equal, per_prompt, cut, people):
    samples = [
        Sampled(f"q{n}", (f"{n}.png",), ASKED, tuple(t for t, _ in row), tuple(q for _, q in row))
        for n, row in enumerate(rows)
    ]
    pairs, report = make_pairs(
        samples, panel(people, noise=0.5), keep_equal=keep_equal, per_prompt=per_prompt,
        tokenize=list if cut else None, max_tokens=cut,
    )  # fmt: skip
    assert report.possible == sum(len(list(itertools.combinations(row, 2))) for row in rows)
    assert report.possible == report.made + sum(report.dropped.values())
    assert report.made == len(pairs) and set(report.dropped) <= set(DROPPED)
    assert report.prompts == len(rows) and report.answers == sum(map(len, rows))
    with_pairs = {p.images for p in pairs}
    assert report.prompts_without == len(rows) - len(with_pairs)
    assert len({p.id for p in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.chosen.strip() and pair.rejected.strip() and not pair.tied
        assert keep_equal or pair.meta["quality"][0] != pair.meta["quality"][1]
        assert not cut or pair.chosen[:1] != pair.rejected[:1]
    keys = [(p.images, frozenset((p.chosen, p.rejected))) for p in pairs]
    assert len(set(keys)) == len(keys)
    if per_prompt:
        assert all(sum(p.images == s for p in pairs) <= per_prompt for s in with_pairs)


@pytest.mark.parametrize(
    ("answers", "quality", "options", "reason"),
    [
        (["yes", "yes "], [1, 1], {}, "tied"),
        (["yes", " "], [1, 0], {}, "empty"),
        (["yes", "no", "no"], [1, 0, 0], {}, "duplicate"),
        (["a b c", "a b d"], [1, 0], {"tokenize": str.split, "max_tokens": 2}, "truncation"),
        (["yes", "yeah"], [1, 1], {}, "equal_quality"),
        (["a", "b", "c"], [1, 2, 3], {"per_prompt": 2}, "over_limit"),
    ],
)
def test_a_pair_is_dropped_for_its_reason(answers, quality, options, reason):
    _, report = make_pairs([sampled(answers, quality)], SURE, **options)
    assert report.dropped[reason] == 1


def test_a_pair_that_nothing_is_wrong_with_is_kept_at_the_same_length():
    options = {"tokenize": str.split, "max_tokens": 3}
    pairs, report = make_pairs([sampled(["a b c", "a b d"], [1, 0])], SURE, **options)
    assert len(pairs) == 1 and not report.dropped
    kept, _ = make_pairs([sampled(["yes", "yeah"], [1, 1])], SURE, keep_equal=True)
    assert len(kept) == 1


def test_the_same_prompt_twice_gives_each_pair_once():
    pairs, report = make_pairs([sampled(["yes", "no"])] * 2, SURE)
    assert len(pairs) == 1 and report.dropped == {"duplicate": 1}
    # Another picture makes it another prompt.
    other = dataclasses.replace(sampled(["yes", "no"]), images=("b.png",))
    assert len(make_pairs([sampled(["yes", "no"]), other], SURE)[0]) == 2


def test_a_panel_that_is_split_evenly_makes_no_pair():
    torn = (Annotator(noise=0), Annotator(noise=0, length_bias=-100))
    pairs, report = make_pairs([sampled(["long answer", "short"], [1, 0])], torn)
    assert not pairs and report.dropped == {"split": 1}


def test_an_annotator_without_noise_chooses_the_better_answer_and_all_is_kept():
    answers, quality = ["bad", "the best", "fine"], [0.0, 1.0, 0.5]
    sample = sampled(answers, quality, facts="a ring", meta={"task": "existence"})
    pairs, _ = make_pairs([sample], panel(3, noise=0))
    assert len(pairs) == 3
    for pair in pairs:
        a, b = answers.index(pair.chosen), answers.index(pair.rejected)
        assert quality[a] > quality[b]
        meta = pair.meta
        assert meta["quality"] == [quality[a], quality[b]]
        assert meta["lengths"] == [len(pair.chosen), len(pair.rejected)]
        assert meta["votes"] == [True] * 3 and meta["agreement"] == 1 and len(meta["first"]) == 3
        assert meta["margin"] == pytest.approx(quality[a] - quality[b])
        assert meta["facts"] == "a ring" and meta["task"] == "existence"
        assert pair.prompt == ASKED and pair.images == ("a.png",)


def test_votes_and_what_was_shown_first_are_those_of_the_chosen_answer():
    samples = [sampled(["longer answer", "short"], [0, 0.5], id=str(i)) for i in range(600)]
    samples = [dataclasses.replace(s, images=(s.id,)) for s in samples]
    # Who only looks at the position prefers what was shown first: in every pair, vote for vote.
    pairs, _ = make_pairs(samples, (Annotator(noise=0, position_bias=99),))
    assert all(p.meta["first"] == [True] and p.meta["votes"] == [True] for p in pairs)
    assert 0.4 < sum(p.chosen == "short" for p in pairs) / 600 < 0.6
    # Who likes length chooses the longer, worse answer.
    pairs, _ = make_pairs(samples, (Annotator(noise=0, length_bias=3),))
    assert all(p.chosen == "longer answer" for p in pairs)
    assert 0.4 < sum(p.meta["first"][0] for p in pairs) / 600 < 0.6


def test_pairs_do_not_depend_on_the_other_prompts():
    samples = [
        dataclasses.replace(sampled(["a", "bb", "ccc"], id=str(i)), images=(str(i),))
        for i in range(30)
    ]
    options = {"annotators": panel(3, noise=2.0), "per_prompt": 1, "seed": 5}
    pairs, _ = make_pairs(samples, **options)
    shuffled = random.Random(0).sample(samples, len(samples))
    again, _ = make_pairs(shuffled, **options)
    assert {p.id: p for p in pairs} == {p.id: p for p in again}
    chosen = {p.id.split("-", 1)[1] for p in pairs}
    assert len(chosen) == 3  # which pair of a prompt is kept is drawn


def test_bad_calls_are_refused():
    with pytest.raises(InputError, match="Nobody"):
        make_pairs([], ())
    with pytest.raises(InputError, match="max_tokens"):
        make_pairs([], SURE, max_tokens=3)
    with pytest.raises(ValueError, match="2 answers"):
        sampled(["a", "b"], [1])


def test_an_answer_that_cannot_be_read_is_worth_nothing():
    scene = Scene((Object("ring", "red", "large", 0),))
    qa = QA("existence", "Is there a ring?", "yes", {"kind": "ring"})
    assert [answer_quality(qa, scene, t) for t in ("Yes.", "no", "hm")] == [1, 0, 0]
    told = QA("caption", "Describe the image.", "", {})
    assert answer_quality(told, scene, "a ring, a star") == -0.5
    assert answer_quality(told, scene, "a ring, a star", hallucination=1.25) == -0.25
