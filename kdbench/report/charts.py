"""Interactive charts as Plotly figures, which the page draws in the browser; colours as in ``plots``."""

from __future__ import annotations

import json
import math
import re
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdbench.backends import BACKENDS
from kdbench.comparison.choice import pareto_front
from kdbench.comparison.results import Row
from kdbench.methods.base import style_of, title_of
from kdbench.report.evidence import Evidence
from kdbench.report.losses import LOG_FROM, TOTAL, losses_in
from kdbench.runs.history import MethodHistory

LOG_TICKS = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
PRECISION_SYMBOLS = {"fp32": "circle", "fp16": "diamond", "int8": "square"}
"""Backend by its own colour, precision by shape: either can be told without the other."""
FEW_EPOCHS = 10
"""Up to here the axis has a tick for every epoch, never for half of one."""


NAMED = 12
"""Points up to which each has its name beside it; more would cover each other, and hovering names them."""
PLOT, LETTER = (1000.0, 330.0), 5.6
"""Pixels of the scatter's axes, about, and of a letter of a name."""
SEEN_BY_ALL = [[0.0, "#F7FBFF"], [0.5, "#C6DBEF"], [1.0, "#6BAED6"]]
"""From nearly white to a blue on which black numbers can still be read."""
MARKED = 30
"""Epochs up to which each has a marker; more would hide the line."""
SYMBOLS = {"s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "P": "cross", "X": "x", "*": "star"}
"""Matplotlib's names of markers → Plotly's."""


def charts(found: Evidence) -> dict[str, dict[str, Any]]:
    """Name of the place in the page → Plotly's JSON; a chart whose numbers are missing is left out."""
    made = {}
    timed = [row for row in found.ok_rows() if row.latency is not None and row.miou is not None]
    if timed:
        made["scatter"] = scatter(timed)
    if found.comparison and found.ok_rows():
        classes = found.comparison.dataset["classes"]
        by_method = [row for row in found.ok_rows() if row.backend == "torch"]
        if by_method:
            made["classes-by-method"] = heat_map(by_method, classes, [title_of(r.run) for r in by_method])
        first = next((row.run for row in found.ok_rows() if row.backend != "torch"), None)
        by_precision = [row for row in found.ok_rows() if row.run == first]
        if by_precision:
            made["classes-by-precision"] = heat_map(
                by_precision, classes, [f"{row.backend} {row.precision}" for row in by_precision]
            )
    if found.rounds:
        made["latency"] = latency(found)
    if found.histories:
        made["miou"] = curves(found, "miou", "validation mIoU")
        made["loss"] = curves(found, "loss", "training loss")
        made["learning-rate"] = curves(found, "lr", "learning rate")
    for history in with_terms(found):
        made[terms_chart(history)] = loss_terms(history)
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def scatter(rows: list[Row]) -> go.Figure:
    """mIoU over latency, a trace per backend and precision, and the Pareto front."""
    figure = go.Figure()
    reach = log_range([row.latency.median_ms for row in rows if row.latency])
    names = placed_names(rows, reach) if len(rows) <= NAMED else {}
    for backend, precision in dict.fromkeys((row.backend, row.precision) for row in rows):
        chosen = [row for row in rows if (row.backend, row.precision) == (backend, precision)]
        latencies = [row.latency for row in chosen if row.latency is not None]
        figure.add_scatter(
            x=[latency.median_ms for latency in latencies],
            y=[row.miou or 0.0 for row in chosen],
            error_x={
                "type": "data", "symmetric": False,
                "array": [latency.ci95_ms[1] - latency.median_ms for latency in latencies],
                "arrayminus": [latency.median_ms - latency.ci95_ms[0] for latency in latencies],
            },
            mode="markers+text" if names else "markers", name=f"{backend} {precision}",
            marker={
                "size": 12, "color": color_of(backend),
                "symbol": PRECISION_SYMBOLS.get(precision, "x"), "line": {"width": 1, "color": "#FFFFFF"},
            },
            text=[names[id(row)][0] for row in chosen] if names else None,
            textposition=[names[id(row)][1] for row in chosen] if names else None, textfont={"size": 10},
            hovertext=[title_of(row.run) for row in chosen], cliponaxis=False,
            meta={"backend": backend, "precision": precision},
            hovertemplate=(
                f"<b>%{{hovertext}}</b><br>{backend} {precision}<br>mIoU %{{y:.4f}}<br>%{{x:.2f}} ms<extra></extra>"
            ),
        )  # fmt: skip
    front = pareto_front([(row.latency.median_ms, row.miou) for row in rows if row.latency and row.miou is not None])
    figure.add_scatter(
        x=[ms for ms, _ in front], y=[miou for _, miou in front], mode="lines", name="Pareto front",
        line={"color": "#888888", "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_layout(
        xaxis_title="median latency, ms (log)", yaxis_title="mIoU", xaxis_type="log", xaxis_tickvals=LOG_TICKS,
        xaxis_range=reach,
    )  # fmt: skip
    return _plain(figure)


def log_range(milliseconds: list[float]) -> tuple[float, float]:
    """Powers of ten that a logarithmic axis begins and ends with: room for names on both sides."""
    low, high = math.log10(min(milliseconds)), math.log10(max(milliseconds))
    room = 0.15 * max(high - low, 0.2)
    return low - room, high + room


def placed_names(rows: list[Row], reach: tuple[float, float]) -> dict[int, tuple[str, str]]:
    """id(row) → its point's name and Plotly's word for where it stands, so that names cover neither each other nor
    points; "" where there is no such place, and hovering tells.

    Args:
        reach: of the axis, powers of ten.
    """
    wide, high = PLOT
    mious = [row.miou or 0.0 for row in rows]
    lowest, span = min(mious), max(max(mious) - min(mious), 1e-6)
    points = [
        (
            wide * (math.log10(row.latency.median_ms) - reach[0]) / (reach[1] - reach[0]) if row.latency else 0.0,
            high * (0.05 + 0.9 * (miou - lowest) / span),
        )
        for row, miou in zip(rows, mious, strict=True)
    ]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    placed = {}
    for row, (x, y) in zip(rows, points, strict=True):
        name = f"{title_of(row.run)}, {row.backend} {row.precision}"
        width, height = LETTER * len(name), 13.0
        placed[id(row)] = ("", "top center")
        for position, left, bottom in (
            ("top center", x - width / 2, y + 8), ("bottom center", x - width / 2, y - 8 - height),
            ("middle right", x + 9, y - height / 2), ("middle left", x - 9 - width, y - height / 2),
        ):  # fmt: skip
            box = (left, bottom, left + width, bottom + height)
            if box[0] >= 0 and box[2] <= wide and not any(_overlap(box, other) for other in taken):
                placed[id(row)] = (name, position)
                taken.append(box)
                break
    return placed


Box = tuple[float, float, float, float]
"""left, bottom, right, top."""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def color_of(backend: str) -> str:
    """Its own; black where nobody declares a name of an old results file."""
    return BACKENDS[backend].color if backend in BACKENDS else "#000000"


def heat_map(rows: list[Row], classes: list[str], names: list[str]) -> go.Figure:
    """IoU, one line per row, one column per class."""
    values = [
        [None if value is None else round(value, 4) for value in row.iou_per_class or [None] * len(classes)]
        for row in rows
    ]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=classes, y=names, colorscale=SEEN_BY_ALL, zmin=0, zmax=1, texttemplate="%{z:.4f}",
            textfont={"color": "#111111"}, xgap=1, ygap=1,
            hovertemplate="%{y}<br>%{x}: IoU %{z:.4f}<extra></extra>", colorbar={"title": "IoU"},
        )
    )  # fmt: skip
    figure.update_layout(yaxis_autorange="reversed", height=140 + 34 * len(rows))
    return _plain(figure)


