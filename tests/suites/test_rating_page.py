"""The rating sheet in a real browser: votes by mouse and keys, kept, saved, blind, and sent nowhere."""

import json
import re
from urllib.parse import unquote

import pytest
from PIL import Image

from labs.suites.rating import Item, read_votes
from tests.suites.rating_world import MODELS, items, sheets

OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
HOSTILE = (
    "</script><img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script>"
    "<!-- --><svg onload=window.hacked=3> {{7*7}} & \u2028 \ud800 end"
)  # fmt: skip


@pytest.fixture
def visit(chromium):
    """Open a page; what it asks for and what goes wrong in it is kept in `asked` and `faults`."""
    contexts = []

    def open_page(path, width=1000, height=900, mode="light", script=None, context=None):
        if context is None:
            context = chromium.new_context(
                viewport={"width": width, "height": height}, color_scheme=mode
            )
            contexts.append(context)
        if script:
            context.add_init_script(script)
        tab = context.new_page()
        tab.asked, tab.faults = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("console", lambda message: tab.faults.append(message.text))
        tab.on("pageerror", lambda error: tab.faults.append(str(error)))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()


def button(tab, name):
    return tab.get_by_role("button", name=name, exact=True)


def shown(tab):
    """The texts on the left and on the right."""
    return tab.locator("#left").inner_text(), tab.locator("#right").inner_text()


def saved(tab, tmp_path):
    """What "Download results" gives, as a file."""
    with tab.expect_download() as download:
        button(tab, "Download results").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_votes_by_mouse_and_keys_come_back_as_what_was_seen(visit, tmp_path):
    written, key = sheets(tmp_path, n=8, raters=2, gold=1)
    tab = visit(written.pages[0])
    steps = [
        (lambda: button(tab, "Left").click(), "left"),
        (lambda: button(tab, "Right").click(), "right"),
        (lambda: button(tab, "Tie").click(), "tie"),
        (lambda: button(tab, "Both bad").click(), "both_bad"),
        (lambda: tab.keyboard.press("1"), "left"),
        (lambda: tab.keyboard.press("2"), "right"),
        (lambda: tab.keyboard.press("3"), "tie"),
        (lambda: tab.keyboard.press("4"), "both_bad"),
        (lambda: tab.keyboard.press("ArrowRight"), "right"),
    ]
    seen = []
    for number, (vote, choice) in enumerate(steps):
        assert f"Item {number + 1} of 9, {number} answered" in tab.locator("#place").inner_text()
        assert (
            tab.locator("#pictures img").evaluate("i => i.decode().then(() => i.naturalWidth)")
            == 48
        )
        seen.append((*shown(tab), choice))
        vote()
    assert tab.locator("#state").inner_text() == "All 9 items are answered. Thank you."
    path = saved(tab, tmp_path)
    votes, missing = read_votes([path], key)
    assert missing == {"rater-1": 0} and len(votes) == 9
    for vote, (left, right, choice) in zip(votes, seen, strict=True):
        answers = dict(
            zip(("first", "second"), key.comparisons[vote.comparison]["answers"], strict=True)
        )
        assert set(answers.values()) == {left, right}
        if choice in ("left", "right"):
            assert answers[vote.winner] == (left if choice == "left" else right)
            assert vote.side == choice
        else:
            assert (vote.winner, vote.side) == (choice, None)
        assert vote.seconds is not None
    assert tab.faults == []
    # The same by hand: the text below the buttons is what the file holds.
    tab.locator("#end summary").click()
    assert json.loads(tab.locator("#result").input_value()) == json.loads(path.read_text("utf-8"))


