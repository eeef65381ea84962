"""The students' accuracy over their latency as a picture.

python -m benchmarks.student_figure        # docs/images/students.png, from results/student-front.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.label_figure import plt, save
from benchmarks.student_front import YARDSTICK
from kdbench.runs.files import read_json

MARKERS = {"fp32": "o", "int8": "s"}
COLORS = {"student": "#0072B2", "student_fast": "#D55E00", "student_lite0": "#999999", "student_lite0_fast": "#009E73"}
HOLLOW = "openvino"


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """mIoU over latency, a point for each network, engine and precision."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for row in rows:
        if "miou" not in row:
            continue
        color, hollow = COLORS[row["model"]], row["backend"] == HOLLOW
        axis.plot(
            row["over_yardstick"][0], row["miou"], MARKERS[row["precision"]], color=color, markersize=8,
            markerfacecolor="none" if hollow else color,
        )  # fmt: skip
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=color, label=name) for name, color in COLORS.items()]
    for label, marker, filled in (
        ("ONNX Runtime fp32", "o", True), ("ONNX Runtime int8", "s", True), ("OpenVINO fp32", "o", False),
        ("OpenVINO int8", "s", False),
    ):  # fmt: skip
        fill = "#555555" if filled else "none"
        handles.append(
            plt.Line2D([], [], marker=marker, linestyle="", color="#555555", markerfacecolor=fill, label=label)
        )
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside right upper")
    axis.set_xlabel(f"latency, image to mask, over {YARDSTICK}'s in fp32")
    axis.set_ylabel("mIoU, CamVid val")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/student-front.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/students.png"))
    arguments = parser.parse_args()
    draw(read_json(arguments.results, "python -m benchmarks.student_front")["rows"], arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
