"""The comparison as a table: the guide's columns, once per backend. Screen, text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from kdbench.comparison.results import Comparison, Row
from kdbench.comparison.seed_statistics import standard_error
from kdbench.methods.base import title_of
from kdbench.runs.files import write_text


def header_and_cells(comparison: Comparison) -> tuple[list[str], list[list[str]], list[str]]:
    """The table proper: header, one list of cells per method, and the numbered reasons of rows that are not ok."""
    columns = list(dict.fromkeys((row.backend, row.precision) for row in comparison.rows))
    several = len({precision for _, precision in columns if precision}) > 1
    names = {column: f"{column[0]} {column[1]}" if several else column[0] for column in columns}
    header = ["Knowledge Distillation", "# Parameters", "GFLOP"]
    for column in columns:
        header += [f"{names[column]} mIoU", f"{names[column]} ms"]
        if column[0] != "torch":
            header.append(f"{names[column]} = torch")
    cells, reasons = [], list[str]()
    for method in dict.fromkeys(row.method for row in comparison.rows):
        rows = {(row.backend, row.precision): row for row in comparison.rows if row.method == method}
        any_row = next(iter(rows.values()))
        line = [title_of(method), *_model_cells(any_row)]
        for column in columns:
            line += _backend_cells(rows.get(column), reasons)
        cells.append(line)
    return header, cells, reasons


def _model_cells(row: Row) -> list[str]:
    return [
        "–" if row.params is None else f"{row.params / 1e6:.2f}M",
        "–" if row.gflops is None else f"{row.gflops:.2f}",
    ]


def _backend_cells(row: Row | None, reasons: list[str]) -> list[str]:
    """mIoU, milliseconds and (for exports) agreement of one method through one backend."""
    if row is None:
        return ["–", "–", "–"]
    extra = 0 if row.backend == "torch" else 1
    if row.status != "ok":
        # Methods share most reasons: number each text once, with the method's name taken out.
        reason = f"{row.backend} {row.status}: {(row.reason or '').replace(row.method, '<method>')}"
        if reason not in reasons:
            reasons.append(reason)
        return [f"{row.status} [{reasons.index(reason) + 1}]", "–", *["–"] * extra]
    miou = "–" if row.miou is None else f"{row.miou:.4f}"
    speed = "–" if row.latency is None else f"{row.latency.mean_ms:.2f} ± {row.latency.std_ms:.2f}"
    agreement = "–" if row.agreement_with_torch is None else f"{100 * row.agreement_with_torch:.3f}%"
    return [miou, speed, *[agreement] * extra]


def improvement_lines(comparison: Comparison) -> list[str]:
    """One line per method against the baseline."""
    lines = []
    for gain in comparison.improvements:
        relative = 100 * gain.delta_miou / gain.baseline_miou if gain.baseline_miou else 0.0
        over = f"{gain.seeds} seeds" if gain.standard_error_over == "seeds" else "images, 1 training each"
        lines.append(
            f"{title_of(gain.method):<24}{gain.delta_miou:+.4f} ({relative:+.2f}%)  "
            f"± {gain.standard_error:.4f} standard error over {over}: {gain.verdict}"
        )
    return lines


def footnotes(comparison: Comparison, reasons: list[str]) -> list[str]:
    """What stands below the table: what was timed, the teacher, why rows did not run, and what to be careful of."""
    data, timing = comparison.dataset, comparison.timing
    size = "x".join(map(str, data["size"])) if data["size"] else "?"
    lines = [
        f"{data['name']} {data['split']}, {data['images']} images, input {size}, mIoU at the label's resolution. "
        f"ms = mean ± std of one call ({timing['call']}, batch {timing['batch']}, {timing['threads']} threads, "
        f"{timing['device']}), {timing['rounds']} rounds."
    ]
    lines += lines_over_seeds(comparison)
    if comparison.teacher is not None:
        lead = comparison.teacher.lead
        lines.append(
            f"Teacher {comparison.teacher.arch}: mIoU {comparison.teacher.miou:.4f}, "
            f"{comparison.teacher.params / 1e6:.2f}M parameters"
            + ("." if lead is None else f", {100 * lead:+.1f} points from the baseline's mean.")
        )
    if computed := operators_line(comparison):
        lines.append(computed)
    lines += [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += [f"Note: {note}." for note in comparison.notes]
    return lines


def lines_over_seeds(comparison: Comparison) -> list[str]:
    """Which seed the rows are of, and each method's mean mIoU ± standard error over its seeds; none for one seed."""
    seeds: list[int] = max((training["seeds"] for training in comparison.training.values()), key=len, default=[])
    if len(seeds) < 2:
        return []
    means = []
    for method, training in comparison.training.items():
        scores = training["miou_by_seed"]
        error = standard_error(scores)
        if error is not None:
            means.append(f"{title_of(method)} {fmean(scores):.4f} ± {error:.4f}")
    return [
        f"The table's rows are the models of seed {seeds[0]}, which are exported; "
        f"improvements are means over the seeds {', '.join(map(str, seeds))}.",
        f"mIoU over seeds, mean ± standard error (torch): {'; '.join(means)}.",
    ]


