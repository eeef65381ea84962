"""From the lines that ``gpu_latency`` wrote to rows, goals and a table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.gpu_ways import USUAL, WAYS
from benchmarks.interleaved import ratio_with_interval
from kdbench.comparison.numbers import fraction
from kdbench.errors import Missing

Lines = list[dict[str, Any]]

WIDTH = 120
GOAL_SIZE = "512x512"
GOAL_MS, GOAL_TIMES_FASTER, GOAL_IMAGES_PER_SECOND = 0.35, 12.0, 12000.0


def read_last_run(journal: Path) -> Lines:
    """The lines since the last start; one that was cut short at the end is left out.

    Raises:
        Missing: nothing was measured.
    """
    lines: Lines = []
    for text in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    starts = [index for index, line in enumerate(lines) if line["kind"] == "start"]
    if not starts:
        raise Missing(f"no measurements in '{journal}': make them with `python -m benchmarks.gpu_latency`")
    return lines[starts[-1] :]


def score(lines: Lines) -> dict[str, Any]:
    """A row for each size and way, the floors, and which goals were reached."""
    start = lines[0]
    floors = next((line for line in lines if line["kind"] == "floors"), None)
    rows = []
    for size, work in start["work"].items():
        at_size = [line for line in lines if line.get("size") == size]
        floor_ms = floors_of_image(work, floors)
        usual = rounds([line for line in at_size if line["way"] == USUAL])
        rows += [row(way.name, size, at_size, usual, floor_ms) for way in WAYS]
    return {
        "schema_version": 1, "benchmark": "gpu_latency", "rows": [row for row in rows if row["tried"]],
        "goals": goals(rows), "floors": floors,
        "floors_per_image_ms": {size: floors_of_image(work, floors) for size, work in start["work"].items()},
        "failed": [line for line in lines if line["kind"] == "failed" and line["way"] not in {w.name for w in WAYS}],
        "start": start, "end": next((line for line in lines if line["kind"] == "end"), None), "measurements": lines[1:],
    }  # fmt: skip


def floors_of_image(work: dict[str, float], floors: dict[str, Any] | None) -> dict[str, float] | None:
    """Milliseconds an image: its operations at a product's rate, its convolutions' bytes at a copy's."""
    if floors is None:
        return None
    return {
        "operations": 1e3 * work["operations"] / floors["operations_per_second"],
        "bytes": 1e3 * work["bytes"] / floors["bytes_per_second"],
    }


def rounds(lines: Lines) -> dict[int, dict[str, float]]:
    """Round → medians in ms; round 0, in which a way was timed right after it was opened, only where no other is."""
    found = {
        line["round"]: {key: statistics.median(line[key]) for key in ("network_ms", "image_to_mask_ms")}
        for line in lines if line["kind"] == "round"
    }  # fmt: skip
    return {number: ms for number, ms in found.items() if number > 0} or found


def row(
    name: str, size: str, at_size: Lines, usual: dict[int, dict[str, float]], floor_ms: dict[str, float] | None
) -> dict[str, Any]:
    """What a way did at a size."""
    ours = [line for line in at_size if line["way"] == name]
    opened = {line["batch"]: line for line in ours if line["kind"] == "open"}
    batches = [line for line in ours if line["kind"] == "batch"]
    timed = rounds(ours)

    def median(key: str) -> float | None:
        return statistics.median(ms[key] for ms in timed.values()) if timed else None

    def faster(key: str) -> tuple[float, float, float] | None:
        both = sorted(timed.keys() & usual.keys())
        if len(both) < 2:
            return None
        return ratio_with_interval([usual[n][key] for n in both], [timed[n][key] for n in both])

    network_ms = {line["batch"]: statistics.median(line["network_ms"]) for line in batches}
    whole_ms = {line["batch"]: statistics.median(line["image_to_mask_ms"]) for line in batches}
    if timed:
        network_ms[1], whole_ms[1] = median("network_ms"), median("image_to_mask_ms")
    per_image = min((ms / batch for batch, ms in network_ms.items()), default=None)
    return {
        "way": name, "size": size, "tried": bool(ours), "rounds": len(timed), "network_ms": median("network_ms"),
        "image_to_mask_ms": median("image_to_mask_ms"), "times_faster": faster("image_to_mask_ms"),
        "times_faster_network": faster("network_ms"),
        "images_per_second": {
            str(batch): {
                "network": 1e3 * batch / network_ms[batch],
                "image_to_mask": 1e3 * batch / whole_ms[batch],
                "pipeline": next((b["pipeline_images_per_second"] for b in batches if b["batch"] == batch), None),
            }
            for batch in sorted(network_ms)
        },
        "share_of_floor": max(floor_ms.values()) / per_image if floor_ms and per_image else None,
        "agreement": min((line["agreement"] for line in opened.values()), default=None),
        "miou": next((line["miou"] for _, line in sorted(opened.items())), None),
        "load_seconds": next((line["load_seconds"] for _, line in sorted(opened.items())), None),
        "compile_seconds": next((line["about"].get("compile_seconds") for _, line in sorted(opened.items())), None),
        "failed": [{"batch": line["batch"], "reason": line["failed"]} for line in ours if line["kind"] == "failed"],
    }  # fmt: skip