def test_reloading_keeps_votes_and_goes_on_where_it_was(visit, tmp_path):
    written, key = sheets(tmp_path, n=5)
    tab = visit(written.pages[0])
    tab.locator("#comment").fill("两个都对，但左边更全 <b>")
    tab.keyboard.press("Tab")
    tab.keyboard.press("1")
    tab.keyboard.press("3")
    third = shown(tab)
    tab.reload()
    assert "Item 3 of 5, 2 answered" in tab.locator("#place").inner_text()
    assert shown(tab) == third
    other = visit(written.pages[0], context=tab.context)  # as if the browser had been closed
    assert "2 answered" in other.locator("#place").inner_text()
    unrelated = visit(written.pages[1], context=tab.context)
    assert "Item 1 of 5, 0 answered" in unrelated.locator("#place").inner_text()
    # A second tab of the same sheet hears of what is chosen in the first, and loses none of it.
    tab.keyboard.press("4")
    other.wait_for_function("document.getElementById('place').textContent.includes('3 answered')")
    tab.keyboard.press("4")
    tab.keyboard.press("4")
    votes, _ = read_votes([saved(tab, tmp_path)], key)
    assert [v.winner for v in votes][1:] == ["tie", "both_bad", "both_bad", "both_bad"]
    assert votes[0].comment == "两个都对，但左边更全 <b>" and votes[1].comment == ""


def test_a_vote_can_be_taken_back(visit, tmp_path):
    written, key = sheets(tmp_path, n=3)
    tab = visit(written.pages[0])
    assert button(tab, "Back").is_disabled()
    first = shown(tab)
    tab.keyboard.press("1")
    tab.keyboard.press("1")
    button(tab, "Back").click()
    tab.keyboard.press("Backspace")
    assert shown(tab) == first
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.choice)"
    assert tab.evaluate(pressed) == ["left"]
    tab.keyboard.press("2")
    assert "Item 3 of 3, 2 answered" in tab.locator("#place").inner_text(), "the second is done"
    tab.keyboard.press("2")
    votes, _ = read_votes([saved(tab, tmp_path)], key)
    assert [v.side for v in votes] == ["right", "left", "right"] and len(votes) == 3


def test_what_is_left_open_is_told_and_can_still_be_sent(visit, tmp_path):
    written, key = sheets(tmp_path, n=4)
    tab = visit(written.pages[0])
    button(tab, "Next").click()
    tab.keyboard.press("1")
    button(tab, "Results").click()
    assert tab.locator("#state").inner_text() == "3 of 4 items are not answered yet."
    votes, missing = read_votes([saved(tab, tmp_path)], key)
    assert len(votes) == 1 and missing == {"rater-1": 3}
    button(tab, "Go to the first of them").click()
    assert "Item 1 of 4" in tab.locator("#place").inner_text()


