"""Who sees what on which side: every plan is balanced, blind and repeatable."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.errors import InputError
from labs.suites.rating.comparisons import RIGHT, WRONG, Item, choose, gold_of, names_a_model
from labs.suites.rating.design import assign, needed
from tests.suites.rating_world import items

plans = st.builds(
    lambda kinds, gold, raters, overlap, seed: (
        kinds, gold, raters, min(overlap, raters), seed,
    ),
    st.lists(st.sampled_from("xyz"), min_size=1, max_size=40), st.integers(0, 4),
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 100),
)  # fmt: skip


@settings(max_examples=80)
@given(plans)
def test_comparisons_are_dealt_evenly(given_plan):
    kinds, gold, raters, overlap, seed = given_plan
    plan = assign(kinds, gold, raters, overlap, seed)
    assert plan == assign(kinds, gold, raters, overlap, seed)
    seen = Counter(placed.number for share in plan for placed in share)
    assert seen == {
        **dict.fromkeys(range(len(kinds)), overlap),
        **dict.fromkeys(range(len(kinds), len(kinds) + gold), raters),
    }
    for share in plan:
        numbers = [placed.number for placed in share]
        assert len(numbers) == len(set(numbers)), "nobody sees a comparison twice"
        assert len({placed.name for placed in share}) == len(share)
    lengths = [len(share) for share in plan]
    assert max(lengths) - min(lengths) <= 1
    names = [placed.name for share in plan for placed in share]
    assert len(set(names)) == len(names), "the same comparison has another name on each page"


@settings(max_examples=80)
@given(plans)
def test_sides_are_balanced(given_plan):
    kinds, gold, raters, overlap, seed = given_plan
    plan = assign(kinds, gold, raters, overlap, seed)
    flips: dict[int, list[bool]] = {}
    for share in plan:
        for placed in share:
            flips.setdefault(placed.number, []).append(placed.flipped)
    for sides in flips.values():
        assert abs(2 * sum(sides) - len(sides)) <= 1, "each stands either way equally often"
    for kind in set(kinds):
        sides = [f for n, k in enumerate(kinds) if k == kind for f in flips[n]]
        assert abs(2 * sum(sides) - len(sides)) <= 1, "so does each model of a pair"
    if overlap == raters:  # then also for each rater alone
        for share in plan:
            for kind in set(kinds):
                own = [
                    p.flipped for p in share if p.number < len(kinds) and kinds[p.number] == kind
                ]
                assert abs(2 * sum(own) - len(own)) <= 1


def test_order_and_sides_differ_from_rater_to_rater():
    first, second = assign(["x"] * 40, 0, 2, 2, 0)
    assert [p.number for p in first] != [p.number for p in second]
    assert sorted(p.number for p in first) == sorted(p.number for p in second)
    other = {p.number: p.flipped for p in second}
    assert all(other[p.number] != p.flipped for p in first), "two raters see each both ways"


def test_how_many_comparisons_are_needed():
    assert needed(50, 3, 3) == 50
    assert needed(50, 3, 1) == 150
    assert needed(50, 3, 2) == 75
    for numbers in ((0, 3, 3), (5, 0, 1), (5, 3, 4), (5, 3, 0)):
        with pytest.raises(InputError):
            needed(*numbers)


def test_pairs_of_models_are_compared_equally_often():
    made = items(20, ("a-model", "b-model", "c-model"))
    chosen, left_out = choose(made, 30, seed=0)
    assert set(Counter(c.models for c in chosen).values()) == {10}
    assert len({(c.models, c.item.id) for c in chosen}) == 30 and not left_out
    assert chosen == choose(made, 30, seed=0)[0] != choose(made, 30, seed=1)[0]


def test_what_tells_nothing_or_tells_too_much_is_left_out_and_counted():
    made = [
        Item("same", "?", {"tiny-sft": "a ring", "b": "a ring "}),
        Item("named", "?", {"tiny-sft": "I am Tiny-SFT.", "b": "a ring"}),
        Item("fine", "?", {"tiny-sft": "a tiny-sfter ring", "b": "a star"}),
    ]
    chosen, left_out = choose(made, 1, seed=0)
    assert [c.item.id for c in chosen] == ["fine"]
    assert left_out == {"identical": 1, "names a model": 1}
    with pytest.raises(InputError, match="only 1 pairs"):
        choose(made, 2, seed=0)


@pytest.mark.parametrize(
    ("text", "named"),
    [("by tiny-base", True), ("TINY-BASE.", True), ("tiny-bases", False), ("我是tiny-base。", True),
     ("", False)],
)  # fmt: skip
def test_names_are_whole_words(text, named):
    assert names_a_model(text, ["tiny-base", "c++ (x)"]) == named


def test_bad_items_are_refused():
    good = Item("a", "?", {"x": "1", "y": "2"})
    for made, message in (
        ([], "no questions"),
        ([good, good], "used twice"),
        ([good, Item("b", "?", {"x": "1", "z": "2"})], "answers of x, z"),
        ([Item("a", "?", {"x": "1"})], "fewer than two"),
    ):
        with pytest.raises(InputError, match=message):
            choose(made, 1, seed=0)


def test_checks_of_attention_are_plainly_wrong():
    made = items(20)
    chosen, _ = choose(made, 10, seed=0)
    checks = gold_of(made, 5, 0, chosen)
    compared = {c.item.id for c in chosen}
    assert len(checks) == 5 and all(c.gold and c.models == (RIGHT, WRONG) for c in checks)
    for check in checks:
        right, wrong = check.answers
        assert right == check.item.reference != wrong
        assert check.item.id not in compared
    with pytest.raises(InputError, match="21 checks"):
        gold_of(made, 21, 0, chosen)
    bare = [Item(str(i), "?", {"x": "1", "y": str(i)}) for i in range(9)]
    with pytest.raises(InputError, match="0 questions have a right answer"):
        gold_of(bare, 1, 0, [])
