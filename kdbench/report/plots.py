"""The guide's four figures of a training: loss terms, validation mIoU, losses compared, learning rate.

    figures = make_figures(RunTree(Path("runs"), "camvid"), ("response",))
    write_figures(figures, Path("plots"), "response")

Figures are made without pyplot, so nothing is left open, no window is needed and no setting of the caller changes.
Methods and terms say how they are drawn, mostly in Okabe and Ito's colours (2008), which colour-blind readers tell
apart; line styles and markers say the same in print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.errors import BadInput
from kdbench.methods.base import Style, method_in, style_of
from kdbench.report.losses import LOG_FROM, loss_label, losses_in, weights
from kdbench.runs.files import atomic_path
from kdbench.runs.history import Curve, MethodHistory, read_history, trained_methods
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path

MARKS = 10
"""Markers on a curve, about: one at every epoch would hide the line style."""


def make_figures(tree: RunTree, methods: Sequence[str]) -> tuple[dict[str, Figure], list[str]]:
    """Draw the four figures.

    Args:
        tree: where the trainings are.
        methods: those to show; the baseline's mIoU is added, and losses are compared over all that were trained.

    Returns:
        Figures by name (losses, miou, loss-comparison, learning-rate), and notes on what they lack, a sentence each.

    Raises:
        Missing: a method has no history. BadInput: a history is broken.
    """
    # Those asked for come first, so that what is missing is said of them.
    shown = [read_history(tree, method) for method in methods]
    by_method = dict(zip(methods, shown, strict=True))
    everything = [by_method.get(method) or read_history(tree, method) for method in trained_methods(tree)]
    baseline = [history for history in everything if method_in(history.method) == "baseline"]
    notes = [
        f"'{seed.path}' ends at epoch {len(seed.rows)} of {len(history.complete[0].rows)}: "
        "drawn as a thin line, not in the mean"
        for history in everything
        for seed in history.seeds
        if seed not in history.complete
    ]
    notes += [
        f"'{history.seeds[0].path}' has no validation mIoU yet: plot again when its training has gone on"
        for history in shown
        if not history.mean("miou")[0]
    ]
    if not baseline:
        command = f"kdbench train --method baseline --dataset {tree.dataset}"
        notes.append(f"no baseline history under '{tree.root}', so no baseline curve: make it with `{command}`")
    with matplotlib.style.context("default"):
        figures = {
            "losses": draw_losses(shown, tree.dataset),
            "miou": draw_miou([*baseline, *(h for h in shown if h not in baseline)], teacher_miou(tree), tree.dataset),
            "loss-comparison": draw_loss_comparison(everything, tree.dataset),
            "learning-rate": draw_learning_rate(shown, tree.dataset),
        }
    return figures, notes


def write_figures(figures: dict[str, Figure], folder: Path, prefix: str) -> list[Path]:
    """Write every figure as ``<folder>/<prefix>-<name>.png`` and ``.svg``; the same history gives the same bytes."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output: '{folder}' is a file, expected a folder, which is made when missing: name another")
    written = []
    with matplotlib.style.context(["default", {"svg.hashsalt": "kdbench"}]):
        for name, figure in figures.items():
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
                path = folder / f"{prefix}-{name}{suffix}"
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, dpi=150, metadata=metadata)
                written.append(path)
    return written


def teacher_miou(tree: RunTree) -> float | None:
    sidecar = sidecar_path(tree.checkpoint("teacher"))
    if not sidecar.exists():
        return None
    return float(read_training_sidecar(sidecar, f"kdbench train --method teacher --dataset {tree.dataset}")["miou"])


def draw_losses(histories: Sequence[MethodHistory], dataset: str) -> Figure:
    """The total and its terms, unweighted, one panel per method; the weights stand in the panel's title."""
    figure = Figure(figsize=(2.4 + 4.0 * len(histories), 4.6), layout="constrained")
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axes, history in zip(panels, histories, strict=True):
        for key, (name, style) in losses_in(history).items():
            draw_curve(axes, history, key, name, style)
        axes.set_title(f"{history.method}{weights(history)}", fontsize="medium")
        decorate(axes, loss_label(histories) if axes is panels[0] else "")
    scale_losses(panels)
    finish(figure, panels, f"{dataset}: loss and its terms", histories)
    return figure