def latency(found: Evidence) -> go.Figure:
    """Every round of every row, as a box with its quartiles and outliers."""
    figure = go.Figure()
    for (method, backend, precision), rounds in found.rounds.items():
        figure.add_box(
            x=np.round(rounds, 3).tolist(), name=f"{backend} {precision}<br>{title_of(method)}",
            boxpoints="outliers", marker={"color": color_of(backend), "size": 3},
            line={"width": 1}, meta={"backend": backend, "precision": precision}, showlegend=False,
        )  # fmt: skip
    figure.update_layout(
        xaxis_title="one call, ms (log)",
        xaxis_type="log",
        xaxis_tickvals=LOG_TICKS,
        yaxis_autorange="reversed",
        yaxis_tickfont_size=11,
        height=120 + 40 * len(found.rounds),
    )
    return _plain(figure)


def curves(found: Evidence, key: str, title: str) -> go.Figure:
    """A quantity by epoch: the mean over a method's seeds."""
    figure = go.Figure()
    dashes = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot", "5px,2px")
    for dash, history in zip(cycle(dashes), found.histories, strict=False):
        epochs, values = history.mean(key)
        figure.add_scatter(
            x=epochs, y=values, mode="lines+markers" if len(epochs) <= MARKED else "lines",
            marker={"symbol": symbol_of(history.method), "size": 7}, name=title_of(history.method),
            line={"color": style_of(history.method).color, "dash": dash},
        )  # fmt: skip
    figure.update_layout(xaxis_title="epoch", yaxis_title=title)
    # Powers of ten in place of Plotly's SI prefixes (500µ).
    figure.update_yaxes(exponentformat="power", hoverformat=".4f" if key == "miou" else None)
    _whole_epochs(figure)
    return _plain(figure)


