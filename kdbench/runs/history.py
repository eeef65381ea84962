"""Training histories: what ``kdbench train`` wrote down epoch by epoch, seed by seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kdbench.errors import BadInput, Missing
from kdbench.methods.base import student_methods
from kdbench.runs.files import RECORDED, parse_json, require_regular
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path

Curve = tuple[list[int], list[float]]
"""Epochs, and one value for each."""

_EVERY_ROW_HAS = ("epoch", "lr", "loss", "ce", "miou")


@dataclass(frozen=True)
class SeedHistory:
    """One training's ``history.jsonl``: a row per epoch (epoch, lr, loss, its terms, miou or None)."""

    path: Path
    rows: tuple[dict[str, Any], ...]

    def curve(self, key: str) -> Curve:
        """``key`` over the epochs that have it (mIoU is measured every few epochs only)."""
        rows = [row for row in self.rows if row.get(key) is not None]
        return [row["epoch"] for row in rows], [row[key] for row in rows]


@dataclass(frozen=True)
class MethodHistory:
    """All seeds of one method, the recipe's own seed first.

    Attributes:
        method: its name among those of all variants.
        recipe: fields of the recipe as the sidecar has them; empty before the first validation.
    """

    method: str
    seeds: tuple[SeedHistory, ...]
    recipe: dict[str, Any]

    @property
    def complete(self) -> tuple[SeedHistory, ...]:
        """The seeds that went furthest: a seed still in training would put a step into the mean where it ends."""
        furthest = max(len(seed.rows) for seed in self.seeds)
        return tuple(seed for seed in self.seeds if len(seed.rows) == furthest)

    def mean(self, key: str) -> Curve:
        """Mean of ``key`` over the complete seeds, at the epochs that all of them have."""
        curves = [dict(zip(*seed.curve(key), strict=True)) for seed in self.complete]
        epochs = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        return epochs, [fmean(curve[epoch] for curve in curves) for epoch in epochs]


def trained_methods(tree: RunTree) -> tuple[str, ...]:
    """The student methods that have a history."""
    return tuple(m for m in student_methods() if _history_files(tree, m))


def read_history(tree: RunTree, method: str) -> MethodHistory:
    """The history of a method, all seeds.

    Raises:
        Missing: none was written, or no epoch was finished. BadInput: a broken line.
    """
    command = f"kdbench train --method {method} --dataset {tree.dataset}"
    seeds = [SeedHistory(path, read_rows(path, command)) for path in _history_files(tree, method)]
    seeds = [seed for seed in seeds if seed.rows]
    if not seeds:
        raise Missing(f"no finished epoch in '{tree.folder(method).history}': make it with `{command}`")
    sidecars = [path for path in map(sidecar_path, tree.seed_checkpoints(method)) if path.exists()]
    recipe = read_training_sidecar(sidecars[0], command)["recipe"] if sidecars else {}
    return MethodHistory(tree.run(method), tuple(seeds), recipe)


def _history_files(tree: RunTree, method: str) -> list[Path]:
    # Training makes the file empty at its start, and the first row may be minutes away.
    files = [folder.history for folder in tree.folders(method)]
    return [path for path in files if path.exists() and path.stat().st_size]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_rows(path: Path, command: str) -> tuple[dict[str, Any], ...]:
    """The rows of a history; a last line without its end is being written right now, and left out."""
    rows = []
    require_regular(path, f"train again with `{command}`", RECORDED)
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = parse_json(line, finite=False)
        except ValueError as error:
            raise BadInput(f"'{path}' line {number} is not JSON ({error}): train again with `{command}`") from error
        missing = [key for key in _EVERY_ROW_HAS if not isinstance(row, dict) or key not in row]
        if missing:
            raise BadInput(
                f"'{path}' line {number} has no {', '.join(missing)}, expected a row of a training: "
                f"train again with `{command}`"
            )
        odd = [key for key, value in row.items() if not _is_number(value) and not (key == "miou" and value is None)]
        if odd:
            raise BadInput(
                f"'{path}' line {number}: {odd[0]} is {row[odd[0]]!r}, expected a finite number: "
                f"train again with `{command}`"
            )
        rows.append(row)
    return tuple(rows)
