"""The data doctor's Report: what it says in words, as JSON, on the page, and what it leaves out."""

import base64
import io
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labs.doctors.data.kinds import KINDS
from labs.doctors.data.report import charts, html, terminal, words
from labs.doctors.data.report.redaction import redact_text, redacted
from labs.doctors.data.report.report import Example, Finding, Histogram, Report, repair_of
from labs.doctors.data.report.thumbnail_child import SIDE
from labs.doctors.data.report.thumbnails import NOTHING, thumbnails
from tests.doctors.predict.test_page import read

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def finding(kind: str, count: int = 1, of: int = 100, **example) -> Finding:
    known = KINDS[kind]
    fields = {
        "place": "train.json, line 4", "file": "train.json", "line": 4, "record": 3, "member": None,
        "id": "0042", "detail": "2 images, 1 placeholder", "image": None,
    }  # fmt: skip
    shown = [Example(**{**fields, **example})]
    return Finding(
        kind, known.group, known.severity, known.title, count, count, count / of, known.semantic,
        known.why, known.fix, known.repair, repair_of(kind), shown,
    )  # fmt: skip


def report(*findings: Finding, **fields) -> Report:
    facts = {"samples": 100, "format": "llava", "format_name": "LLaVA conversations"}
    return Report("train.json", list(findings), **{"facts": facts, **fields})


ERROR, WARNING, NOTE = "missing_placeholder", "duplicate_sample", "exif_rotated"


@pytest.mark.parametrize(
    ("kinds", "verdict", "fails_on"),
    [
        ([ERROR, WARNING, NOTE], "errors", {"error", "warning"}),
        ([WARNING, NOTE], "warnings", {"warning"}),
        ([NOTE], "notes", set()),
        ([], "clean", set()),
    ],
)
def test_verdict_headline_and_exit_agree(kinds, verdict, fails_on):
    made = report(*map(finding, kinds))
    assert made.verdict == verdict
    assert {level for level in ("error", "warning", "never") if made.reaches(level)} == fails_on
    said = words.headline(made)
    assert said.startswith("Not fit to train on") == ("error" in fails_on)
    assert "100 samples checked" in said
    for severity in ("error", "warning", "note"):
        there = severity in {KINDS[kind].severity for kind in kinds}
        denied = re.search(rf"[Nn]o {severity}|Nothing found", said)
        assert there == (severity in said and not denied), said


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_percentage_never_hides_that_there_are_some_or_that_there_are_not_all(part, whole):
    part = min(part, whole)
    said = words.percent(part / whole)
    assert (said == "0 %") == (part == 0)
    assert (said == "100 %") == (part == whole)
    if "<" not in said:
        assert abs(float(said.rstrip(" %")) - 100 * part / whole) <= 0.1


def test_json_keeps_its_promises():
    made = report(finding(ERROR, 3), histograms=[Histogram("turns", "Turns", "turns", [(1, 2, 9)])])
    read = json.loads(made.to_json())
    assert list(read)[:2] == ["schema", "verdict"]
    assert (read["schema"], read["verdict"]) == ("data-doctor/1", "errors")
    [found] = read["findings"]
    assert (found["kind"], found["count"], found["share"]) == (ERROR, 3, 0.03)
    assert found["examples"][0]["line"] == 4
    assert read["histograms"][0]["bins"] == [[1, 2, 9]]
    assert made.to_json().isascii()


def test_the_terminal_says_verdict_faults_gaps_and_the_next_command():
    made = report(finding(ERROR, 3), finding(NOTE), unchecked=["Tokens: no --model was given."])
    lines = terminal.text(made, 80, "data_doctor.py check train.json --fix cleaned").splitlines()
    assert " ".join(lines[:2]).startswith(words.headline(made))
    assert all(len(line) <= 80 for line in lines)
    place = next(i for i, line in enumerate(lines) if line.startswith("error"))
    assert KINDS[ERROR].title in lines[place]
    assert "first: train.json, line 4 (id 0042): 2 images" in lines[place + 1]
    assert f"fix: {KINDS[ERROR].fix}" in lines[place + 2]
    assert lines[-1] == "  data_doctor.py check train.json --fix cleaned"
    text = "\n".join(lines)
    assert (
        text.index("error ") < text.index("note ") < text.index("Not checked") < text.index("Next")
    )


