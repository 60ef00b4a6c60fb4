"""The leaderboard: what its ratings, ranks and page promise."""

import io
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from labs.errors import InputError
from labs.suites.contract import Row
from labs.suites.leaderboard import leaderboard
from labs.suites.leaderboard_page import page, write_html
from labs.suites.results import Run


def row(id, score, group=None, prompt="?", answer="yes"):
    return Row(id, group, prompt, answer, {}, "yes", [], 1, True, "read", "yes", score)


def run(model, scores, suite="world", **changes):
    """A run in which question number i got scores[i]; a dict names the questions."""
    if not isinstance(scores, dict):
        scores = {str(i): s for i, s in enumerate(scores)}
    config = {"model": {"name": model}, "suite": {"name": suite}}
    rows = [row(id, score, **changes) for id, score in scores.items()]
    return Run(Path(f"runs/{model}/{suite}"), config, rows, {})


def rated(*runs, **options):
    board = leaderboard(runs, **({"resamples": 400} | options))
    return board, {s.model: s for s in board.standings}


def test_two_models_by_hand():
    # 3 questions only a got right, 1 only b, 4 both, 2 neither: 3 wins, 6 ties, 1 loss for a.
    a = run("a", [1, 1, 1, 0, 1, 1, 1, 1, 0, 0])
    b = run("b", [0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    board, by = rated(b, a, prior=0.0)
    assert [s.model for s in board.standings] == ["a", "b"] and board.questions == 10
    assert (by["a"].wins, by["a"].ties, by["a"].losses, by["a"].games) == (3, 6, 1, 10)
    assert (by["b"].wins, by["b"].ties, by["b"].losses) == (1, 6, 3)
    gap = by["a"].rating - by["b"].rating
    assert gap == pytest.approx(400 * math.log10((3 + 6 / 2) / (1 + 6 / 2)))
    assert by["a"].score.value == 0.7 and by["b"].score.value == 0.5
    assert by["a"].score.low < 0.7 < by["a"].score.high


def test_ties_pull_together_and_move_nobody_past_another():
    a, b = [1, 1, 1, 0], [0, 0, 0, 1]
    _, few = rated(run("a", a), run("b", b))
    for both in (0, 1):  # two wrong answers tell as little as two right ones
        _, many = rated(run("a", a + [both] * 40), run("b", b + [both] * 40))
        assert 0 < many["a"].rating - many["b"].rating < few["a"].rating - few["b"].rating


answers = st.lists(st.integers(0, 1), min_size=12, max_size=12)


@settings(max_examples=30)
@given(st.lists(answers, min_size=2, max_size=5))
def test_on_the_same_questions_the_order_is_that_of_accuracy(scores):
    board = leaderboard([run(f"m{i}", s) for i, s in enumerate(scores)], resamples=20)
    found = [s.score.value for s in board.standings]
    assert found == sorted(found, reverse=True)
    ratings = {round(s.score.value, 9): round(s.rating, 6) for s in board.standings}
    assert len(ratings) == len({round(s.rating, 6) for s in board.standings})


def test_models_that_never_met_are_rated_through_another():
    """a was asked an easy half, c a hard half, b both: c's accuracy is lower and c is better."""
    easy = {f"easy-{i}": 1 for i in range(20)}
    hard = {f"hard-{i}": 0 for i in range(20)}
    b = run("b", easy | hard)
    a = run("a", easy | {"easy-0": 0, "easy-1": 0, "easy-2": 0})
    c = run("c", hard | {"hard-0": 1, "hard-1": 1, "hard-2": 1})
    board, by = rated(a, b, c)
    assert [s.model for s in board.standings] == ["c", "b", "a"]
    assert by["c"].score.value < by["a"].score.value
    assert board.questions == 40 and by["a"].games == 20 and by["b"].games == 40
    assert any("compare ratings, not scores" in note for note in board.notes)


def test_ranks_are_ranges_that_the_questions_allow():
    strong = run("strong", [1] * 90 + [0] * 10)
    weak = run("weak", [0] * 90 + [1] * 10)
    twin = run("twin", [1] * 89 + [0] * 10 + [1])
    board, by = rated(weak, twin, strong)
    assert (by["strong"].ranks, by["twin"].ranks, by["weak"].ranks) == ((1, 2), (1, 2), (3, 3))
    assert (by["strong"].rank, by["weak"].rank) == ("1-2", "3")
    for place, s in enumerate(board.standings, 1):
        assert s.ranks[0] <= place <= s.ranks[1]
    # The same answers on one picture are one piece of news, not a hundred.
    pictures = [
        replace(r, rows=[replace(x, group=str(i % 4)) for i, x in enumerate(r.rows)])
        for r in (strong, weak)
    ]
    noisy = [
        replace(pictures[0], rows=[replace(x, score=float(int(x.group) > 0)) for x in pictures[0].rows]),
        replace(pictures[1], rows=[replace(x, score=float(int(x.group) < 2)) for x in pictures[1].rows]),
    ]  # fmt: skip
    _, shared = rated(*noisy)
    alone = [replace(r, rows=[replace(x, group=None) for x in r.rows]) for r in noisy]
    _, free = rated(*alone)
    assert free["strong"].ranks == (1, 1) and shared["strong"].ranks == (1, 2)
    assert shared["strong"].high - shared["strong"].low > free["strong"].high - free["strong"].low


def test_equal_models_are_hardly_ever_told_apart():
    """Three models of equal skill: a board that orders any two of them is wrong, 5 % at most."""
    wrong = 0
    for trial in range(60):
        rng = random.Random(trial)
        hard = [rng.random() for _ in range(60)]
        runs = [run(m, [float(rng.random() < h) for h in hard]) for m in "abc"]
        board, _ = rated(*runs, resamples=300)
        wrong += any(s.ranks != (1, 3) for s in board.standings)
    assert wrong <= 6  # of 60, where 3 are expected at most


def test_overlapping_intervals_can_be_told_apart():
    """b is a with twelve more right: wherever the luck of the questions falls, b is ahead."""
    a = [i % 2 for i in range(100)]
    b = [1 if i in range(0, 24, 2) else s for i, s in enumerate(a)]
    _, by = rated(run("a", a), run("b", b), resamples=2000)
    assert by["b"].ranks == (1, 1) and by["a"].ranks == (2, 2)
    assert by["b"].score.low < by["a"].score.high  # and their accuracies' intervals overlap


def test_several_suites_make_one_board():
    runs = [run("a", [1, 1, 0]), run("b", [1, 0, 0]), run("a", [1, 0], "pope"), run("b", [0, 0], "pope")]  # fmt: skip
    board, by = rated(*runs)
    assert board.suites == ("world", "pope") and board.questions == 5
    assert by["a"].games == 5 and by["a"].score.n == 5
    assert board.notes == ()
    board, _ = rated(*runs[:3])
    assert any("b did not answer pope" in note for note in board.notes)


def held_back(model):
    return run(model, [0, 0], answer=None)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([], "A leaderboard of one model"),
        ([run("a", [1, 0])], "A leaderboard of one model"),
        ([run("a", [1, 0]), run("a", [0, 0])], "a has two runs of world; the second is"),
        ([run("a", [1, 0]), run("b", {"x": 1})], "No two of these runs share a question"),
        ([run("a", [1, 0]), run("b", [1, 0], "pope")], "No two of these runs share a question"),
        ([run("a", [1, 0]), run("b", [1, 1]), run("c", [1], "pope")], "c shares no question"),
        ([run("a", [1, 0]), run("b", [1, 1], prompt="other")], "a and b were asked different questions under 0 of world"),
        ([run("a", [1, 0]), run("b", [1, 1], answer="no")], "different questions under 0"),
        ([held_back("a"), held_back("b")], "has no right answers"),
        ([run(m, [1, 0], s) for m, s in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))], "parts that never met"),
    ],
)  # fmt: skip
def test_mistakes(runs, sentence):
    with pytest.raises(InputError) as error:
        leaderboard(runs, resamples=20)
    assert sentence in error.value.what


