"""Interactive charts as Plotly figures, which the page draws in the browser; colours as in ``plots``."""

from __future__ import annotations

import json
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdbench.backends import BACKENDS
from kdbench.comparison.choice import pareto_front
from kdbench.comparison.results import Row
from kdbench.methods.base import style_of, title_of
from kdbench.report.evidence import Evidence

LOG_TICKS = [digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5)]
PRECISION_SYMBOLS = {"fp32": "circle", "fp16": "diamond", "int8": "square"}
"""Backend by its own colour, precision by shape: either can be told without the other."""
FEW_EPOCHS = 10
"""Up to here the axis has a tick for every epoch, never for half of one."""


NAMED = 12
"""Points up to which each has its method's name beside it; more would cover each other, and hovering names them."""
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
        if len(by_precision) > 1:
            made["classes-by-precision"] = heat_map(
                by_precision, classes, [f"{row.backend} {row.precision}" for row in by_precision]
            )
    if found.rounds:
        made["latency"] = latency(found)
    if found.histories:
        made["miou"] = curves(found, "miou", "validation mIoU")
        made["loss"] = curves(found, "loss", "training loss")
        made["learning-rate"] = curves(found, "lr", "learning rate")
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def scatter(rows: list[Row]) -> go.Figure:
    """mIoU over latency, a trace per backend and precision, and the Pareto front."""
    figure = go.Figure()
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
            mode="markers+text" if len(rows) <= NAMED else "markers", name=f"{backend} {precision}",
            marker={
                "size": 12, "color": color_of(backend),
                "symbol": PRECISION_SYMBOLS.get(precision, "x"), "line": {"width": 1, "color": "#FFFFFF"},
            },
            text=[title_of(row.run) for row in chosen], textposition="top center", textfont={"size": 10},
            meta={"backend": backend, "precision": precision},
            hovertemplate=(
                f"<b>%{{text}}</b><br>{backend} {precision}<br>mIoU %{{y:.4f}}<br>%{{x:.2f}} ms<extra></extra>"
            ),
        )  # fmt: skip
    front = pareto_front([(row.latency.median_ms, row.miou) for row in rows if row.latency and row.miou is not None])
    figure.add_scatter(
        x=[ms for ms, _ in front], y=[miou for _, miou in front], mode="lines", name="Pareto front",
        line={"color": "#888888", "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_layout(
        xaxis_title="median latency, ms (log)", yaxis_title="mIoU", xaxis_type="log", xaxis_tickvals=LOG_TICKS
    )
    return _plain(figure)


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
            z=values, x=classes, y=names, colorscale="Cividis", zmin=0, zmax=1, texttemplate="%{z:.4f}", xgap=1, ygap=1,
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
            x=np.round(rounds, 3).tolist(), name=f"{backend} {precision} · {title_of(method)}",
            boxpoints="outliers", marker={"color": color_of(backend), "size": 3},
            line={"width": 1}, meta={"backend": backend, "precision": precision}, showlegend=False,
        )  # fmt: skip
    figure.update_layout(
        xaxis_title="one call, ms (log)",
        xaxis_type="log",
        yaxis_autorange="reversed",
        height=120 + 34 * len(found.rounds),
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
    # Whole epochs, and powers of ten in place of Plotly's SI prefixes (500µ).
    figure.update_xaxes(tickformat="d")
    figure.update_yaxes(exponentformat="power", hoverformat=".4f" if key == "miou" else None)
    if all(len(trace.x) <= FEW_EPOCHS for trace in figure.data):
        figure.update_xaxes(dtick=1)
    return _plain(figure)


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
