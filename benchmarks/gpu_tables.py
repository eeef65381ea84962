"""The tables of what was measured on an NVIDIA GPU, from the results files of ``gpu_quick``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.comparison.numbers import fraction
from kdbench.runs.files import read_json


def latency_table(root: Path, path: Path) -> str:
    """A row for each way at each size that has a time.

    Args:
        root: of the repository.
        path: what ``gpu_latency --score --json`` wrote.
    """
    report = read_json(root / path, "python -m benchmarks.gpu_latency --score")
    lines = [
        "| image → mask | size | network ms | image → mask ms | over torch eager fp32 | images/s | agreement | mIoU |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        if row["image_to_mask_ms"] is not None:
            lines.append(latency_line(row))
    pipeline = "Milliseconds at batch 1; images/s through a pipeline of the batch that was best."
    lines += ["", f"{about(report['start'])} {pipeline} {goals(report)}", f"Every call is in `{path.as_posix()}`.", ""]
    return "\n".join(lines)


def latency_line(row: dict[str, Any]) -> str:
    faster = row["times_faster"]
    over = f"{faster[0]:.1f} ({faster[1]:.1f}–{faster[2]:.1f})" if faster and row["way"] != "torch eager fp32" else "–"
    rates = {int(batch): of["pipeline"] or of["image_to_mask"] for batch, of in row["images_per_second"].items()}
    best = max(rates, key=lambda batch: rates[batch]) if rates else None
    rate = f"{rates[best]:,.0f} (batch {best})" if best else "–"
    return (
        f"| {row['way']} | {row['size']} | {row['network_ms']:.3f} | {row['image_to_mask_ms']:.3f} | {over} | {rate} | "
        f"{row['agreement']:.4f} | {fraction(row['miou'])} |"
    )


def goals(report: dict[str, Any]) -> str:
    """What was aimed at, and what was not reached, in a sentence each; throughput only where batches were measured."""
    batches = {int(batch) for row in report["rows"] for batch in row["images_per_second"]}
    return " ".join(
        f"Aim {goal['expected']:g} {goal['goal']} at {goal['size']}: {'reached' if goal['reached'] else 'missed'}, "
        f"{goal['measured']:,.2f}."
        for goal in report["goals"]
        if max(batches) > 1 or "images per second" not in goal["goal"]
    )


def training_table(root: Path, path: Path) -> str:
    """What ``gpu_training`` measured."""
    report = read_json(root / path, "python -m benchmarks.gpu_training")
    lines = ["| training | images/s | of the floor | over steps launched one by one |", "| --- | ---: | ---: | ---: |"]
    for case in report["cases"]:
        cells = [f"{row['ratio']:.2f} ({row['ci95'][0]:.2f}–{row['ci95'][1]:.2f})" for row in case["ratios"]]
        rate = case["images_per_second"]["as kdbench trains"]
        lines.append(f"| {' + '.join(case['methods'])} | {rate:,.0f} | {' | '.join(cells)} |")
    recipe = report["recipe"]
    lines += [
        "",
        f"{about({'environment': report['environment'], 'gpu': report['gpu_before']})} CamVid at "
        f"{'x'.join(map(str, recipe['size']))}, batch {recipe['batch_size']}, {recipe['precision']}, the teacher "
        f"{report['teacher']}; whole steps as CUDA graphs. Every block is in `{path.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def about(start: dict[str, Any]) -> str:
    """Card, driver and versions."""
    card, versions = start["gpu"][0], start["environment"]["versions"]
    engines = [f"{name} {versions[name]}" for name in ("torch", "onnxruntime-gpu", "tensorrt") if name in versions]
    return f"{card['name']}, driver {card['driver_version']}, Python {versions['python']}, {', '.join(engines)}."
