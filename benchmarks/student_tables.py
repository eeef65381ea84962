"""The tables of docs/measured.md about the students, as ``measured_tables`` has the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.runs.files import read_json


def student_table(root: Path, results: Path) -> str:
    """What ``benchmarks.student_latency`` measured."""
    report = read_json(root / results, "python -m benchmarks.student_latency")
    environment, (low, high) = report["environment"], report["ci95"]
    student, yardstick = report["rows"]
    hardware = environment["hardware"]
    lines = [
        "| image → mask | parameters | GFLOP | latency | 95% interval |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| torchvision's `{yardstick['model']}` | {yardstick['params'] / 1e6:.2f}M | "
        f"{yardstick['gflops']:.2f} | 1 | – |",
        f"| the student | {student['params'] / 1e6:.2f}M | {student['gflops']:.2f} | {report['ratio']:.3f} | "
        f"{low:.3f}–{high:.3f} |",
        "",
        "512 x 512, batch 1, ONNX Runtime fp32, 2 threads, side by side in one run of "
        f"{len(report['block_ms']['student'])} blocks on {hardware['cores']} cores ({hardware['cpu']}). Revision "
        f"`{environment['git']['revision'][:12]}`, `{environment['command']}`; every block is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def accuracy_table(root: Path, results: Path) -> str:
    """What ``benchmarks.student_accuracy`` measured."""
    report = read_json(root / results, "python -m benchmarks.student_accuracy score")
    recipe, (yardstick, *students) = report["recipe"], report["rows"]
    revisions = ", ".join(f"`{revision[:12]}`" for revision in report["yardstick_revisions"])
    lines = [
        f"| mIoU | seeds | mean ± standard error | over `{yardstick['model']}` |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in (yardstick, *students):
        name, over = f"torchvision's `{row['model']}`", "–"
        if row is not yardstick:
            name = f"the student, `{row['model']}`"
            over = f"{difference(row['difference'])}{plus_minus(row['difference_standard_error'])}"
        miou = f"{fraction(row['miou'])}{plus_minus(row['standard_error'])}"
        lines.append(f"| {name} | {len(row['seeds'])} | {miou} | {over} |")
    lines += [
        "",
        f"CamVid val at {'x'.join(map(str, recipe['size']))}, from scratch, the same recipe of {recipe['epochs']} "
        f"epochs; differences are paired, over the seeds that both have. Students as in `{report['comparison']}`; the "
        f"yardstick by `python -m benchmarks.student_accuracy`, trained at {revisions}; every seed is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


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
            over(row, "student"), over(row, "fp32"),
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


def over(row: dict[str, Any], name: str) -> str:
    """Difference of a front's row to the ``name``d one, with its standard error over seeds."""
    change = row.get(f"miou_over_{name}")
    if change is None:
        return "–"
    return difference(change) + plus_minus(row[f"miou_over_{name}_standard_error"])
