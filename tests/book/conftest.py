"""The book as the tests see it: built once with the page of features, served on loopback, in Chromium."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from book.builder.execute import execute
from book.builder.pages import Page, find_pages
from book.builder.site import sphinx, stage

PAGES = Path(__file__).parent / "pages"
FEATURES = Page(PAGES / "features.md", "tests/features")
CANARY = Page(PAGES / "canary.md", "tests/canary")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the built HTML: the whole book and the page of features."""
    folder = tmp_path_factory.mktemp("book")
    pages = [*find_pages(), FEATURES]
    executions = execute([page for page in pages if page.is_notebook])
    stage(pages, executions, folder / "source")
    assert sphinx(folder / "source", folder / "html") == 0, "Sphinx gave warnings or errors (above)"
    return folder / "html"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    handler = functools.partial(Quiet, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visit:
    """One browser tab that may reach only the book, and keeps what went wrong."""

    def __init__(self, browser, address: str, width: int = 1280, mode: str = "light"):
        self.address = address
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=mode, accept_downloads=True
        )
        self.outside: list[str] = []
        self.faults: list[str] = []
        self.context.route("**/*", self._gate)
        self.tab = self.context.new_page()
        self.tab.on("console", self._console)
        self.tab.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.tab.on("response", self._response)

    def _gate(self, route):
        url = route.request.url
        if url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def _console(self, message):
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def open(self, docname: str):
        self.tab.goto(f"{self.address}/{docname}.html", wait_until="load")
        self.tab.wait_for_load_state("networkidle")
        if self.tab.locator(".mermaid-figure").count():
            self.tab.wait_for_selector(".mermaid-drawing svg")
        if self.tab.locator("span.math, div.math").count():
            self.tab.wait_for_selector("mjx-container svg")
        return self.tab


@pytest.fixture
def visit(chromium, address):
    visits = []

    def start(**options) -> Visit:
        visits.append(Visit(chromium, options.pop("address", address), **options))
        return visits[-1]

    yield start
    for each in visits:
        each.context.close()
