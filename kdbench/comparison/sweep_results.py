"""What a sweep found: mean mIoU over seeds per setting and method, and paired differences from the setting's baseline.

Scores are those of each training's last epoch, as ``kdbench train`` measured them through PyTorch on the validation
split. ``kdbench compare`` on one setting's tree gives backends, latency and intervals over images.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from kdbench.comparison import markdown
from kdbench.comparison.numbers import NOTHING, difference, fraction
from kdbench.comparison.results import Verdict
from kdbench.comparison.seed_statistics import standard_error, verdict_of
from kdbench.methods.base import title_of
from kdbench.runs.files import SCHEMA_VERSION, write_text

COLUMNS = ("Setting", "Method", "Seeds", "mIoU", "± SE", "Δ baseline", "± SE of Δ", "Verdict", "Epochs", "Train s")


class SweepRow(BaseModel):
    """One method under one setting; standard errors are over seeds, None with a single one."""

    model_config = ConfigDict(extra="forbid")

    setting: str
    method: str
    seeds: list[int]
    miou: float
    standard_error: float | None
    delta_miou: float | None
    """Mean difference from the same setting's baseline, over the seeds that both have."""
    delta_standard_error: float | None
    verdict: Verdict | None
    epochs: int
    train_seconds: float


def sweep_rows(trained: list[tuple[str, str, dict[str, Any]]]) -> list[SweepRow]:
    """Rows in the order of the first training of each.

    Gains and losses are claimed by the comparison's rule, ``verdict_of``.

    Args:
        trained: (setting, method, sidecar of the checkpoint).
    """
    by_row: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for setting, method, sidecar in trained:
        by_row[setting, method][sidecar["seed"]] = sidecar
    rows = []
    for (setting, method), sidecars in by_row.items():
        baseline = by_row.get((setting, "baseline"), {}) if method != "baseline" else {}
        deltas = [sidecars[seed]["miou"] - baseline[seed]["miou"] for seed in sidecars if seed in baseline]
        scores = [sidecar["miou"] for sidecar in sidecars.values()]
        rows.append(
            SweepRow(
                setting=setting, method=method, seeds=sorted(sidecars), miou=fmean(scores),
                standard_error=standard_error(scores), delta_miou=fmean(deltas) if deltas else None,
                delta_standard_error=standard_error(deltas), verdict=verdict_of(deltas) if deltas else None,
                epochs=max(sidecar["epochs"] for sidecar in sidecars.values()),
                train_seconds=fmean(sidecar["train_seconds"] for sidecar in sidecars.values()),
            )
        )  # fmt: skip
    return rows


def cells(row: SweepRow) -> list[str]:
    """One row as text; mIoU in the same 0..1 as ``kdbench compare``."""
    return [
        row.setting or NOTHING, title_of(row.method), str(len(row.seeds)), fraction(row.miou),
        fraction(row.standard_error), difference(row.delta_miou), fraction(row.delta_standard_error),
        row.verdict or NOTHING, str(row.epochs), f"{row.train_seconds:.0f}",
    ]  # fmt: skip


def write_sweep(destination: Path, rows: list[SweepRow], document: dict[str, Any]) -> None:
    """``destination`` (.json), and .md and .csv beside it.

    Args:
        document: what else the JSON holds: environment, grid, runs.
    """
    whole = {"schema_version": SCHEMA_VERSION, **document, "rows": [row.model_dump(mode="json") for row in rows]}
    write_text(destination, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    write_text(destination.with_suffix(".md"), markdown.table(COLUMNS, [cells(row) for row in rows], words=2) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(SweepRow.model_fields)
    writer.writerows([json.dumps(v) if isinstance(v, list) else v for v in row.model_dump().values()] for row in rows)
    write_text(destination.with_suffix(".csv"), table.getvalue())
