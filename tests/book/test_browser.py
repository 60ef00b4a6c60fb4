"""The built book in a real browser, with every request to the outside blocked and counted."""

import subprocess
import sys

import nbformat
import pytest

from book.builder.pages import find_pages

DOCNAMES = [page.docname for page in find_pages()] + ["tests/features"]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
THEME = "document.documentElement.dataset.theme"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.mark.parametrize("docname", DOCNAMES)
def test_page_is_complete_without_network(visit, docname):
    reader = visit()
    tab = reader.open(docname)
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert reader.outside == []
    assert reader.faults == []
    assert tab.evaluate(broken) == []
    assert tab.locator("mjx-merror, .mermaid-drawing .error-icon").count() == 0
    assert tab.locator("article.bd-article h1").count() == 1


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("docname", DOCNAMES)
def test_page_fits_a_phone(visit, docname, mode):
    tab = visit(width=390, mode=mode).open(docname)
    assert tab.evaluate(THEME) == mode
    assert tab.evaluate(OVERFLOW) <= 0
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(OVERFLOW) <= 0


def test_the_gate_notices_outside_requests(visit):
    """The count of zero above means something: one picture from elsewhere is seen and blocked."""
    reader = visit()
    tab = reader.open("how_to_use")
    tab.evaluate(
        "document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/x.png'}))"
    )
    tab.wait_for_timeout(200)
    assert reader.outside == ["http://192.0.2.1/x.png"]


def test_overflow_is_noticed(visit):
    tab = visit(width=390).open("how_to_use")
    tab.evaluate("document.querySelector('article.bd-article h1').style.width = '900px'")
    assert tab.evaluate(OVERFLOW) > 0


def test_formulas_and_diagrams_are_drawn(visit):
    tab = visit().open("tests/features")
    assert tab.locator("div.math mjx-container svg").count() == 1
    assert tab.locator("span.math mjx-container svg").count() == 2
    drawing = tab.locator(".mermaid-drawing")
    assert "vision tower" in drawing.inner_text()
    assert drawing.bounding_box()["height"] > 50


def test_glued_numbers_reach_the_prose(visit):
    assert "three runs reached 95.3%." in visit().open("tests/features").inner_text("article")


def test_dark_mode_toggles(visit):
    tab = visit(mode="light").open("tests/features")
    light, first = tab.evaluate(BACKGROUND), tab.locator(".mermaid-drawing svg").inner_html()
    tab.locator("button[aria-label='Color mode']:visible").click()
    tab.locator("button.theme-change-button[data-mode=dark]:visible").click()
    assert tab.evaluate(THEME) == "dark"
    assert tab.evaluate(BACKGROUND) != light
    tab.wait_for_function(
        "old => document.querySelector('.mermaid-drawing svg').innerHTML !== old", arg=first
    )
    tab.reload()
    assert tab.evaluate(THEME) == "dark", "the choice is kept"


def test_hints_open(visit):
    tab = visit().open("tests/features")
    hint = tab.locator("details", has_text="Hint 1")
    text = hint.get_by_text("Start with the")
    assert not text.is_visible()
    hint.locator("summary").click()
    assert text.is_visible()
    assert not tab.locator("details", has_text="Answer").locator("pre").first.is_visible()


def test_search_finds_a_word(visit):
    reader = visit()
    tab = reader.open("index")
    tab.keyboard.press("Control+k")
    tab.locator("input[type=search]:focus").fill("hallucinate")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a, ul.search li a")
    results = tab.locator("ul.search li a").all_inner_texts()
    assert "Vision-Language Models in Practice" in results
    assert reader.outside == []


def test_downloaded_notebook_runs_as_it_is(visit, tmp_path):
    tab = visit().open("tests/features")
    tab.locator("button[aria-label='Download this page']").click()
    with tab.expect_download() as download:
        tab.locator("a.btn-download-source-button").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "features.ipynb"

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "The label mask" in "".join(c.source for c in notebook.cells), "the include came along"
    command = [sys.executable, "-m", "jupyter", "execute", "--inplace", path.name]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    again = nbformat.read(path, as_version=4)
    codes = [cell for cell in again.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))


def test_book_works_opened_as_a_file(visit, site):
    """`make book` prints a file:// address: no server needed to read, formulas included."""
    reader = visit(address=site.as_uri())
    tab = reader.open("tests/features")
    assert tab.locator("div.math mjx-container svg").count() == 1
    assert reader.outside == []