def plus_minus(error: float | None) -> str:
    """What follows a share's mean where both are shown in percent; empty where the spread is unknown."""
    return "" if error is None else f" ± {100 * error:.2f}"


def operators_line(comparison: Comparison) -> str | None:
    """What rows computed in, by backend and precision: only those that are not purely of the type that they name."""
    seen: dict[str, list[str]] = {}
    for row in comparison.rows:
        shares = (row.engine or {}).get("operators")
        if row.status != "ok" or shares is None or shares == {row.precision: 1.0}:
            continue
        told = ", ".join(f"{100 * share:.0f}% {name}" for name, share in shares.items()) or "not told by the engine"
        methods = seen.setdefault(f"{row.backend} {row.precision}", [])
        if told not in methods:  # layers that one method keeps in float may be others than another's
            methods.append(told)
    if not seen:
        return None
    listed = "; ".join(f"{name} {' or '.join(methods)}" for name, methods in seen.items())
    return f"Convolutions and matrix products compute in: {listed}."


def print_table(comparison: Comparison, console: Console) -> None:
    """On the screen: the table of the files where it fits, else one line per method, backend and precision."""
    header, cells, reasons = header_and_cells(comparison)
    table = _rich_table(header, cells, left=1)
    if console.measure(table, options=console.options.update(max_width=10_000)).maximum > console.width:
        table = _rich_table(*_one_line_per_row(comparison, reasons), left=3)
    console.print(table)
    if comparison.improvements:
        console.print("IMPROVEMENTS OVER BASELINE (mIoU, torch):", markup=False)
        for line in improvement_lines(comparison):
            console.print("  " + line, markup=False, highlight=False, soft_wrap=True)
    for line in footnotes(comparison, reasons):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rich_table(header: list[str], cells: list[list[str]], left: int) -> Table:
    """The first ``left`` columns hold words, the others numbers."""
    table = Table(header_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < left else "right")
    for row in cells:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def _one_line_per_row(comparison: Comparison, reasons: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells; ``reasons`` are those of ``header_and_cells``, whose numbers are the same here."""
    header = ["Knowledge Distillation", "backend", "precision", "# Parameters", "GFLOP", "mIoU", "ms", "= torch"]
    cells = []
    for row in comparison.rows:
        measured = [*_backend_cells(row, reasons), "–"][:3]  # torch is not compared with itself
        cells.append([title_of(row.method), row.backend, row.precision, *_model_cells(row), *measured])
    return header, cells


def as_text(comparison: Comparison) -> str:
    header, cells, reasons = header_and_cells(comparison)
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]

    def aligned(line: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        return "   ".join(padded).rstrip()

    lines = [aligned(header), "-" * len(aligned(header)), *map(aligned, cells)]
    if comparison.improvements:
        lines += ["", "IMPROVEMENTS OVER BASELINE (mIoU, torch):", *("  " + x for x in improvement_lines(comparison))]
    return "\n".join([*lines, "", *footnotes(comparison, reasons)]) + "\n"


def as_markdown(comparison: Comparison) -> str:
    header, cells, reasons = header_and_cells(comparison)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(line) + " |" for line in [header, rule, *cells]]
    if comparison.improvements:
        lines += ["", "Improvements over the baseline (mIoU, torch):", ""]
        lines += [f"- {' '.join(line.split())}" for line in improvement_lines(comparison)]
    return "\n".join([*lines, "", *(f"{line}\n" for line in footnotes(comparison, reasons))]).rstrip() + "\n"


def as_csv(comparison: Comparison) -> str:
    """One line per row of the JSON, latency and artifact spread over columns."""
    out = io.StringIO()
    fields = [
        "method", "backend", "precision", "output", "status", "reason", "miou", "agreement_with_torch", "params",
        "gflops", "median_ms", "mean_ms", "std_ms", "p95_ms", "p99_ms", "ci95_low_ms", "ci95_high_ms", "rounds",
        "path", "sha256", "bytes",
    ]  # fmt: skip
    writer = csv.DictWriter(out, fields, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in comparison.rows:
        flat = row.model_dump()
        latency, artifact = flat.pop("latency") or {}, flat.pop("artifact") or {}
        low, high = latency.pop("ci95_ms", (None, None))
        writer.writerow({**flat, **latency, **artifact, "ci95_low_ms": low, "ci95_high_ms": high})
    return out.getvalue()


def write_all(comparison: Comparison, json_file: Path) -> None:
    """Write ``json_file`` and its .txt, .md and .csv twins."""
    comparison.write(json_file)
    for suffix, text in ((".txt", as_text), (".md", as_markdown), (".csv", as_csv)):
        write_text(json_file.with_suffix(suffix), text(comparison))
