"""A Sphinx directive for Mermaid diagrams, drawn in the reader's browser by a script of our own.

The script (2.5 MB) is named on the page only where a diagram is; book.js loads it from there.
"""

from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.application import Sphinx


class mermaid(nodes.General, nodes.Element):
    pass


class Mermaid(Directive):
    has_content = True
    option_spec = {"alt": directives.unchanged}  # noqa: RUF012

    def run(self):
        return [mermaid(code="\n".join(self.content), alt=self.options.get("alt", "Diagram"))]


def visit(self, node):
    # The source stays readable where scripts are off.
    code, alt = escape(node["code"]), escape(node["alt"], quote=True)
    self.body.append(f'<div class="mermaid-figure" role="img" aria-label="{alt}">')
    self.body.append(f'<pre class="mermaid-source">{code}</pre></div>\n')
    raise nodes.SkipNode


def visit_text(self, node):
    raise nodes.SkipNode


def setup(app: Sphinx):
    app.add_node(mermaid, html=(visit, None), text=(visit_text, None), latex=(visit_text, None))
    app.add_directive("mermaid", Mermaid)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