def with_terms(found: Evidence) -> list[MethodHistory]:
    """Trainings whose loss is a sum: of others the total says all."""
    return [history for history in found.histories if losses_in(history).keys() - TOTAL.keys()]


def terms_chart(history: MethodHistory) -> str:
    """The chart's name, which may stand in an id."""
    return "terms-" + re.sub(r"[^A-Za-z0-9]+", "-", history.method)


def loss_terms(history: MethodHistory) -> go.Figure:
    """The total and its terms, unweighted: the mean over seeds."""
    figure = go.Figure()
    for key, (name, style) in losses_in(history).items():
        epochs, values = history.mean(key)
        figure.add_scatter(
            x=epochs, y=values, name=name, mode="lines+markers" if len(epochs) <= MARKED else "lines",
            marker={"symbol": SYMBOLS.get(style.marker, "circle"), "size": 7},
            line={"color": style.color, "dash": dash_of(style.linestyle)},
        )  # fmt: skip
    values = [value for trace in figure.data for value in trace.y]
    wide = bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM
    figure.update_yaxes(type="log" if wide else None, rangemode=None if wide else "tozero", exponentformat="power")
    figure.update_layout(xaxis_title="epoch", yaxis_title="loss, before its weight")
    _whole_epochs(figure)
    return _plain(figure)


DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


def dash_of(linestyle: str | tuple[int, tuple[int, ...]]) -> str:
    """Matplotlib's line style as Plotly has it: lengths are widths of the line there, pixels here."""
    if isinstance(linestyle, str):
        return DASHES.get(linestyle, "solid")
    return ",".join(f"{2 * length}px" for length in linestyle[1])


def _whole_epochs(figure: go.Figure) -> None:
    figure.update_xaxes(tickformat="d")
    if all(len(trace.x) <= FEW_EPOCHS for trace in figure.data):
        figure.update_xaxes(dtick=1)


def symbol_of(run: str) -> str:
    """A curve's marker as Plotly names it, by what plots draw it with."""
    return SYMBOLS.get(style_of(run).marker, "circle")


def _plain(figure: go.Figure) -> go.Figure:
    """No background and no template of Plotly's: the page's own colours show through, light or dark."""
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 20, "b": 50}, font={"size": 13},
        # Above, where no axis title can run into it.
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_xaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zeroline=False)
    return figure