HOSTILE = '<img src="http://198.51.100.7/x.png" onerror=alert(1)>'


@pytest.fixture(scope="module")
def board():
    """Eight models, one of them named to break the page, another with a long name."""
    names = [f"model-{i}" for i in range(6)] + [HOSTILE, "很长的名字" * 6 + "-" + "x" * 90]
    runs = [
        run(name, [float((7 * q + 13 * i * q) % 11 < 3 + i) for q in range(60)])
        for i, name in enumerate(names)
    ]
    return leaderboard(runs, resamples=300)


def test_what_it_says_as_json_and_as_a_table(board):
    told = json.loads(json.dumps(board.to_dict()))
    assert [s["model"] for s in told["standings"]] == [s.model for s in board.standings]
    first = told["standings"][0]
    assert first["rank"] == board.standings[0].rank and first["games"] == 7 * 60
    assert first["score"] == board.standings[0].score._asdict()
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board.table())
    text = console.export_text()
    for s in board.standings[:3]:
        assert f"{s.rating:.0f}" in text and f"{s.wins:,} / {s.ties:,} / {s.losses:,}" in text
    assert "model-0" in text and "60 questions" in text


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's own font has no Chinese
def test_the_figure_has_a_line_a_model_the_best_on_top(board, tmp_path):
    figure = board.figure()
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert [name.split() for name in names if "model-" in name] == [
        [s.model, s.rank] for s in board.standings if s.model.startswith("model-")
    ]
    assert axes.yaxis_inverted()
    bars = list(axes.containers)
    assert len(bars) == len(board.standings)
    for bar, s in zip(bars, board.standings, strict=True):
        (segment,) = bar[2][0].get_segments()
        assert segment[:, 0].tolist() == pytest.approx([s.low, s.high])
        assert bar[0].get_xdata()[0] == pytest.approx(s.rating)
    figure.savefig(tmp_path / "board.png", dpi=60)
    assert (tmp_path / "board.png").stat().st_size > 2000


