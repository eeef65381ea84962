"""Latency and images per second of a comparison's rows: those of a backend and size share one process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdbench.backends import artifact_of, runs_checkpoints
from kdbench.comparison.latency import LatencyCase, measure
from kdbench.comparison.results import Latency, Row, Throughput
from kdbench.data import SegmentationDataset
from kdbench.data.preprocessing import Size, resize_image
from kdbench.errors import RunFailed
from kdbench.progress import progress_bar
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree, sidecar_path

if TYPE_CHECKING:
    from kdbench.comparison.compare import CompareOptions

TIMED_IMAGES = 8


def case_name(row: Row) -> str:
    """Of a row among those that one process times."""
    return f"{row.run}-{row.precision}"


def rounds_name(backend: str, size: Size | None, batch: int) -> str:
    """Of the file that holds every round of a process; ``size`` is None where it is the comparison's."""
    name = backend if size is None else f"{backend}-{size[0]}x{size[1]}"
    return name if batch == 1 else f"{name}-batch-{batch}"


def is_of_one_image(name: str, backend: str) -> bool:
    """Whether ``rounds_name`` gives this name to a backend's rounds of one image, of whatever size."""
    return re.fullmatch(rf"{re.escape(backend)}(-\d+x\d+)?", name) is not None


def add_latency(
    tree: RunTree, rows: list[Row], dataset: SegmentationDataset, sizes: dict[str, Size], options: CompareOptions
) -> None:
    """Time one image at a time through the rows that ran.

    Args:
        sizes: run → (H, W) of its input.
    """
    runnable = [row for row in rows if row.status == "ok"]
    with progress_bar("latency", len(runnable)) as bar:
        for group in _groups(runnable, sizes):
            measured = _measured(tree, group, dataset, options)
            for name, row in group.rows.items():
                found = measured.get(name)
                if isinstance(found, RunFailed):
                    row.status, row.reason = "failed", str(found)
                elif found is not None:
                    row.latency = found
            bar.advance(len(group.rows), group.backend)


def add_throughput(
    tree: RunTree, rows: list[Row], dataset: SegmentationDataset, sizes: dict[str, Size], options: CompareOptions
) -> None:
    """Images per second of the rows that were timed, at each of several batch sizes; one that fails costs only itself.

    Args:
        sizes: run → (H, W) of its input.
    """
    larger = [batch for batch in options.batches if batch > 1]
    runnable = [row for row in rows if row.latency is not None]
    if not larger:
        return
    for row in runnable:
        assert row.latency is not None
        row.throughput = [images_per_second(1, row.latency)]
    with progress_bar("batches", len(runnable) * len(larger)) as bar:
        for batch in larger:
            for group in _groups(runnable, sizes):
                closed = {name: reason for name, row in group.rows.items() if (reason := _why_closed(tree, row))}
                rest = {name: row for name, row in group.rows.items() if name not in closed}
                measured = _measured(tree, replace(group, rows=rest), dataset, options, batch) if rest else {}
                for name, row in group.rows.items():
                    assert row.throughput is not None
                    found = measured.get(name)
                    if isinstance(found, Latency):
                        row.throughput.append(images_per_second(batch, found))
                    else:
                        reason = closed.get(name) or " ".join(str(found or "it was not timed").split())
                        row.throughput.append(Throughput(batch=batch, reason=reason))
                bar.advance(len(group.rows), f"{group.backend}, {batch} images")


def images_per_second(batch: int, latency: Latency) -> Throughput:
    """From the median call and its interval."""
    low, high = latency.ci95_ms
    return Throughput(
        batch=batch, images_per_s=1e3 * batch / latency.median_ms, ci95=(1e3 * batch / high, 1e3 * batch / low)
    )


def batch_notes(rows: Sequence[Row]) -> list[str]:
    """Which batch sizes have no number, and why: a line for each reason."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        for one in row.throughput or ():
            if one.reason is not None:
                missing.setdefault(one.reason, []).append(f"{row.run} {row.backend} {row.precision} at {one.batch}")
    return [f"no images per second of {', '.join(names)}: {reason}" for reason, names in missing.items()]


@dataclass(frozen=True)
class Group:
    """Rows that one process times.

    Attributes:
        rows: by the name of their case.
        usual: whether its size is the comparison's.
    """

    backend: str
    size: Size
    rows: dict[str, Row]
    usual: bool


def _groups(rows: Sequence[Row], sizes: dict[str, Size]) -> Iterator[Group]:
    for backend, size in dict.fromkeys((row.backend, sizes[row.run]) for row in rows):
        chosen = [row for row in rows if (row.backend, sizes[row.run]) == (backend, size)]
        usual = size == next(iter(sizes.values()))
        yield Group(backend, size, {case_name(row): row for row in chosen}, usual)


def _measured(
    tree: RunTree,
    group: Group,
    dataset: SegmentationDataset,
    options: CompareOptions,
    batch: int = 1,
) -> dict[str, Latency | RunFailed]:
    """Case name → latency of a call, or why it has none."""
    backend, size = group.backend, group.size
    images: list[NDArray[np.uint8]] = [
        resize_image(dataset[i].image, size) for i in range(min(TIMED_IMAGES, len(dataset)))
    ]
    cases = [
        LatencyCase(
            name, backend, str(_artifact(tree, row)), row.output, size if runs_checkpoints(backend) else None, batch,
            limit_s=options.limit_s,
        )
        for name, row in group.rows.items()
    ]  # fmt: skip
    try:
        return measure(
            cases, images, device=options.device, threads=options.threads, rounds=options.rounds,
            keep_json=tree.latency(rounds_name(backend, None if group.usual else size, batch)),
        )  # fmt: skip
    except RunFailed as error:
        return dict.fromkeys(group.rows, error)


def _artifact(tree: RunTree, row: Row) -> Path:
    return artifact_of(tree.of_variant(row.variant), row.method, row.backend, row.precision, row.output)


def _why_closed(tree: RunTree, row: Row) -> str | None:
    """Why an artifact takes one image at a time; None = it takes more."""
    if runs_checkpoints(row.backend):
        return None
    sidecar = read_json(sidecar_path(_artifact(tree, row)), f"kdbench export --method {row.method}")
    if sidecar.get("batch") == "dynamic":
        return None
    return "the file takes one image at a time: export it with --dynamic-batch"
