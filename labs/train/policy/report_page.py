"""The page of a policy run's report: one file, no script, no outside request, light and dark. Chapter 5."""

import jinja2

# Okabe and Ito's colours, which people with colour blindness tell apart.
_LIGHT = "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #7a5fb5 #6b6b6b".split()
_DARK = "#4aa3df #f0804a #2fc39b #e09ac2 #f0b43c #8fd0f5 #a48fdb #a8a8a8".split()


def _variables(colours: list[str]) -> str:
    return "".join(f"--c{i}:{colour};" for i, colour in enumerate(colours))


STYLE = (
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1e;--soft:#5f6368;--rule:#d9dadd;"
    "--panel:#f5f6f8;--good:#127a3e;--bad:#b3261e;--warn:#8a5a00;" + _variables(_LIGHT) + "}"
    "@media(prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#e7e8ea;--soft:#a3a7ad;"
    "--rule:#383b41;--panel:#202329;--good:#6fd195;--bad:#ff8a80;--warn:#f1c26b;"
    + _variables(_DARK)
    + "}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--rule)}
p,li,td,summary{overflow-wrap:anywhere}
p{margin:.4rem 0}
.lead,.note{color:var(--soft)}.note{font-size:.9rem}.good{color:var(--good)}
.finding{border-left:4px solid var(--soft);background:var(--panel);padding:.5rem .9rem;margin:.7rem 0;
 border-radius:0 6px 6px 0}
.finding b{display:block}
.finding.bad{border-color:var(--bad)}.finding.bad b{color:var(--bad)}
.finding.warning{border-color:var(--warn)}.finding.warning b{color:var(--warn)}
.finding .evidence{font-variant-numeric:tabular-nums}
details{margin:.7rem 0}summary{cursor:pointer;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1.2rem 2rem;
 margin-top:1rem}
figure{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:.3rem}
figcaption small{font-weight:400;color:var(--soft);font-size:.85rem}
.plot{position:relative;height:170px;border-bottom:1px solid var(--soft)}
.plot svg{width:100%;height:100%;display:block;overflow:hidden}
.tick{position:absolute;left:0;transform:translateY(-50%);font-size:.72rem;line-height:1;color:var(--soft);
 pointer-events:none;background:color-mix(in srgb,var(--paper) 75%,transparent);padding:.1rem .25rem .1rem 0;
 font-variant-numeric:tabular-nums}
.steps{display:flex;justify-content:space-between;font-size:.75rem;color:var(--soft)}
.legend{list-style:none;padding:0;margin:.2rem 0 0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.82rem}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
.legend b{font-weight:600;font-variant-numeric:tabular-nums}
.grid{stroke:var(--rule);stroke-width:1;vector-effect:non-scaling-stroke}
.limit{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 4;vector-effect:non-scaling-stroke}
.broken{stroke:var(--bad);stroke-width:1;vector-effect:non-scaling-stroke}
.line,.raw{fill:none;stroke-width:2;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.raw{stroke-width:1;stroke-opacity:.35}
.band{fill:var(--c0);fill-opacity:.15}
.hover{fill:transparent}.hover:hover{fill:var(--ink);fill-opacity:.1}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--soft);font-weight:600}
tr>:last-child{padding-right:0}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.name{white-space:nowrap}
.sample{display:grid;grid-template-columns:6rem minmax(0,1fr);gap:.4rem 1rem;margin:1rem 0;
 padding-top:.8rem;border-top:1px solid var(--rule)}
.sample img{width:6rem;height:auto;image-rendering:pixelated;border-radius:4px;display:block}
.sample img.large{image-rendering:auto}
.sample .asked{margin:0 0 .3rem;white-space:pre-line}
.sample td{white-space:pre-line}.sample table{table-layout:fixed}
.sample th:first-child{width:3.6rem}.sample th:last-child{width:4.6rem}
.sample.bare{grid-template-columns:minmax(0,1fr)}
@media(max-width:30rem){.sample{grid-template-columns:minmax(0,1fr)}}
pre{background:var(--panel);border:1px solid var(--rule);border-radius:6px;padding:.7rem .8rem;
 overflow-x:auto;font-size:.82rem;line-height:1.4}
