"""The report: one file that asks nobody for anything, shows what is there, and escapes what it shows."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.train.policy.diary import Diary
from labs.train.policy.report import write_report
from labs.train.policy.report_plots import PANELS, POINTS, plots, smooth, thin
from labs.train.policy.series import QUANTITIES
from tests.train.policy.made_up import RUN, changed, healthy, write


class Page(HTMLParser):
    """Tags with their attributes, and the text; asserts that what opens closes."""

    EMPTY = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in self.EMPTY:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_startendtag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def figures(entries, run=RUN):
    drawn, missing = plots(entries, run)
    return {
        ElementTree.fromstring(str(d)).find("figcaption").text.strip(): d for d in drawn
    }, missing


def polylines(figure, kind="line"):
    """[N, 2] points of each polyline of a class, as drawn."""
    root = ElementTree.fromstring(str(figure))
    found = [e for e in root.iter("polyline") if e.get("class").split()[0] == kind]
    return [np.array([p.split(",") for p in e.get("points").split()], float) for e in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose prompts are asked again and again, written by the diary itself."""
    folder = tmp_path_factory.mktemp("run") / "first"
    diary = Diary(folder, run=RUN)
    for entry in healthy(40):
        asked = []
        if entry["step"] == 1 or entry["step"] % 10 == 0:
            for k, colour in enumerate(["red", "blue"]):
                about = {"prompt": "Is there a ring?", "said": f"{colour} at {entry['step']}"}
                about |= {"answer": "no", "reward": 0.25 * k, "task": "existence"}
                asked.append(about | {"image": Image.new("RGB", (48, 48), colour)})
            once = {
                "prompt": "Only once?",
                "said": "once",
                "reward": 1.0,
                "task": "",
                "image": None,
            }
            asked += [once | {"answer": str(entry["step"])}]
        diary.log(entry, asked)
    diary.close()
    return folder