def draw_miou(histories: Sequence[MethodHistory], teacher: float | None, dataset: str) -> Figure:
    """Validation mIoU of the methods over epochs, with the teacher's final one as a level."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for history in histories:
        draw_curve(axes, history, "miou", history.method + seed_count(history), style_of(history.method))
    if teacher is not None:
        axes.axhline(teacher, color=style_of("teacher").color, linewidth=1.5, label="teacher, trained")
    decorate(axes, "validation mIoU (0 to 1)")
    finish(figure, [axes], f"{dataset}: validation mIoU", histories)
    return figure


def draw_loss_comparison(histories: Sequence[MethodHistory], dataset: str) -> Figure:
    """All methods' losses: the totals, which add different terms, beside cross-entropy, which all of them have."""
    figure = Figure(figsize=(10.4, 4.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, title in (
        (panels[0], "loss", "total (each method adds other terms)"),
        (panels[1], "ce", "cross-entropy (the same term in all)"),
    ):
        for history in histories:
            draw_curve(axes, history, key, history.method + seed_count(history), style_of(history.method))
        axes.set_title(title, fontsize="medium")
        decorate(axes, loss_label(histories))
    scale_losses(panels[:1])
    finish(figure, panels, f"{dataset}: training losses of all methods", histories)
    return figure


def draw_learning_rate(histories: Sequence[MethodHistory], dataset: str) -> Figure:
    """The schedule; methods with the very same one share a line, which they would hide otherwise."""
    groups: dict[tuple[float, ...], list[MethodHistory]] = {}
    for history in histories:
        groups.setdefault(tuple(history.mean("lr")[1]), []).append(history)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for group in groups.values():
        label = ", ".join(history.method for history in group)
        draw_line(axes, group[0].mean("lr"), label, style_of(group[0].method))
    decorate(axes, "learning rate at the end of the epoch")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    finish(figure, [axes], f"{dataset}: learning rate", ())
    return figure


def seed_count(history: MethodHistory) -> str:
    complete, total = len(history.complete), len(history.seeds)
    if total == 1:
        return ""
    return f", mean of {total} seeds" if complete == total else f", {complete} of {total} seeds"


def draw_curve(axes: Axes, history: MethodHistory, key: str, label: str, style: Style) -> None:
    """The mean over seeds in bold; below it each seed as a thin line where there are several."""
    if not history.mean(key)[0]:
        return
    if len(history.seeds) > 1:
        for seed in history.seeds:
            axes.plot(*seed.curve(key), color=style.color, linewidth=0.7, alpha=0.5, label="_seed")
    draw_line(axes, history.mean(key), label, style)


def draw_line(axes: Axes, curve: Curve, label: str, style: Style) -> None:
    # Curves that nearly coincide would hide each other's markers, so each puts them at other epochs.
    every = max(1, round(len(curve[0]) / MARKS))
    first = len(axes.get_legend_handles_labels()[0]) % every
    axes.plot(*curve, **style._asdict(), linewidth=2.0, markersize=5, markevery=(first, every), label=label)


def scale_losses(panels: Sequence[Axes]) -> None:
    """A logarithmic axis where the losses' sizes ask for one, else one that starts at zero."""
    lowest, highest = min(axes.dataLim.ymin for axes in panels), max(axes.dataLim.ymax for axes in panels)
    wide = lowest > 0 and highest / lowest >= LOG_FROM
    for axes in panels:
        if wide:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)


def decorate(axes: Axes, ylabel: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, panels: Sequence[Axes], title: str, histories: Sequence[MethodHistory]) -> None:
    """Title, and one legend for all panels below them, where no curve runs."""
    several = any(len(history.seeds) > 1 for history in histories)
    figure.suptitle(title + (" (thin: each seed)" if several else ""))
    handles: dict[str, Any] = {}
    for axes in panels:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, line)
    if handles:
        # Matplotlib lets a legend run over the figure's edge, so its rows are planned: inches per entry, about.
        entry = 1.0 + 0.085 * max(map(len, handles))
        rows = math.ceil(len(handles) / max(1, figure.get_figwidth() // entry))
        columns = math.ceil(len(handles) / rows)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False,
            handlelength=3.5,
        )  # fmt: skip
