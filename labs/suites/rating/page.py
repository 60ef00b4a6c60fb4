"""One rater's page: a single HTML file that needs nothing else and sends nothing anywhere."""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files

from labs.suites.rating.words import CHOICES, WORDS


def render(sheet: str, rater: str, language: str, items: list[dict], pictures: list[str]) -> str:
    """The page of one rater.

    items: {"id", "question", "pictures": places in `pictures`, "left", "right"}, in the order in which
    they are shown. pictures: data URLs.

    Whatever a model wrote goes in as JSON in which `<`, `>` and `&` are escaped, and comes out as text.
    The content policy allows this script and this style, by their hashes, pictures that stand in the
    page, and nothing else: markup that got in by some way could neither run nor fetch anything.
    """
    words = WORDS[language]
    script, style = _read("page.js"), _read("page.css")
    data = _json(
        {"sheet": sheet, "rater": rater, "items": items, "pictures": pictures, "words": words}
    )
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    t = {name: html.escape(text) for name, text in words.items() if isinstance(text, str)}
    rules = "".join(f"<li>{html.escape(rule)}</li>" for rule in words["rules"])
    buttons = "".join(
        f'<button type="button" data-choice="{choice}" aria-pressed="false" '
        f'aria-keyshortcuts="{key}"><kbd aria-hidden="true">{key}</kbd>{t[choice]}</button>'
        for key, choice in enumerate(CHOICES, 1)
    )
    answers = "".join(
        f'<section aria-labelledby="{side}-name"><h3 id="{side}-name">{t[f"answer_{side}"]}</h3>'
        f'<p id="{side}" dir="auto"></p></section>'
        for side in ("left", "right")
    )
    tag = "zh-Hans" if language == "zh" else language
    return f"""<!doctype html>
<html lang="{tag}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{t["title"]}</title>
<style>{style}</style></head>
<body>
<header>
<h1>{t["title"]}</h1>
<p id="place" role="status"></p>
<progress id="bar" value="0" max="1" aria-labelledby="place"></progress>
<noscript><p class="warn">{t["noscript"]}</p></noscript>
<p id="unsaved" class="warn" role="alert" hidden>{t["unsaved"]}</p>
</header>
<main>
<div id="item">
<details id="help"><summary>{t["help"]}</summary><ul>{rules}</ul></details>
<h2 id="question" tabindex="-1" dir="auto"></h2>
<div id="pictures"></div>
<div class="answers">{answers}</div>
<div class="choices" role="group" aria-label="{t["choices"]}">{buttons}</div>
<label for="comment">{t["comment"]}</label>
<textarea id="comment" rows="2" maxlength="2000"></textarea>
<nav><button type="button" id="back">{t["back"]}</button>
<button type="button" id="next">{t["next"]}</button>
<button type="button" id="results">{t["results"]}</button></nav>
</div>
<div id="end" hidden>
<h2 id="end-title" tabindex="-1">{t["end_title"]}</h2>
<p id="state"></p>
<nav><button type="button" id="resume">{t["resume"]}</button>
<button type="button" id="download" class="main">{t["download"]}</button>
<button type="button" id="copy">{t["copy"]}</button>
<button type="button" id="review">{t["review"]}</button></nav>
<p id="message" class="note" role="status"></p>
<details><summary>{t["text"]}</summary>
<textarea id="result" rows="10" readonly aria-label="{t["text"]}"></textarea></details>
</div>
</main>
<script type="application/json" id="sheet">{data}</script>
<script>{script}</script>
</body></html>
"""


def _read(name: str) -> str:
    return files("labs.suites.rating").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value) -> str:
    """JSON that may stand inside a <script>: no `<` is left that could end it or begin a comment."""
    text = json.dumps(value, ensure_ascii=False)
    # Half a surrogate pair, which a model may say, has no UTF-8 and is escaped as well.
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda m: f"\\u{ord(m.group()):04x}", text)
