"""A comparison as tables of plain cells: one where little was asked for, else one per backend, or of the one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.comparison.columns import Column, of_backend, of_model
from kdbench.comparison.numbers import NOTHING
from kdbench.comparison.results import Comparison, Row
from kdbench.methods.base import title_of

MOST_KEYS = 3
"""Backends times precisions that one table holds side by side; more would be more columns than anybody reads."""


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        title: what stands above it; "" where it is the only one.
        words: how many columns from the left hold words rather than numbers.
        groups: rows after which a line is drawn.
    """

    title: str
    header: list[str]
    cells: list[list[str]]
    words: int = 1
    groups: tuple[int, ...] = ()


def keys_of(comparison: Comparison) -> list[tuple[str, str]]:
    """Backend and precision, as they were asked for."""
    return list(dict.fromkeys((row.backend, row.precision) for row in comparison.rows))


def of_files(comparison: Comparison) -> tuple[list[Part], list[str]]:
    """The tables of the text and Markdown files, and the numbered reasons of rows that are not ok."""
    header, cells, reasons = header_and_cells(comparison)
    if len(keys_of(comparison)) <= MOST_KEYS:
        return [Part("", header, cells)], reasons
    return several_tables(comparison, reasons), reasons


def several_tables(comparison: Comparison, reasons: list[str]) -> list[Part]:
    """What is said once for each method, then its backends below each other, or a table per backend where there are
    several methods.

    Args:
        reasons: those of ``header_and_cells``, whose numbers stay.
    """
    runs = _by_run(comparison)
    models = [_about(run, rows, comparison) for run, rows in runs.items()]
    parts = [Part("Models", ["Knowledge Distillation", *(c.header for c in of_model(comparison.rows))], models)]
    if len(runs) > 1:
        return parts + [
            _of_one_backend(backend, comparison, reasons)
            for backend in dict.fromkeys(backend for backend, _ in keys_of(comparison))
        ]
    columns = of_backend(comparison.rows)
    cells = [[row.backend, row.precision, *_backend_cells(row, columns, reasons)] for row in comparison.rows]
    header = ["backend", "precision", *(column.header for column in columns)]
    return [*parts, Part(title_of(comparison.rows[0].run), header, cells, words=2)]


def header_and_cells(comparison: Comparison) -> tuple[list[str], list[list[str]], list[str]]:
    """Everything side by side: header, one list of cells per method, and the numbered reasons of rows that are not
    ok."""
    keys = keys_of(comparison)
    several = len({precision for _, precision in keys if precision}) > 1
    header = ["Knowledge Distillation", *(column.header for column in of_model(comparison.rows))]
    every = of_backend(comparison.rows)
    for backend, precision in keys:
        name = f"{backend} {precision}" if several else backend
        header += [f"{name} {column.header}" for column in every if column.belongs_to(backend)]
    cells, reasons = [], list[str]()
    for run, rows in _by_run(comparison).items():
        line = _about(run, rows, comparison)
        for key in keys:
            columns = [column for column in every if column.belongs_to(key[0])]
            line += _backend_cells(rows.get(key), columns, reasons)
        cells.append(line)
    return header, cells, reasons


def one_line_per_row(comparison: Comparison, reasons: list[str]) -> Part:
    """One table, long instead of wide; ``reasons`` are those of ``header_and_cells``, whose numbers stay."""
    models, columns = of_model(comparison.rows), of_backend(comparison.rows)
    headers = [column.header for column in (*models, *columns)]
    cells = []
    for row in comparison.rows:
        about = [title_of(row.run), row.backend, row.precision, *(column.cell(row) for column in models)]
        cells.append([*about, *_backend_cells(row, columns, reasons)])
    return Part("", ["Knowledge Distillation", "backend", "precision", *headers], cells, words=3)


def _of_one_backend(backend: str, comparison: Comparison, reasons: list[str]) -> Part:
    """By precision the methods below each other; what none of them could do for one reason is one line."""
    runs = _by_run(comparison)
    columns = [column for column in of_backend(comparison.rows) if column.belongs_to(backend)]
    cells, groups = list[list[str]](), []
    for precision in (precision for name, precision in keys_of(comparison) if name == backend):
        rows = [found.get((backend, precision)) for found in runs.values()]
        lines = [_backend_cells(row, columns, reasons) for row in rows]
        if all(row is not None and row.status != "ok" for row in rows) and all(line == lines[0] for line in lines):
            cells.append([f"all {len(rows)} students", precision, *lines[0]])
        else:
            cells += [[title_of(run), precision, *line] for run, line in zip(runs, lines, strict=True)]
        groups.append(len(cells) - 1)
    header = ["Knowledge Distillation", "precision", *(column.header for column in columns)]
    return Part(backend, header, cells, words=2, groups=tuple(groups))


def _by_run(comparison: Comparison) -> dict[str, dict[tuple[str, str], Row]]:
    """Run → (backend, precision) → row."""
    found: dict[str, dict[tuple[str, str], Row]] = {}
    for row in comparison.rows:
        found.setdefault(row.run, {})[row.backend, row.precision] = row
    return found


def _about(run: str, rows: dict[tuple[str, str], Row], comparison: Comparison) -> list[str]:
    """What is the same whichever backend runs the method."""
    any_row = rows.get(("torch", "fp32"), next(iter(rows.values())))
    return [title_of(run), *(column.cell(any_row) for column in of_model(comparison.rows))]


def _backend_cells(row: Row | None, columns: Sequence[Column], reasons: list[str]) -> list[str]:
    """One method through one backend; a row that is not ok has its status and the reason's number in the first cell."""
    if row is None:
        return [NOTHING] * len(columns)
    if row.status == "ok":
        return [column.cell(row) if column.belongs_to(row.backend) else NOTHING for column in columns]
    # Methods share most reasons: number each text once, with the method's name taken out.
    reason = f"{row.backend} {row.status}: {(row.reason or '').replace(row.method, '<method>')}"
    if reason not in reasons:
        reasons.append(reason)
    return [f"{row.status} [{reasons.index(reason) + 1}]", *[NOTHING] * (len(columns) - 1)]
