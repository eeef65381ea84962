"""The students' accuracy and latency: the table of docs/measured.md, and its picture.

python -m benchmarks.front_page        # docs/images/students.png, from results/student-front.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.runs.files import read_json

YARDSTICK = "lraspp_mobilenet_v3_large"
MARKERS = {"fp32": "o", "int8": "s"}
COLORS = {"student": "#0072B2", "student_fast": "#D55E00", "student_lite0": "#999999", "student_lite0_fast": "#009E73"}
HOLLOW = "openvino"


def front_table(root: Path, results: Path) -> str:
    """What ``benchmarks.student_front`` measured."""
    report = read_json(root / results, "python -m benchmarks.student_front")
    environment, hardware = report["environment"], report["environment"]["hardware"]
    lines = [
        "| network | engine | latency over `lraspp`'s fp32 | times faster than PyTorch | int8 over fp32 | mIoU "
        "| over `student` fp32 | over its own fp32 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        ratio, low, high = row["over_yardstick"]
        cells = [
            f"`{row['model']}`", f"{row['backend']} {row['precision']}", f"{ratio:.3f} ({low:.3f}–{high:.3f})",
            _times(row, "times_faster_than_torch"), _times(row, "times_faster_than_fp32"), fraction(row.get("miou")),
            _over(row, "student"), _over(row, "fp32"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    blocks = len(next(iter(report["block_ms"].values())))
    seeds = max((row.get("seeds", []) for row in report["rows"]), key=len)
    lines += [
        "",
        f"Image to mask at {report['size']}, batch 1, {report['threads']} threads, all side by side in one run of "
        f'{blocks} blocks on {hardware["cores"]} cores ({hardware["cpu"]}); the yardstick is untrained. "Times faster '
        "than PyTorch\" is over the same network in eager mode behind torchvision's transforms. mIoU on "
        f"{report['dataset']} val at the size of training, seeds {', '.join(map(str, seeds))} of `student` and "
        "`student_fast` from scratch, differences paired by seed; `student_lite0` from ImageNet weights, one seed, and "
        f"`student_lite0_fast` with its weights. Revision `{environment['git']['revision'][:12]}`, "
        f"`{environment['command']}`; every block is in `{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def _times(row: dict[str, Any], field: str) -> str:
    if field not in row:
        return "–"
    ratio, low, high = row[field]
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"


def _over(row: dict[str, Any], name: str) -> str:
    change = row.get(f"miou_over_{name}")
    if change is None:
        return "–"
    return difference(change) + plus_minus(row[f"miou_over_{name}_standard_error"])


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """mIoU over latency, a point for each network, engine and precision."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for row in rows:
        if "miou" not in row:
            continue
        color, hollow = COLORS[row["model"]], row["backend"] == HOLLOW
        axis.plot(
            row["over_yardstick"][0], row["miou"], MARKERS[row["precision"]], color=color, markersize=8,
            markerfacecolor="none" if hollow else color,
        )  # fmt: skip
    named = {model: next(row for row in rows if row["model"] == model and "miou" in row) for model in COLORS}
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=COLORS[model], label=model) for model in named]
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
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/student-front.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/students.png"))
    arguments = parser.parse_args()
    draw(read_json(arguments.results, "python -m benchmarks.student_front")["rows"], arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