def test_an_id_cannot_command_the_terminal():
    made = report(
        finding(ERROR, id="\x1b[2J\x1b]0;owned\x07\u202egnp.exe\r", detail="a\x00b\x9b31m")
    )
    text = terminal.text(made)
    assert not [c for c in text if c != "\n" and not c.isprintable()]


@pytest.mark.parametrize(
    ("kinds", "offered"), [([ERROR], True), ([NOTE], False), (["refusal"], False)]
)
def test_the_cleaned_copy_is_offered_where_it_mends_something(kinds, offered):
    made = report(*map(finding, kinds))
    said = words.next_command(made, "my data/a.json", "data_doctor.py check", "my images")
    expected = "data_doctor.py check 'my data/a.json' --image-root 'my images' --fix cleaned"
    assert said == (expected if offered else "")


FIXED = {
    "out": "my out", "log": "my out/changes.jsonl", "kept": 1234, "mended": 5, "removed": 67,
    "image_root": "images of mine", "errors_left": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words_of", "following"),
    [
        ({}, ["1,234 samples as they were, 5 mended, 67 removed", "finds no error"], "check 'my out' --image-root 'images of mine'"),
        ({"image_root": None}, ["my out/changes.jsonl"], "check 'my out'"),
        ({"image_root": "my out"}, ["my out"], "check 'my out'"),
        ({"errors_left": ["special_token_split"]}, ["no repair mends: special_token_split"], "check 'my out' --image-root 'images of mine'"),
    ],
)  # fmt: skip
def test_what_was_cleaned_is_said_and_checked_next(changes, words_of, following):
    made = report(finding(ERROR), fixed={**FIXED, **changes})
    command = words.next_command(made, "data", "data_doctor.py check", "ignored")
    assert command == f"data_doctor.py {following}"
    for text in (terminal.text(made, 300, command), html.html_of(made, {}, command)):
        for said in words_of:
            assert said in text
        assert html.page.escape(command) in text or command in text
    assert json.loads(made.to_json())["fixed"] == {**FIXED, **changes}


def data_url(colour: str, size: tuple[int, int]) -> str:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


CHARTS = [
    Histogram("turns", "Turns of a sample", "turns", [(i, i, i * i) for i in range(1, 13)]),
    Histogram("image_width", "Width of an image", "pixels", [(224, 224, 5000)]),
]


def full_page(word: str = "plain") -> str:
    """A page that holds everything a page can hold, `word` wherever a text of the data may stand."""
    shown = finding(ERROR, 412, place=word, id=word, detail=word, image=word)
    shown.examples.extend(shown.examples * 8)
    made = report(
        shown, finding(WARNING), finding(NOTE), finding("refusal"),
        histograms=CHARTS, checked=[("turns", word)], unchecked=[word],
        facts={"samples": 1234, "format_name": word, "yes_rate": {word: 0.5}, "splits": {word: 3}},
    )  # fmt: skip
    pictures = {(ERROR, 0): [data_url("red", (96, 40))], (ERROR, 1): ["it cannot be opened"]}
    return html.html_of(made, pictures, word)


def test_everything_on_the_page_is_escaped():
    reader = read(full_page(HOSTILE))
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "".join(reader.text).count(HOSTILE) >= 20
    plain = read(full_page("plain"))
    assert [t for t in reader.tags if t != "td"] == [t for t in plain.tags if t != "td"]


def test_pictures_are_in_the_page_and_nothing_is_asked_from_outside():
    text = full_page()
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/png;base64,")
    assert "it cannot be opened" in text
    assert "img-src data:" in text
    assert not [word for word in ("http:", "https:", "url(", "@import", "<script") if word in text]


def test_the_page_says_why_and_what_to_do_and_links_to_it():
    text = full_page()
    for kind in (ERROR, WARNING, NOTE, "refusal"):
        known = KINDS[kind]
        for words_of in (known.why, known.fix, repair_of(kind)):
            assert html.page.escape(words_of) in text
        assert f'href="#{kind}"' in text
        assert f'id="{kind}"' in text
    assert text.count("judged by a score") == 1
    assert "3 more examples" in text, "nine examples, six in view"


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40).filter(any))
def test_bars_are_as_high_as_their_counts(counts):
    bins = [(10 * i, 10 * i + 9, count) for i, count in enumerate(counts)]
    text = charts.histogram(Histogram("turns", "Turns", "turns", bins))
    heights = [float(h) for h in re.findall(r'class="f0".*?height="([\d.]+)"', text)]
    assert len(heights) == len(counts)
    for height, count in zip(heights, counts, strict=True):
        exact = charts.HEIGHT * count / max(counts)
        # What is there is seen, however rare; what is not there has no bar.
        assert height == pytest.approx(exact, abs=0.01) or exact < height == 1.5
        assert (height > 0) == (count > 0)
    titles = re.findall(r"<title>([\d,]+) to ([\d,]+) turns: ([\d,]+) samples?</title>", text)
    assert [int(n.replace(",", "")) for _, _, n in titles[::2]] == counts
    outside = re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert "<text" not in text, "words inside an SVG shrink with it"
    assert f"{10 * len(counts) - 1:,}" in outside or len(counts) < charts.NARROWEST


