import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.answers import read_box

BOX = (0.1, 0.2, 0.5, 0.75)
CASES = [
    # (text, scale, box or status)
    ("[10,20,50,75]", 100, BOX),
    ("[10, 20, 50, 75]", 100, BOX),
    ("(10, 20, 50, 75)", 100, BOX),
    ("[100, 200, 500, 750]", 1000, BOX),
    ("[0.1, 0.2, 0.5, 0.75]", 1, BOX),
    ("[.1, .2, .5, .75]", 1, BOX),
    ("[64, 96, 320, 360]", (640, 480), BOX),
    ("[[100, 200, 500, 750]]", 1000, BOX),
    ("[100 200 500 750]", 1000, BOX),
    ("10, 20, 50, 75", 100, BOX),
    ("10 20 50 75", 100, BOX),
    ("The box is [10,20,50,75].", 100, BOX),
    ("框是[10，20，50，75]。", 100, BOX),
    ("【10，20，50，75】", 100, BOX),
    ("<box>(100,200),(500,750)</box>", 1000, BOX),
    ("<ref>ring</ref><box>(100, 200), (500, 750)</box>", 1000, BOX),
    ("<|box_start|>(100,200),(500,750)<|box_end|>", 1000, BOX),
    ("(100,200),(500,750)", 1000, BOX),
    ("<box>[[100, 200, 500, 750]]</box>", 1000, BOX),
    ('```json\n[{"bbox_2d": [100, 200, 500, 750], "label": "ring"}]\n```', 1000, BOX),
    ('{"bbox_2d": [100, 200, 500, 750]}', 1000, BOX),
    ('{"box_2d": [200, 100, 750, 500]}', 1000, BOX),  # Gemini: y first
    ("[10%, 20%, 50%, 75%]", 1000, BOX),
    ("<think>[1,2,3,4]</think>[10,20,50,75]", 100, BOX),
    ("Perhaps [1,2,3,4]. Answer: [10,20,50,75]", 100, BOX),
    ("<answer>[10,20,50,75]</answer>", 100, BOX),
    ("[10,20,50,75] and again [10,20,50,75]", 100, BOX),
    ("[-2,20,102,75]", 100, (0.0, 0.2, 1.0, 0.75)),  # a little outside: the edge
    ("[0,0,100,100]", 100, (0.0, 0.0, 1.0, 1.0)),
    ("[10,20,50,75] or [1,2,3,4]", 100, "several"),
    ("[10,20,50,75][10,20,50,200]", 100, "several"),  # the second is none, and yet another
    ("[50,20,10,75]", 100, "none"),  # right is not right of left
    ("[10,75,50,20]", 100, "none"),
    ("[10,20,10,75]", 100, "none"),
    ("[100,200,500,750]", 100, "none"),  # another scale
    ("[10,20,50,75]", 1, "none"),
    ("[nan,20,50,75]", 100, "none"),
    ("[10,20,inf,75]", 100, "none"),
    ("[10,20,1e400,75]", 100, "none"),
    ("[10,20,50]", 100, "none"),
    ("[10,20,50,75,90]", 100, "none"),
    ("the ring on the left", 100, "none"),
    ("10, 20, 50", 100, "none"),
    ("[1,2,3,4", 100, "none"),
    ("<think>[10,20,50,75]", 100, "none"),
    ("", 100, "empty"),
    ("I cannot see the image.", 100, "refused"),
    ("无法确定", 100, "refused"),
    ("слева", 100, "script"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "scale", "wanted"), CASES)
def test_hand_made_answers(text, scale, wanted):
    got = read_box(text, scale=scale)
    assert (got.value or got.status) == (
        pytest.approx(wanted) if isinstance(wanted, tuple) else wanted
    )


def test_the_table_is_large():
    assert len(CASES) >= 20


corners = st.integers(0, 999).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, 1000)))
FORMS = (
    "[{0},{1},{2},{3}]", "({0},{1}),({2},{3})", "<box>({0},{1}),({2},{3})</box>", "It is at [{0}, {1}, {2}, {3}].",
    '{{"bbox_2d": [{0}, {1}, {2}, {3}]}}', '{{"box_2d": [{1}, {0}, {3}, {2}]}}', "{0} {1} {2} {3}",
)  # fmt: skip


@settings(max_examples=50)
@given(corners, corners, st.sampled_from(FORMS))
def test_boxes_read_back_on_every_scale(across, down, form):
    box = (across[0], down[0], across[1], down[1])
    shares = tuple(value / 1000 for value in box)
    assert read_box(form.format(*box), scale=1000) == (shares, "read")
    assert read_box(form.format(*shares), scale=1.0).value == pytest.approx(shares)
    pixels = (shares[0] * 640, shares[1] * 480, shares[2] * 640, shares[3] * 480)
    got = read_box(form.format(*(f"{p:.6f}" for p in pixels)), scale=(640, 480))
    assert got.value == pytest.approx(shares, abs=1e-6)


@given(st.lists(st.floats(), min_size=4, max_size=4), st.sampled_from([1, 100, 1000]))
def test_what_is_read_is_a_box_in_the_picture(numbers, scale):
    got = read_box(json.dumps(numbers), scale=scale)
    assert (got.value is None) == (got.status != "read")
    if got.value:
        left, top, right, bottom = got.value
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf, (640, 0)])
def test_bad_scale(scale):
    with pytest.raises(InputError, match="is no size"):
        read_box("[1,2,3,4]", scale=scale)
