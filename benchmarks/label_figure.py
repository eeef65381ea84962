"""The label study as a picture: mIoU over the number of labels, on test and on validation.

python -m benchmarks.label_figure        # docs/images/labels.png, from results/label-study.json
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

from benchmarks.label_scores import BY_LABELS
from kdbench.methods.base import METHODS, title_of
from kdbench.runs.files import read_json

PANELS = {
    "test": "test: a drive that training never sees, and dusk",
    "val": "validation: more frames of a drive in training",
}
SHOWN = ("baseline", "response", "feature", "dist")
SPREAD = 0.012
"""Between methods at one number of labels, a share of it: error bars would cover each other."""


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    figure, axes = plt.subplots(1, len(PANELS), figsize=(8.4, 3.4), layout="constrained")
    for axis, (split, title) in zip(axes, PANELS.items(), strict=True):
        panel(axis, rows, split)
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("mIoU, mean ± standard error")
    axes[0].legend(fontsize=9, frameon=False)
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    """Write a picture, and forget it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def panel(axis: Axes, rows: list[dict[str, Any]], split: str) -> None:
    labels = sorted({row["labelled"] for row in rows if row["setting"] in BY_LABELS})
    for index, method in enumerate(SHOWN):
        of_method = sorted(
            (row for row in rows if row["method"] == method and row["setting"] in BY_LABELS),
            key=lambda row: row["labelled"],
        )
        style = METHODS[method].style
        axis.errorbar(
            [row["labelled"] * (1 + SPREAD * (index - 1.5)) for row in of_method],
            [row[split]["miou"] for row in of_method],
            [row[split]["standard_error"] for row in of_method],
            color=style.color, linestyle=style.linestyle, marker=style.marker, capsize=3, label=title_of(method),
        )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(labels, [f"{count} labels" for count in labels])
    axis.minorticks_off()
    axis.grid(axis="y", alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/label-study.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/labels.png"))
    arguments = parser.parse_args()
    draw(read_json(arguments.results, "python -m benchmarks.label_study --score")["rows"], arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
