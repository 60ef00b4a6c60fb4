"""Sphinx configuration. Notebooks arrive executed; nothing the pages need comes from elsewhere."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from labs import __version__  # noqa: E402

project = "Vision-Language Models in Practice"
author = "the contributors"
copyright = "the contributors, Apache-2.0"
version = release = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_copybutton",
    "book.builder.mermaid",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # library source shown by a cell is highlighted like any code
nb_ipywidgets_js = {}  # no widgets, so no require.js

myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "substitution",
]
myst_fence_as_directive = ["mermaid"]  # ```mermaid is drawn here as it is on a forge
myst_heading_anchors = 4

mathjax_path = "vendor/mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
myst_update_mathjax = True

templates_path = []
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_js_files = ["book.js"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = True
html_sourcelink_suffix = ""  # page.ipynb, not page.ipynb.txt: the download runs as it is
html_show_sphinx = False
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "use_repository_button": False,
    "navbar_persistent": [],  # the search field is in the sidebar
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

copybutton_exclude = ".linenos, .gp, .go"
suppress_warnings = ["mystnb.unknown_mime_type"]
