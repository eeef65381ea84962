"""What there is to report on: read from results and runs alone, with a sentence for each part that is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdbench.comparison.results import Comparison, Row
from kdbench.comparison.timed_rows import case_name, is_of_one_image
from kdbench.errors import BadInput, KdbenchError
from kdbench.methods.base import method_in
from kdbench.runs.files import RECORDED, parse_json, require_regular
from kdbench.runs.history import MethodHistory, read_history, trained_methods
from kdbench.runs.recorded import Recorded
from kdbench.runs.sidecar import read_export_sidecar, read_training_sidecar
from kdbench.runs.tree import RunTree, is_fold, sidecar_path

RowKey = tuple[str, str, str]
"""run, backend, precision."""


class Stats(Recorded):
    data: list[Annotated[float, Field(gt=0)]]


class Case(Recorded):
    case: str


class Timed(Recorded):
    extra_info: Case
    stats: Stats


class Suite(Recorded):
    """pytest-benchmark's report, as far as it is read here."""

    benchmarks: list[Timed]


@dataclass
class Evidence:
    """Parts of the report.

    Attributes:
        comparison: None where nothing was compared yet.
        trainings: run (a method, or "variant/method") → sidecars of its seeds; the teacher among them.
        histories: runs with a history.
        rounds: raw latency rounds in milliseconds, of rows whose figures they are.
        exports: sidecars of exports, with their parity.
        gaps: section → sentence that says what is missing and which command makes it.
    """

    tree: RunTree
    comparison: Comparison | None = None
    trainings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    histories: list[MethodHistory] = field(default_factory=list)
    rounds: dict[RowKey, NDArray[np.float64]] = field(default_factory=dict)
    exports: list[dict[str, Any]] = field(default_factory=list)
    gaps: dict[str, str] = field(default_factory=dict)

    def students(self) -> list[str]:
        """Runs whose students validation images are new to: a fold may have learnt from some of them."""
        students = [run for run in self.trainings if method_in(run) != "teacher"]
        return [run for run in students if not is_fold(run.rpartition("/")[0] or None)]

    def ok_rows(self) -> list[Row]:
        return [row for row in self.comparison.rows if row.status == "ok"] if self.comparison else []


def collect(tree: RunTree, results: Path) -> Evidence:
    """Read everything that is there.

    Args:
        tree: a dataset's runs.
        results: a comparison's JSON.

    Raises:
        BadInput: the comparison or a history is there and broken, or the comparison is of another dataset.
    """
    found = Evidence(tree)
    dataset = f"--dataset {tree.dataset}"
    if results.exists():
        found.comparison = Comparison.read(results)
        if (compared := found.comparison.dataset["name"]) != tree.dataset:
            raise BadInput(
                f"'{results}': got a comparison of dataset '{compared}', expected one of '{tree.dataset}', whose runs "
                f"are reported on: name another with --results, or --dataset {compared}"
            )
    else:
        found.gaps["comparison"] = (
            f"Nothing was compared yet ('{results}' does not exist): make it with `kdbench compare {dataset}`."
        )
    every = [tree.of_variant(variant) for variant in tree.variants()]
    trained = [(one, method) for one in every for method in trained_methods(one)]
    for one, method in (*trained, (tree, "teacher")):
        sidecars = [sidecar_path(path) for path in one.seed_checkpoints(method)]
        command = f"kdbench train --method {method} {dataset}"
        known = [read_training_sidecar(path, command) for path in sidecars if path.exists()]
        if known:
            found.trainings[one.run(method)] = known
    if not found.trainings:
        found.gaps["training"] = (
            f"Nothing was trained under '{tree.root}': train with `kdbench train --method all {dataset}`."
        )
    # Folds would crowd the curves, and are trained as the variant is that they are of.
    curves = [run for run in trained if not is_fold(run[0].variant)] or trained
    found.histories = [read_history(one, method) for one, method in curves]
    if not found.histories:
        found.gaps["curves"] = f"No training left a history: `kdbench train --method all {dataset}` writes one."
    found.rounds = _rounds(tree, found.ok_rows())
    if not found.rounds:
        found.gaps["latency"] = (
            f"No latency rounds of this comparison lie under '{tree.root / 'latency'}': `kdbench compare {dataset}` "
            "measures and keeps them."
        )
    found.exports = _exports(tree)
    if not found.exports:
        found.gaps["exports"] = f"No export was made: `kdbench export --method all --format all {dataset}` makes them."
    return found


def _rounds(tree: RunTree, rows: list[Row]) -> dict[RowKey, NDArray[np.float64]]:
    """Rounds whose median is the row's: a file of another comparison must not be shown beside it."""
    found = {}
    for file in sorted(tree.latency("x").parent.glob("*.json")):
        backend = next((row.backend for row in rows if is_of_one_image(file.stem, row.backend)), None)
        if backend is None:
            continue
        try:
            require_regular(file, "compare again", RECORDED)
            suite = Suite.model_validate(parse_json(file.read_text(encoding="utf-8")))
        except (KdbenchError, OSError, ValueError):  # what cannot be read is not shown
            continue
        by_case = {timed.extra_info.case: np.array(timed.stats.data) * 1e3 for timed in suite.benchmarks}
        for row in rows:
            rounds = by_case.get(case_name(row))
            if row.backend != backend or row.latency is None or rounds is None:
                continue
            if len(rounds) == row.latency.rounds and np.isclose(np.median(rounds), row.latency.median_ms):
                found[row.run, row.backend, row.precision] = rounds
    return found


def _exports(tree: RunTree) -> list[dict[str, Any]]:
    found = []
    # Not hidden ones: what a killed export left is not in its place.
    for path in sorted([*tree.root.glob("*/exports/*/[!.]*.json"), *tree.root.glob("*=*/*/exports/*/[!.]*.json")]):
        try:
            sidecar = read_export_sidecar(path, "kdbench export")
        except KdbenchError:
            continue  # `compare` says what is wrong with it
        if sidecar.get("parity") is not None:
            found.append(sidecar)
    return found