def test_keys_meant_for_something_else_are_no_votes(visit, tmp_path):
    written, _ = sheets(tmp_path, n=3)
    tab = visit(written.pages[0])
    tab.locator("#comment").click()
    tab.keyboard.type("1234")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Backspace")
    assert tab.locator("#comment").input_value() == "124"
    tab.locator("#comment").blur()
    for press in ("Control+1", "Alt+2", "Meta+3", "5", "a"):
        tab.keyboard.press(press)
    assert "0 answered" in tab.locator("#place").inner_text()
    # A key held down: one vote, not one on every item.
    for _ in range(4):
        tab.keyboard.down("1")
    tab.keyboard.up("1")
    assert "Item 2 of 3, 1 answered" in tab.locator("#place").inner_text()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_a_phone_and_the_dark(visit, tmp_path, width, mode):
    made = items(6)
    made[0].answers["model-x"] = "很长的一句话" * 40 + "x" * 300
    wide = Image.new("RGB", (3000, 500), "teal")
    made = [
        Item(i.id, i.question + " w" * 5 + "v" * 200, i.answers, (wide, *i.images)) for i in made
    ]
    written, _ = sheets(tmp_path, made, n=6)
    tab = visit(written.pages[0], width=width, mode=mode)
    for _ in range(6):
        tab.locator("#pictures img").last.evaluate("i => i.decode()")
        assert tab.evaluate(OVERFLOW) <= 0
        box = tab.locator("#pictures img").last.bounding_box()
        assert abs(box["width"] - box["height"]) < 2, "the scene is square"
        left, right = (tab.locator(f"#{side}").bounding_box() for side in ("left", "right"))
        assert left["x"] + left["width"] <= right["x"], "left is left, on a phone too"
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.evaluate(OVERFLOW) <= 0
        for choice in ("Left", "Right", "Tie", "Both bad"):
            box = button(tab, choice).bounding_box()
            assert box["height"] >= 44 and box["y"] + box["height"] <= 900, "always within reach"
        tab.keyboard.press("3")
    assert tab.locator("#end").is_visible()
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(OVERFLOW) <= 0
    ink, paper = (
        sum(map(int, re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{name}"))[:3]))
        for name in ("color", "backgroundColor")
    )  # fmt: skip
    assert (ink < paper) == (mode == "light") and abs(ink - paper) > 400
    assert tab.faults == []


def test_nothing_leaves_the_page_and_nothing_in_it_runs(visit, tmp_path):
    """Markup that a model wrote is shown as it stands; what it would fetch or run it does not."""
    texts = [HOSTILE, "<b>bold</b> ![x](http://192.0.2.1/x.png)", "javascript:alert(1)"]
    picture = Image.new("RGB", (8, 8), "red")
    made = [
        Item(f"q{i}</script>", f"What? {text}", {"tiny-base": text, "model-x": f"{text} too"}, (picture,))
        for i, text in enumerate(texts)
    ]  # fmt: skip
    written, key = sheets(tmp_path, made, n=3)
    tab = visit(written.pages[0])
    seen = []
    for _ in texts:
        seen += shown(tab)
        assert tab.locator("main b, main svg, main script, .answers img").count() == 0
        tab.keyboard.press("1")
    told = {re.sub(r"[\u2028\ud800\ufffd ]+", " ", text).strip() for text in seen}
    assert told == {
        re.sub(r"[\u2028\ud800\ufffd ]+", " ", t).strip()
        for item in made for t in item.answers.values()
    }  # fmt: skip
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hacked") is None
    assert {u for u in tab.asked if not u.startswith(("data:", "blob:"))} == {
        written.pages[0].as_uri()
    }
    assert tab.faults == [], "not even an attempt that the content policy stopped"
    votes, _ = read_votes([saved(tab, tmp_path)], key)
    assert len(votes) == 3


def test_the_content_policy_would_stop_what_got_in(visit, tmp_path):
    """The silence above means something: markup put in by force neither runs nor loads."""
    written, _ = sheets(tmp_path)
    tab = visit(written.pages[0])
    tab.evaluate(
        "document.body.insertAdjacentHTML('beforeend',"
        "'<img src=http://192.0.2.1/x.png><img src=data:, onerror=window.hacked=1>')"
    )
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.hacked") is None
    assert any("Content Security Policy" in fault for fault in tab.faults)


def test_no_page_tells_who_wrote_what(tmp_path):
    models = ("tiny-base", "model-x", "a-third")
    made = items(20, models)
    written, key = sheets(tmp_path, made, n=20, raters=3, gold=2)
    sources = [page.read_text(encoding="utf-8") for page in written.pages]
    for source in sources:
        lowered = unquote(source).lower()
        assert not [model for model in models if model in lowered]
        assert not [item.id for item in made if item.id in source], "nor which question it is"
        assert "gold" not in lowered and "(right)" not in lowered
    first, second = (set(re.findall(r'"id": "(\w+)"', source)) for source in sources[:2])
    assert len(first) == 22 and not first & second
    assert key.models == models and (tmp_path / "key.json").exists()


def test_sides_are_exchanged_between_raters(tmp_path):
    made = items(40)
    written, key = sheets(tmp_path, made, n=40, raters=2)
    lefts: dict[int, list[str]] = {}
    for sheet in key.sheets.values():
        for placed in sheet["items"].values():
            models = key.comparisons[placed["comparison"]]["models"]
            lefts.setdefault(placed["comparison"], []).append(models[placed["flipped"]])
    assert all(sorted(left) == sorted(MODELS) for left in lefts.values())
    assert written.items == [40, 40] and written.comparisons == 40


def test_a_browser_that_keeps_nothing_says_so_and_still_works(visit, tmp_path):
    written, key = sheets(tmp_path, n=2)
    broken = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})"
    tab = visit(written.pages[0], script=broken)
    assert tab.locator("#unsaved").is_visible()
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    votes, missing = read_votes([saved(tab, tmp_path)], key)
    assert len(votes) == 2 and missing["rater-1"] == 0
    healthy = visit(written.pages[0])
    assert not healthy.locator("#unsaved").is_visible()


