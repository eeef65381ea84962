"""The columns of a comparison, each declared once: the tables of ``compare``, the README and the report follow.

A new column is one line in ``COLUMNS`` (and a field of ``results.Row`` where its number is not there yet, by which the
JSON and the CSV have it too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdbench.comparison.numbers import NOTHING, fraction
from kdbench.comparison.results import Latency, Row, Split


@dataclass(frozen=True)
class Column:
    """What one column says of a row.

    Attributes:
        header: in the comparison's table, after the backend's name where it differs by backend.
        cell: of a row; a number that it lacks is a dash.
        report: header in the report, which has a row for each backend; "" = as in the comparison's table.
        of_model: the same whichever backend runs the model: said once for each method.
        report_only: too much for the comparison's table.
        of_torch: torch has it too; what compares with torch says nothing of torch itself.
        needed: the comparison's table has it where any row is such; None = always.
    """

    header: str
    cell: Callable[[Row], str]
    report: str = ""
    of_model: bool = False
    report_only: bool = False
    of_torch: bool = True
    needed: Callable[[Row], bool] | None = None

    def belongs_to(self, backend: str) -> bool:
        """Whether the comparison's table has it for ``backend``."""
        return self.of_torch or backend != "torch"


def parameters(row: Row) -> str:
    return NOTHING if row.params is None else f"{row.params / 1e6:.2f}M"


def gflop(row: Row) -> str:
    return NOTHING if row.gflops is None else f"{row.gflops:.2f}"


def images(row: Row) -> str:
    """Training images with labels, and those without."""
    return NOTHING if row.labelled is None else f"{row.labelled} + {row.unlabelled or 0}"


def agreement(row: Row) -> str:
    return NOTHING if row.agreement_with_torch is None else f"{100 * row.agreement_with_torch:.3f}%"


def most_images(row: Row) -> str:
    """Images per second at the batch size that has most, the size, and how many times that of batch 1."""
    best = row.best_throughput
    if best is None or best.images_per_s is None or row.latency is None:
        return NOTHING
    return f"{best.images_per_s:.0f} at {best.batch} ({best.images_per_s * row.latency.median_ms / 1e3:.2f}x)"


def timed(show: Callable[[Latency], str]) -> Callable[[Row], str]:
    """A cell that needs a latency."""
    return lambda row: NOTHING if row.latency is None else show(row.latency)


def on_split(header: str, split: Split) -> Column:
    """PyTorch's mIoU on another split than validation, where anything was scored on it."""

    def score(row: Row) -> float | None:
        return (row.miou_by_split or {}).get(split)

    return Column(header, lambda row: fraction(score(row)), of_model=True, needed=lambda row: score(row) is not None)


COLUMNS = (
    Column("# Parameters", parameters, report="Parameters", of_model=True),
    Column("GFLOP", gflop, of_model=True),
    Column("Labelled + not", images, report="Images", of_model=True, needed=lambda row: bool(row.unlabelled)),
    on_split("New scenes", "new_scenes"),
    on_split("Test", "test"),
    Column("mIoU", lambda row: fraction(row.miou)),
    Column("Median ms", timed(lambda ms: f"{ms.median_ms:.2f}"), report_only=True),
    Column("95% interval", timed(lambda ms: f"{ms.ci95_ms[0]:.2f}–{ms.ci95_ms[1]:.2f}"), report_only=True),
    Column("ms", timed(lambda ms: f"{ms.mean_ms:.2f} ± {ms.std_ms:.2f}"), report="Mean ± std ms"),
    Column("p95 ms", timed(lambda ms: NOTHING if ms.p95_ms is None else f"{ms.p95_ms:.2f}"), report_only=True),
    Column("images/s", most_images, report="Images per second", needed=lambda row: bool(row.throughput)),
    Column("= torch", agreement, report="Same as PyTorch", of_torch=False),
)


def of_model(rows: Sequence[Row]) -> list[Column]:
    """Those of the comparison's table that are said once for each method."""
    return [column for column in _in_table(rows) if column.of_model]


def of_backend(rows: Sequence[Row]) -> list[Column]:
    """Those of the comparison's table that differ by backend and precision."""
    return [column for column in _in_table(rows) if not column.of_model]


def _in_table(rows: Sequence[Row]) -> list[Column]:
    return [
        column
        for column in COLUMNS
        if not column.report_only and (column.needed is None or any(map(column.needed, rows)))
    ]
