"""The HTML page of the doctors: nothing from outside, nothing unescaped, charts that add up."""

import html.parser
import re

import pytest

from labs.doctors import page


class Reader(html.parser.HTMLParser):
    """Checks that tags nest, and collects what a person reads."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], []

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes
        if name not in self.VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, f"</{name}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


HOSTILE = "<script>alert(1)</script>\"'&"


def everything(word: str) -> str:
    return page.render(
        word,
        [
            page.section(
                word,
                page.paragraph(word, kind="good"),
                page.bullets([word]),
                page.code(word),
                page.facts({word: word}),
                page.table([word], [[word]], numbers=[0]),
                page.figure(
                    page.breakdown([(word, [(word, 3.0)])], limits=[(word, 4.0)]), caption=word
                ),
                page.timeline(
                    {word: [1, 3, 2]},
                    phases=[(word, 0, 2)],
                    lines={word: [2, 4, 4]},
                    limits=[(word, 5)],
                ),
            )
        ],
        subtitle=word,
    )


def test_every_helper_escapes_what_it_is_given():
    reader = read(everything(HOSTILE))
    assert "script" not in reader.tags
    assert "".join(reader.text).count(HOSTILE) >= 12
    assert not any(HOSTILE in name for name, _ in reader.attributes)


def test_nothing_is_asked_from_outside():
    text = everything("x")
    names = {name for name, value in read(text).attributes}
    assert not names & {"src", "href", "srcset", "data", "poster", "action"}
    assert not [word for word in ("url(", "@import", "http:", "https:", "//") if word in text]
    assert "default-src 'none'" in text


def test_light_and_dark_and_phone_are_styled():
    text = everything("x")
    assert "prefers-color-scheme:dark" in text
    assert 'name="viewport" content="width=device-width' in text


def test_a_bar_is_as_long_as_its_part():
    chart = page.breakdown([("a", [("x", 30.0), ("y", 10.0)]), ("b", [("y", 20.0)])])
    widths = [
        (float(x), float(w), kind)
        for x, w, kind in re.findall(r'<rect x="([\d.]+)" y="0" width="([\d.]+)".*?class="(\w+)"', chart)
    ]  # fmt: skip
    assert widths == [(0.0, 750.0, "f0"), (750.0, 250.0, "f1"), (0.0, 500.0, "f1")]


def test_a_peak_of_one_event_among_many_is_drawn():
    values = [1.0] * 10_000
    values[7_777] = 500.0
    chart = page.timeline({"x": values}, phases=[("a", 0, 4999), ("b", 5000, 9999)])
    assert "b, event 7,778 of 10,000" in chart
    assert chart.count("<title>") == 240
    (polygon,) = re.findall(r'<polygon[^>]*points="([^"]+)"', chart)
    top = min(float(y) for y in re.findall(r"[\d.]+,([\d.]+)", polygon))
    assert top == pytest.approx(300 * (1 - 1 / 1.04), abs=0.01)


def test_layers_are_stacked():
    chart = page.timeline({"x": [2.0], "y": [6.0]})
    heights = [
        sorted({float(y) for y in re.findall(r",([\d.]+)", points)})
        for points in re.findall(r'points="([^"]+)"', chart)
    ]
    full = 300 / 1.04
    assert heights[0] == pytest.approx([300 - full / 4, 300], abs=0.01)
    assert heights[1] == pytest.approx([300 - full, 300 - full / 4], abs=0.01)


def test_an_empty_timeline_says_so():
    assert "Nothing was allocated" in page.timeline({})
    assert "Nothing was allocated" in page.timeline({"x": []})