PRIVATE = [
    "/home/ada/data/cat.jpg", "../../home/ada/cat.jpg", "a/../../Users/ada/cat.jpg",
    "C:\\Users\\ada\\cat.jpg", "~/ada/cat.jpg", "ada@example.org wrote cat.jpg",
    "https://ada:secret@host/cat.jpg", "https://host/cat.jpg?user=ada&sig=1",
    "hf_adaadaadaadaada cat.jpg",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_who_and_where_stays_at_home(text):
    said = redact_text(f"'{text}' 打不开")
    assert "ada" not in said
    assert "cat.jpg" in said, "the name that helps to find it stays"
    made = report(
        finding(ERROR, place=text, file=text, id=text, detail=text, image=text, member=text),
        checked=[("images", text)], unchecked=[text], fixed={**FIXED, "out": text, "log": text, "image_root": text},
    )  # fmt: skip
    made.facts.update(note=text, splits={"train": [text]})
    quiet = redacted(made)
    for shown in (quiet.to_json(), terminal.text(quiet, 400), html.html_of(quiet)):
        assert "ada" not in re.sub("metadata|shadow", "", shown.replace("data-doctor", ""))


@given(st.from_regex(r"[a-z0-9]{1,40}(/[a-z0-9_\-]{1,40}){0,4}\.(jpg|png)", fullmatch=True))
def test_names_inside_the_data_folder_are_left_whole(name):
    for text in (name, f"'{name}'", f"图片 {name} 不存在", f"looks like {name}"):
        assert redact_text(text) == text


OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
TOO_SMALL = """[...document.querySelectorAll('body *')].filter(e => e.childElementCount === 0
  && e.textContent.trim() && !e.closest('svg, style') && parseFloat(getComputedStyle(e).fontSize) < 11)
  .map(e => e.outerHTML)"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_in_a_browser(chromium, tmp_path, width, mode):
    """Long words and wide tables stay inside, in both colours and on a phone; no request leaves."""
    path = tmp_path / "report.html"
    path.write_text(full_page("很长的一句话" * 20 + "x" * 300), encoding="utf-8")
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    tab = context.new_page()
    asked, faults = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(OVERFLOW) <= 0
    assert tab.evaluate(TOO_SMALL) == []
    assert tab.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    assert faults == []
    ink, paper = (
        sum(
            map(
                int, re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{name}"))[:3]
            )
        )
        for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (mode == "light")
    context.close()


def test_thumbnails_are_small_upright_and_made_of_what_is_left(tmp_path):
    whole, half, turned, bomb, pipe = (tmp_path / f"{n}.jpg" for n in "abcde")
    picture = Image.new("RGB", (1000, 500), "red")
    picture.paste("blue", (0, 0, 500, 500))
    picture.save(whole)
    half.write_bytes(whole.read_bytes()[:-800])
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    picture.save(turned, exif=exif)
    Image.new("1", (4000, 4000)).save(bomb, "PNG")
    os.mkfifo(pipe)
    sources = [whole, half, turned, bomb, pipe, tmp_path / "none.jpg", data_url("green", (30, 9))]
    sources.append((str(whole), 0, whole.stat().st_size))  # as a member of a tar
    made = list(thumbnails(sources, max_pixels=1_000_000))
    shown = [
        Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) if "," in url else url
        for url in made
    ]
    assert shown[3:6] == [NOTHING] * 3
    sizes = [picture.size for picture in shown if not isinstance(picture, str)]
    assert sizes == [(SIDE, SIDE // 2)] * 2 + [(SIDE // 2, SIDE), (30, 9), (SIDE, SIDE // 2)]
    red, _, blue = shown[0].getpixel((20, 20))
    assert blue > 200 > 50 > red
    assert max(map(len, made)) < 20_000