def test_without_matplotlib_the_figure_says_so(board, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="matplotlib"):
        board.figure()


def test_nothing_in_a_name_becomes_markup(board):
    text = page(board)
    assert HOSTILE not in text and "&lt;img src=" in text
    assert text.count("<script>") == 1 and "<img" not in text


OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_in_a_browser(chromium, board, tmp_path, width, mode):
    path = tmp_path / "board.html"
    write_html(board, path)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    tab = context.new_page()
    asked, faults = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(path.as_uri())
    assert tab.evaluate(OVERFLOW) <= 0
    assert asked == [path.as_uri()] and faults == []
    ink, paper = (
        sum(map(int, re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{name}"))[:3]))
        for name in ("color", "backgroundColor")
    )  # fmt: skip
    assert (ink < paper) == (mode == "light")
    # The marks stand in the order of the ratings, inside their tracks.
    marks = tab.evaluate(
        "[...document.querySelectorAll('.track')].map(t => { const b = t.getBoundingClientRect(),"
        " u = t.querySelector('u').getBoundingClientRect(), i = t.querySelector('i').getBoundingClientRect();"
        " return [b.left, i.left, u.left + u.width / 2, i.right, b.right]; })"
    )
    assert len(marks) == len(board.standings)
    assert all(left <= low <= at + 1 and at - 1 <= high <= right for left, low, at, high, right in marks)  # fmt: skip
    centres = [mark[2] for mark in marks]
    assert centres == sorted(centres, reverse=True)
    # A head that is pressed sorts by its column, pressed again the other way.
    cells = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[6].textContent)"
    won = {f"{s.wins:,}" for s in board.standings}
    head = tab.locator("th button", has_text="won")
    head.click()
    up = [int(text.replace(",", "")) for text in tab.evaluate(cells)]
    head.click()
    down = [int(text.replace(",", "")) for text in tab.evaluate(cells)]
    assert up == sorted(up) and down == sorted(up, reverse=True)
    assert {f"{number:,}" for number in up} == won
    context.close()


def test_a_narrow_terminal_shows_names_to_their_ends():
    names = "tiny-sft-clean", "tiny-sft-other"
    board, _ = rated(run(names[0], [1, 1, 1, 0]), run(names[1], [0, 1, 0, 0]))
    text = io.StringIO()
    Console(file=text, width=80).print(board.table())
    assert all(name in text.getvalue() for name in names)