"""
    + "".join(
        f".s{i}{{stroke:var(--c{i})}}.b{i}{{background:var(--c{i})}}" for i in range(len(_LIGHT))
    )
    + "@media print{h2,figcaption{break-after:avoid}figure,.sample{break-inside:avoid}.hover{display:none}}"
)

# A report must open on a machine without network, and must not tell anyone that it was opened.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title><style>{{ style }}</style></head><body><main>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>

{% macro card(finding) %}
<div class="finding {{ finding.severity }}"><b>{{ finding.title }}</b>
<p class="evidence">{{ finding.evidence }}</p><p>{{ finding.advice }}</p></div>
{% endmacro %}
<section><h2>Findings</h2>
{% for finding in found %}{{ card(finding) }}{% else %}
<p class="good">{{ judged }} of {{ rules }} rules could be judged, and none of them found anything.</p>
{% endfor %}
{% if unknown %}<details><summary>{{ unknown|length }} of {{ rules }} rules cannot be told from this diary</summary>
{% for finding in unknown %}{{ card(finding) }}{% endfor %}</details>{% endif %}
</section>

<section><h2>Curves</h2>
<p class="note">Numbers beside a name are its last; they are means of the last tenth of the entries. Thin
lines are single steps, bold ones their moving average, dashed ones a limit.</p>
<div class="charts">{% for plot in plots %}{{ plot }}{% endfor %}</div>
{% if missing %}<p class="note">Not in this diary: {{ missing|join(", ") }}.</p>{% endif %}
</section>

<section><h2>First, last, best</h2>
<p class="note">First and last are means of the first and the last tenth of the entries, best is a single
step. Where neither direction is better, the range stands in its place.</p>
<div class="scroll" tabindex="0"><table><thead><tr><th>quantity</th><th class="number">first</th>
<th class="number">last</th><th class="number">best</th><th class="number">at step</th></tr></thead><tbody>
{% for q in quantities %}<tr><td class="name">{{ q.name }}</td><td class="number">{{ q.first|short }}</td>
<td class="number">{{ q.last|short }}</td>
{% if q.best is none %}<td class="number" colspan="2">{{ q.low|short }}{% if q.low != q.high %} to {{ q.high|short }}{% endif %}</td>
{% else %}<td class="number">{{ q.best|short }}</td><td class="number">{{ q.best_step }}</td>{% endif %}</tr>
{% endfor %}</tbody></table></div></section>

{% if asked %}<section><h2>Sample answers</h2>
<p class="note">{{ told }}</p>
{% for each in asked %}<div class="sample{{ "" if each.picture else " bare" }}">
{% if each.picture %}<div><img class="{{ each.size }}" src="{{ each.picture }}" alt="the picture asked about"></div>{% endif %}
<div><p class="asked" dir="auto"><b>{{ each.prompt }}</b></p>
<p class="note">{% if each.task %}{{ each.task }}{% if each.answer is not none %} · {% endif %}{% endif %}
{% if each.answer is not none %}right answer: <span dir="auto">{{ each.answer }}</span>{% endif %}</p>
<table><thead><tr><th class="number">step</th><th>said</th><th class="number">reward</th></tr></thead><tbody>
{% for s in each.answers %}<tr><td class="number">{{ s.step }}</td>
<td dir="auto">{{ s.said or "(nothing)" }}</td><td class="number">{{ s.reward|short }}</td></tr>{% endfor %}
</tbody></table></div></div>
{% endfor %}</section>{% endif %}

{% if run %}<section><h2>The run</h2><pre tabindex="0">{{ run }}</pre></section>{% endif %}
{% if faults %}<section><h2>Lines left out</h2><p class="note">{{ faults|length }} of the diary's lines
or pictures were not used.</p><ul>{% for fault in faults[:20] %}<li>{{ fault }}</li>{% endfor %}</ul>
{% if faults|length > 20 %}<p class="note">… and {{ faults|length - 20 }} more.</p>{% endif %}</section>{% endif %}
</main></body></html>
"""


def render(short, **parts) -> str:
    """The page as text. Whatever is not `Markup` is escaped: an answer can never become markup."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["short"] = short
    return environment.from_string(PAGE).render(style=jinja2.filters.Markup(STYLE), **parts)