def test_the_page_asks_nobody_for_anything(run):
    text = (run / "report.html").read_text()
    page = Page(text)
    assert "script" not in {name for name, _ in page.tags}
    for name, attributes in page.tags:
        for key, value in attributes.items():
            if key in ("src", "href", "data", "srcset", "action", "xlink:href"):
                assert name == "img" and value.startswith("data:image/png;base64,")
    assert "url(" not in text and "@import" not in text
    [policy] = [a["content"] for n, a in page.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'") and "prefers-color-scheme:dark" in text


def test_the_page_shows_the_curves_the_numbers_and_what_was_said(run):
    page = Page((run / "report.html").read_text())
    assert page.text.count("none of them found anything") == 1
    assert len([1 for name, _ in page.tags if name == "svg"]) == len(PANELS)
    pictures = [a["src"] for n, a in page.tags if n == "img"]
    shown = [Image.open(io.BytesIO(base64.b64decode(p.split(",")[1]))) for p in pictures]
    assert [p.convert("RGB").getpixel((3, 3)) for p in shown] == [(255, 0, 0), (0, 0, 255)]
    told = page.text[page.text.index("Sample answers") :]
    assert "2 of 7 prompts" in told, "a prompt with another answer is another prompt"
    for step in (1, 10, 30, 40):  # first, last, and two between
        assert f"red at {step} " in told and f"blue at {step} " in told
    assert "red at 20" not in told and "Only once?" not in told
    assert (
        "max_new_tokens" in page.text and "40 entries, steps 1 to 40 · ppo · tiny-sft" in page.text
    )


def test_findings_stand_in_the_page(tmp_path):
    sick = changed(healthy(40), mismatch=lambda t: 0.3, entropy=None, loss=lambda t: math.nan)
    page = Page(write_report(write(tmp_path, sick)).read_text())
    kinds = [a["class"] for n, a in page.tags if n == "div" and "finding" in a.get("class", "")]
    assert kinds == ["finding bad", "finding bad", "finding unknown"]
    assert "0.3" in page.text and "loss at step 1 (40 entries)" in page.text
    assert "Not in this diary: Entropy." in page.text


def test_prompts_asked_once_are_shown_from_both_ends(tmp_path):
    samples = [
        {"step": s, "prompt": f"question {s}?", "said": "x", "reward": "NaN", "task": "t"}
        for s in range(1, 31)
    ]
    page = Page(write_report(write(tmp_path, healthy(3), samples)).read_text())
    assert "12 of 30 prompts" in page.text and "No prompt was asked twice" in page.text
    shown = {int(n) for n in re.findall(r"question (\d+)\?", page.text)}
    assert shown == set(range(1, 7)) | set(range(25, 31))


def test_what_a_model_says_never_becomes_markup(tmp_path):
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\ud800\x00\x1b[31m"
    entries = changed(healthy(14), **{f"task__{evil}": lambda t: t, evil: lambda t: t})
    samples = [
        {"step": 1, "prompt": evil, "said": evil, "answer": evil, "reward": 0.0, "task": evil}
    ]
    run = {"model": evil, evil: evil}
    page = Page(write_report(write(tmp_path / "<b>run", entries, samples, run)).read_text("utf-8"))
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img", "b>run"} and "<b>run" in page.text
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "alert(1)" in page.text and "{{ 7 * 7 }}" in page.text and "\x1b" not in page.text


def test_a_picture_that_is_none_is_told_and_left_out(tmp_path):
    folder = write(tmp_path, healthy(3))
    (folder / "samples").mkdir()
    (folder / "samples" / "1_0.png").write_text("<svg onload=alert(1)>")
    samples = [
        {"step": 1, "prompt": "p", "said": "s", "image": f"samples/1_{k}.png"} for k in (0, 1)
    ]
    page = Page(write_report(write(folder, healthy(3), samples)).read_text())
    assert "img" not in {name for name, _ in page.tags}
    assert page.text.count("1_0.png is not an image") == 1 and "1_1.png does not exist" in page.text


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    write(tmp_path / "run", healthy(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "run", tmp_path / "file" / "report.html")
    assert write_report(tmp_path / "run", tmp_path / "other.html") == tmp_path / "other.html"
    assert not (tmp_path / "run" / "report.html").exists()


# The curves.


def test_a_line_is_drawn_where_its_values_are():
    """Read back from the SVG: straight in the values is straight on the page, and up is up."""
    entries = [{"step": s, "entropy": 3.0 - 0.01 * s} for s in range(10, 30)]
    [points] = polylines(figures(entries)[0]["Entropy"])
    x, y = points.T
    assert x[0] == 0 and x[-1] == 1000 and (np.diff(y) > 0).all() and 0 < y[0] < y[-1] < 300
    expected = y[0] + (y[-1] - y[0]) * np.arange(20) / 19
    assert np.abs(y - expected).max() <= 0.11


def test_every_quantity_of_a_run_is_drawn_somewhere():
    drawn, missing = figures(healthy(20))
    assert missing == [] and len(drawn) == len(PANELS)
    together = " ".join(str(figure) for figure in drawn.values())
    spread = {panel.spread for panel in PANELS}
    left = {name for name in healthy(1)[0] if f"</i>{name} " not in together} - {"step"} - spread
    assert left == {"updates", "stopped_early"}, "they are in the table"
    assert {name for panel in PANELS for name in panel.names} <= set(QUANTITIES)


def test_the_band_is_one_standard_deviation():
    entries = [{"step": s, "reward": 1.0, "reward_std": 0.25} for s in range(1, 11)]
    figure = figures(entries)[0]["Reward"]
    root = ElementTree.fromstring(str(figure))
    [band] = [e.get("points") for e in root.iter("polygon")]
    y = np.array([p.split(",")[1] for p in band.split()], float)
    [line] = polylines(figure)
    assert y.min() < line[0, 1] < y.max()
    assert y.max() - line[0, 1] == pytest.approx(line[0, 1] - y.min(), abs=0.2)
    ticks = {s.text: float(s.get("style")[4:-1]) * 3 for s in root.iter("span") if s.get("style")}
    assert ticks["0.8"] - ticks["1"] == pytest.approx(0.2 / 0.25 * (y.max() - line[0, 1]), abs=0.3)


def test_limits_are_drawn_where_the_curve_comes_near_them():
    def limits(**curves):
        drawn = figures(changed(healthy(20), **curves))[0]
        return {title for title, figure in drawn.items() if 'class="limit"' in figure}

    assert "Clip fraction" in limits(clip_fraction=lambda t: 0.29)
    assert "Clip fraction" not in limits(clip_fraction=lambda t: 0.02)
    assert "Response length" in limits(response_length=lambda t: 20.0), "of 32, as the run says"


def test_nan_is_marked_and_the_rest_still_drawn():
    entries = changed(healthy(20), loss=lambda t: math.nan if t in (0, 1) else 1.0)
    figure = figures(entries)[0]["Losses"]
    assert figure.count('class="broken"') == 2 and "loss is not finite at step 20" in figure
    only = figures([{"step": 1, "entropy": math.nan}])[0]["Entropy"]
    assert only.count('class="broken"') == 1 and polylines(only) == []


def test_long_runs_are_thinned_without_moving_the_mean():
    values = np.random.default_rng(0).normal(size=10_000)
    steps, means = thin(np.arange(10_000), values)
    assert len(steps) == len(means) == POINTS and means.mean() == pytest.approx(values.mean())
    page = len(str(figures(healthy(2000))[0]["Reward"]))
    assert page < 60_000


def test_smoothing_equals_a_slow_loop():
    values = np.random.default_rng(1).normal(size=83)
    slow = []
    for i in range(83):
        reach = min(i, 82 - i, 4)
        slow.append(np.mean(values[i - reach : i + reach + 1]))
    assert smooth(values) == pytest.approx(slow)


odd = st.one_of(
    st.floats(), st.integers(-(10**20), 10**20), st.sampled_from(["NaN", "Infinity", 1e300, 5e-324])
)
NAMES = sorted({name for panel in PANELS for name in panel.names} | {"task/x", "reward_std"})


@settings(max_examples=40)
@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), odd, min_size=1), min_size=1, max_size=40),
    st.dictionaries(st.sampled_from(["max_new_tokens", "kl_target"]), odd),
)
def test_odd_numbers_are_drawn_inside_the_page(entries, run):
    entries = [{"step": s, **entry} for s, entry in enumerate(entries, 1)]
    for figure in plots(entries, run)[0]:
        for kind in ("line", "raw"):
            for points in polylines(figure, kind):
                assert np.isfinite(points).all()
                assert (points[:, 1] >= -0.1).all() and (points[:, 1] <= 300.1).all()


@settings(max_examples=12)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=6), odd | st.text(max_size=4) | st.none()), max_size=6
    )
)
def test_odd_entries_make_a_page(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("odd")
    entries = [{**entry, "step": s} for s, entry in enumerate(entries, 1)]
    write(folder, [*entries, {"step": 99, "reward": 1.0}], run=None)
    Page(write_report(folder).read_text("utf-8"))


def test_in_a_browser_it_fits_and_follows_light_and_dark(run, chromium):
    address = (run / "report.html").as_uri()
    for width, scheme, shade in (
        (390, "dark", "rgb(22, 24, 28)"),
        (1280, "light", "rgb(255, 255, 255)"),
    ):
        view = {"width": width, "height": 844}
        context = chromium.new_context(viewport=view, color_scheme=scheme)
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(address, wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == shade
        widths = page.evaluate(
            "[...document.querySelectorAll('.plot svg')].map(s => s.clientWidth)"
        )
        assert len(widths) == len(PANELS) and min(widths) > 200
        assert {url for url in asked if not url.startswith("data:")} == {address} and said == []
        context.close()
