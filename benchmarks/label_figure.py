"""The label study as a picture: mIoU over the number of labels, on test and on validation.

python -m benchmarks.label_figure        # docs/images/labels.png, from results/label-study{,-cpu}.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.label_scores import BY_LABELS, BY_LABELS_ON_VIEWS
from kdbench.methods.base import METHODS, title_of
from kdbench.runs.files import read_json

PANELS = {
    "test": "test: a drive that training never sees, and dusk",
    "val": "validation: more frames of a drive in training",
}
SHOWN = ("baseline", "response", "feature", "dist")
SPREAD = 0.012
"""Between methods at one number of labels, a share of it: error bars would cover each other."""


def draw(rows: list[dict[str, Any]], on_views: list[dict[str, Any]], out: Path) -> None:
    """Filled markers for ``rows``, hollow ones and broken lines for those whose views were made once."""
    rows = [row for row in rows if row["setting"] in BY_LABELS]
    on_views = [row for row in on_views if row["setting"] in BY_LABELS_ON_VIEWS]
    labels = sorted({row["labelled"] for row in rows + on_views})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(8.4, 3.4), layout="constrained")
    for axis, (split, title) in zip(axes, PANELS.items(), strict=True):
        lines(axis, rows, split)
        lines(axis, on_views, split, hollow=True)
        axis.set_xscale("log", base=2)
        axis.set_xticks(labels, [str(count) for count in labels])
        axis.minorticks_off()
        axis.grid(axis="y", alpha=0.3)
        axis.set_xlabel("labels")
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("mIoU, mean ± standard error")
    if on_views:
        axes[0].plot([], [], "o:", color="grey", markerfacecolor="white", label="hollow: views made once")
    axes[0].legend(fontsize=9, frameon=False)
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    """Write a picture, and forget it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def lines(axis: Axes, rows: list[dict[str, Any]], split: str, hollow: bool = False) -> None:
    for index, method in enumerate(SHOWN):
        of_method = sorted((row for row in rows if row["method"] == method), key=lambda row: row["labelled"])
        if not of_method:
            continue
        style = METHODS[method].style
        axis.errorbar(
            [row["labelled"] * (1 + SPREAD * (index - 1.5)) for row in of_method],
            [row[split]["miou"] for row in of_method],
            [row[split]["standard_error"] or 0 for row in of_method],
            color=style.color, linestyle=":" if hollow else style.linestyle, marker=style.marker, capsize=3,
            markerfacecolor="white" if hollow else style.color, label=None if hollow else title_of(method),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/label-study.json"))
    parser.add_argument("--on-views", type=Path, default=Path("results/label-study-cpu.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/labels.png"))
    arguments = parser.parse_args()
    made_by = "python -m benchmarks.label_study --score"
    rows, on_views = (read_json(path, made_by)["rows"] for path in (arguments.results, arguments.on_views))
    draw(rows, on_views, arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
