"""The page: one HTML file with everything inside, and its Markdown twin."""

from __future__ import annotations

import html
import json
import re
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdbench.comparison import markdown
from kdbench.comparison.numbers import counted
from kdbench.data.base import Color
from kdbench.methods.base import METHODS, title_of
from kdbench.report import content
from kdbench.report.analysis import analysis, checklist
from kdbench.report.charts import charts, terms_chart, with_terms
from kdbench.report.evidence import Evidence
from kdbench.report.gallery import Picture
from kdbench.report.losses import weights

SECTIONS = (
    ("analysis", "Analysis"), ("hardware", "Hardware"), ("training", "Training"), ("comparison", "Comparison"),
    ("deploy", "What to deploy"),
    ("trade-off", "Accuracy and latency"), ("classes", "Per class"), ("latency", "Latency"), ("parity", "Agreement"),
    ("gallery", "Gallery"), ("not-run", "What did not run"), ("checklist", "Checklist"), ("reproduce", "Reproduce"),
)  # fmt: skip


def as_html(found: Evidence, gallery: list[Picture], legend: list[tuple[str, Color]]) -> str:
    """The whole page as text.

    Args:
        gallery: pictures; empty where ``found.gaps["gallery"]`` says why.
        legend: class names and colours.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = _code
    folder = files("kdbench.report")
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    comparison = found.comparison
    drawn = charts(found)
    rows = comparison.rows if comparison else []
    exported = next((row.method for row in found.ok_rows() if row.backend != "torch"), "")
    data = {
        "charts": drawn,
        "gallery": [asdict(picture) for picture in gallery],
        "titles": {m.name: m.title for m in METHODS},
    }
    return template.render(
        title=f"Knowledge distillation on {found.tree.dataset}",
        time=comparison.environment["time"][:16].replace("T", " at ") + " UTC" if comparison else None,
        sections=SECTIONS, analysis=analysis(found), hardware=content.hardware_facts(found), gaps=found.gaps,
        training=found.trainings, training_table=_table(content.training_table(found)), charts=drawn,
        terms=[(terms_chart(one), title_of(one.method), weights(one).strip()) for one in with_terms(found)],
        comparison_table=_table(content.comparison_table(found)) if comparison else "",
        filters=[
            (kind, list(dict.fromkeys(getattr(row, kind) for row in rows))) for kind in ("backend", "precision")
        ],
        timing=_timing(found), gains=bool(comparison and comparison.improvements),
        gains_table=_table(content.gains_table(found)), notes=comparison.notes if comparison else [],
        deploy=content.deploy_paragraph(found), front_table=_table(content.front_table(found)),
        classes_table=_table(content.classes_table(found)), precision_method=title_of(exported),
        parity_table=_table(content.parity_table(found)) if found.exports else "", gallery=gallery,
        layers=_layers(gallery), legend=[(name, f"rgb{tuple(color)}") for name, color in legend],
        not_run=content.not_run(found), checklist=checklist(found), reproduce=content.reproduce(found),
        data=_for_script(data), style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup((folder / "page.js").read_text(encoding="utf-8")), plotly=Markup(get_plotlyjs()),
    )  # fmt: skip


def _for_script(data: dict[str, Any]) -> Markup:
    """JSON that may stand inside <script>: no text in it can end the element."""
    return Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


def _code(text: str) -> Markup:
    """`like this` as <code>."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)))


def _table(table: content.Table) -> Markup:
    def cells(values: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=words' if index < table.words else ''}{' scope=col' if tag == 'th' else ''}>"
            f"{html.escape(value)}</{tag}>"
            for index, value in enumerate(values)
        )

    lines = []
    for index, row in enumerate(table.rows):
        about = table.about[index] if table.about else {}
        attributes = "".join(f' data-{name}="{html.escape(value)}"' for name, value in about.items())
        lines.append(f"<tr{attributes}>{cells(row, 'td')}</tr>")
    return Markup(
        f'<div class="table" tabindex="0"><table><thead><tr>{cells(table.header, "th")}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _layers(gallery: list[Picture]) -> Markup:
    """What the slider can show on either side."""
    methods = list(gallery[0].predictions) if gallery else []
    options = [("image", "image"), ("label", "label")]
    options += [(f"overlays:{method}", f"{title_of(method)}: over the image") for method in methods]
    options += [(f"predictions:{method}", f"{title_of(method)}: prediction") for method in methods]
    options += [(f"errors:{method}", f"{title_of(method)}: errors") for method in methods]
    return Markup("".join(f'<option value="{value}">{html.escape(name)}</option>' for value, name in options))


def _timing(found: Evidence) -> str:
    if found.comparison is None:
        return ""
    timing, data = found.comparison.timing, found.comparison.dataset
    return (
        f"{data['name']} {data['split']}, {data['images']} images, mIoU at the label's resolution. One call: "
        f"{timing['call']}, batch {timing['batch']}, {counted(timing['threads'], 'thread')}, {timing['device']}, "
        f"{timing['rounds']} rounds."
    )


def as_markdown(found: Evidence) -> str:
    """The page's words and tables, without pictures."""
    gaps = found.gaps

    def table(rows: content.Table) -> str:
        return markdown.table(rows.header, rows.rows, rows.words)

    def bullets(lines: list[str]) -> str:
        return "\n".join(f"- {line}" for line in lines)

    parts = [f"# Knowledge distillation on {found.tree.dataset}", "## Analysis", bullets(analysis(found))]
    facts = content.hardware_facts(found)
    parts += ["## Hardware and versions", bullets([f"{name}: {value}" for name, value in facts]) or gaps["comparison"]]
    parts += ["## Training", table(content.training_table(found)) if found.trainings else gaps["training"]]
    parts.append("## Comparison")
    if found.comparison is not None:
        parts += [table(content.comparison_table(found)), _timing(found)]
        if found.comparison.improvements:
            parts += ["### Against the baseline", table(content.gains_table(found))]
        parts.append(bullets(list(found.comparison.notes)))
        parts += ["## What to deploy", content.deploy_paragraph(found), table(content.front_table(found))]
        parts += ["## Per class", table(content.classes_table(found))]
    else:
        parts.append(gaps["comparison"])
    parts += ["## Agreement of exports", table(content.parity_table(found)) if found.exports else gaps["exports"]]
    parts += ["## What did not run, and why", bullets(content.not_run(found)) or "Nothing that was asked for."]
    done = [f"[{'x' if ticked else ' '}] {item}: {by}" for ticked, item, by in checklist(found)]
    parts += ["## Checklist", bullets(done), "## How to reproduce"]
    parts.append("```\n" + "\n".join(content.reproduce(found)) + "\n```")
    return "\n\n".join(part for part in parts if part) + "\n"