def best_rate(row: dict[str, Any]) -> float | None:
    """Images per second from image to mask: the best batch, one at a time or through the pipeline."""
    rates = [rate for by in row["images_per_second"].values() for rate in (by["image_to_mask"], by["pipeline"]) if rate]
    return max(rates, default=None)


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal with what was measured, None where nothing was, and by which way."""
    here = [row for row in rows if row["size"] == GOAL_SIZE]
    asked = (
        ("image to mask ms", GOAL_MS, lambda row: row["image_to_mask_ms"], min),
        ("times faster than torch eager fp32", GOAL_TIMES_FASTER, lambda row: (row["times_faster"] or [None])[0], max),
        ("images per second from image to mask", GOAL_IMAGES_PER_SECOND, best_rate, max),
    )
    found = []
    for name, goal, value_of, best in asked:
        values = [(value, row["way"]) for row in here if (value := value_of(row)) is not None]
        value, way = best(values) if values else (None, None)
        reached = value is not None and (value <= goal if best is min else value >= goal)
        found.append(
            {"goal": name, "size": GOAL_SIZE, "expected": goal, "measured": value, "way": way, "reached": reached}
        )
    return found


def as_text(report: dict[str, Any]) -> str:
    """A table of at most 120 columns for each size, the floors and the goals."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    lines = []
    for size, floor_ms in report["floors_per_image_ms"].items():
        lines.append(
            f"{size:<52}{'network ms':>11}{'im→mask ms':>11}{'x faster':>18}{'images/s':>10}{'of floor':>9}{'mIoU':>7}"
        )
        for row in (row for row in report["rows"] if row["size"] == size):
            times = row["times_faster"]
            faster = "–" if times is None else f"{times[0]:.2f} [{times[1]:.2f}, {times[2]:.2f}]"
            lines.append(
                f"{row['way']:<52}{shown(row['network_ms'], '.3f'):>11}{shown(row['image_to_mask_ms'], '.3f'):>11}"
                f"{faster:>18}{shown(best_rate(row), '.0f'):>10}{shown(row['share_of_floor'], '.2f'):>9}"
                f"{fraction(row['miou']):>7}"
            )
            for failure in row["failed"]:
                reason = failure["reason"].strip().splitlines()[-1]
                lines.append(f"  batch {failure['batch']}: {reason}"[:WIDTH])
        if floor_ms:
            lines.append(f"floors, ms an image: operations {floor_ms['operations']:.5f}, bytes {floor_ms['bytes']:.5f}")
        lines.append("")
    for failure in report["failed"]:
        lines.append(f"{failure['way']} failed: {failure['failed'].strip().splitlines()[-1]}"[:WIDTH])
    for goal in report["goals"]:
        mark = "reached" if goal["reached"] else "missed"
        measured, way = shown(goal["measured"], ".2f"), goal["way"] or "nothing measured"
        text = f"{mark}: {goal['goal']} at {goal['size']}: {measured}, expected {goal['expected']:g} ({way})"
        lines.append(text[:WIDTH])
    return "\n".join(lines)
