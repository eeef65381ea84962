"""The gate's picture: paired ratios by block, and beside them the mean with the interval that the verdict is by."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.regress.record import Arm, Cell, Recording, cell_verdict
from kdbench.regress.rule import Estimate, Judgement, Rule, Verdict
from kdbench.runs.files import atomic_path

ARMS: dict[Arm, tuple[str, str, str]] = {
    "candidate": ("#0072B2", "o", "candidate"),
    "control": ("#E69F00", "x", "control: the baseline again"),
}
"""Colour, marker and name. Okabe and Ito's blue and orange: apart for every kind of colour vision, and by shape."""
COLOURS: dict[Verdict, str] = {"pass": "#007A5A", "regression": "#B02A1A", "inconclusive": "#6B5B00"}


def draw(recording: Recording, path: Path) -> None:
    """A panel per cell (.png): its verdict, every block, and the mean of candidate and control."""
    judged = [(c, j) for c, j in zip(recording.cells, recording.judgements(), strict=True) if c.blocks]
    figure = Figure(figsize=(9, 0.6 + 3 * max(1, len(judged))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(1, len(judged)), 2, sharey="row", squeeze=False, gridspec_kw={"width_ratios": [6, 1]})
    for (blocks, means), (cell, judgement) in zip(panels, judged, strict=False):
        _draw_blocks(blocks, cell, recording.rule)
        _draw_means(means, judgement, recording.rule)
        verdict, _ = cell_verdict(cell, judgement)
        measured = "" if judgement is None else f", ratio {judgement.estimate.ratio:.3f}"
        blocks.set_title(f"{cell.name}: {verdict}{measured}", loc="left", color=COLOURS[verdict], weight="bold")
    if judged:
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_blocks(axes: Axes, cell: Cell, rule: Rule) -> None:
    numbers = np.arange(1, len(cell.blocks) + 1)
    for arm, (colour, marker, name) in ARMS.items():
        values = 100 * np.expm1(cell.ln_ratios(arm))
        axes.plot(numbers, values, marker, color=colour, markersize=5, linestyle="none", label=name)
    for blocks, _ in cell.looks:
        axes.axvline(blocks + 0.5, color="0.85", linewidth=0.8, zorder=0)
    _draw_limits(axes, rule)
    axes.set_xlim(0.4, len(cell.blocks) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block, a fresh process for each (vertical lines: where a verdict was tried)")
    axes.set_ylabel("slower than the baseline, %")


def _draw_means(axes: Axes, judgement: Judgement | None, rule: Rule) -> None:
    """Mean and interval of both; without an interval where blocks are too few for one."""
    _draw_limits(axes, rule)
    for place, arm in enumerate(ARMS):
        if judgement is None:
            continue
        found: Estimate = judgement.estimate if arm == "candidate" else judgement.control
        colour, marker, _ = ARMS[arm]
        mean, low, high = (100 * (ratio - 1) for ratio in (found.ratio, found.low, found.high))
        reach = None if found.low <= 0 or math.isinf(high) else [[mean - low], [high - mean]]
        axes.errorbar([place], [mean], yerr=reach, fmt=marker, color=colour, capsize=5, linewidth=2, markersize=7)
    axes.set_xlim(-0.7, len(ARMS) - 0.3)
    axes.set_xticks([])
    axes.set_xlabel("mean, interval")
    for height, name, side in ((rule.margin, "margin", "top"), (rule.tolerance, "tolerance", "bottom")):
        axes.annotate(
            name, (1, 100 * height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            fontsize=8, color="0.3", va=side, annotation_clip=True,
        )  # fmt: skip


def _draw_limits(axes: Axes, rule: Rule) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axhline(100 * rule.margin, color="0.4", linewidth=0.8, linestyle=":")
    axes.axhline(100 * rule.tolerance, color="0.4", linewidth=0.8, linestyle="--")