def test_storage_that_was_tampered_with_is_not_believed(visit, tmp_path):
    written, key = sheets(tmp_path, n=2)
    sheet, other = list(key.sheets)
    item = next(iter(key.sheets[sheet]["items"]))
    odd = {item: {"choice": "model", "comment": 5, "seconds": "x"}, "ghost": {"choice": "left"}}
    script = f"localStorage.setItem('labs-rating:{sheet}', {json.dumps(json.dumps(odd))})"
    tab = visit(written.pages[0], script=script)
    assert "0 answered" in tab.locator("#place").inner_text()
    tab = visit(written.pages[1], script=f"localStorage.setItem('labs-rating:{other}', '[[')")
    assert "0 answered" in tab.locator("#place").inner_text() and tab.faults == []


def test_results_can_be_copied(visit, tmp_path):
    written, key = sheets(tmp_path, n=2)
    tab = visit(written.pages[0])
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    button(tab, "Copy results").click()
    tab.wait_for_function("document.getElementById('message').textContent !== ''")
    assert tab.locator("#message").inner_text() == "Copied."
    path = tmp_path / "pasted.json"
    path.write_text(tab.evaluate("navigator.clipboard.readText()"), encoding="utf-8")
    assert len(read_votes([path], key)[0]) == 2
    # Without a clipboard the text is opened and selected, to be copied by hand.
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    tab.evaluate("document.execCommand = () => false")
    button(tab, "Copy results").click()
    tab.wait_for_function("document.activeElement.id === 'result'")
    assert "Select the text" in tab.locator("#message").inner_text()
    chosen = "document.activeElement.value.slice(0, document.activeElement.selectionEnd)"
    assert json.loads(tab.evaluate(chosen))["sheet"] == next(iter(key.sheets))


def test_everything_has_a_name_and_can_be_reached_by_keyboard(visit, tmp_path):
    written, _ = sheets(tmp_path, n=2)
    tab = visit(written.pages[0])
    for role in ("button", "textbox", "img", "progressbar"):
        for one in tab.get_by_role(role).all():
            if one.is_visible():
                name = one.evaluate(
                    "e => e.ariaLabel || e.alt || e.innerText || e.labels?.[0]?.innerText ||"
                    " document.getElementById(e.getAttribute('aria-labelledby'))?.innerText"
                )
                assert name, one
    reached = set()
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.innerText || document.activeElement.id"))
        ring = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or tab.evaluate("document.activeElement === document.body")
    words = " ".join(reached)
    assert all(word in words for word in ("Left", "Right", "Tie", "Both bad", "Next", "comment"))
    button(tab, "Tie").focus()
    tab.keyboard.press("Enter")
    assert "Item 2 of 2, 1 answered" in tab.locator("#place").inner_text()
    assert tab.evaluate("document.activeElement.id") == "question", "a reader hears the new item"
    assert tab.evaluate("document.documentElement.lang") == "en"


def test_the_page_in_chinese(visit, tmp_path):
    written, key = sheets(tmp_path, items(6, language="zh"), n=2, language="zh")
    tab = visit(written.pages[0])
    assert tab.evaluate("document.documentElement.lang") == "zh-Hans"
    assert "哪个答案更好" in tab.title()
    button(tab, "都不好").click()
    button(tab, "左边").click()
    assert "全部回答" in tab.locator("#state").inner_text()
    with tab.expect_download() as download:
        button(tab, "下载结果").click()
    download.value.save_as(tmp_path / "votes.json")
    votes, _ = read_votes([tmp_path / "votes.json"], key)
    assert votes[0].winner == "both_bad" and votes[1].side == "left"


def test_answers_are_shown_as_they_were_said(visit, tmp_path):
    """White space stays, an empty answer says that it is empty, and nothing is cut."""
    long = "line one\n  indented\n\n" + "word " * 500
    made = [Item("a", "Q?", {"tiny-base": "", "model-x": long})]
    written, _ = sheets(tmp_path, made, n=1)
    tab = visit(written.pages[0])
    texts = {tab.locator(f"#{side}").evaluate("e => e.textContent") for side in ("left", "right")}
    assert texts == {"(this answer is empty)", long}
    assert tab.locator("#pictures img").count() == 0
