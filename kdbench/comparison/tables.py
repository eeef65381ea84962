"""The comparison's tables on the screen and as text, Markdown and CSV, with what stands below them."""

from __future__ import annotations

import csv
import io
import textwrap
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from kdbench.comparison import markdown
from kdbench.comparison.layout import Part, of_files, one_line_per_row, several_tables
from kdbench.comparison.numbers import counted
from kdbench.comparison.results import Artifact, Comparison, Improvement, Latency, Row, Split
from kdbench.comparison.seed_statistics import standard_error
from kdbench.methods.base import title_of
from kdbench.runs.files import write_text

WHERE: dict[Split, str] = {
    "val": "",
    "new_scenes": " ON NEW SCENES, recordings held out in turn",
    "test": " ON TEST, which nothing may be chosen on",
}
"""Where an improvement was measured, in the title above it."""


def improvement_sections(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """A title and its lines for each split that improvements were measured on."""
    found = [(WHERE[split], improvement_lines(comparison.improvements_on(split))) for split in WHERE]
    return [(where, lines) for where, lines in found if lines]


def improvement_lines(gains: list[Improvement]) -> list[str]:
    """One line per method against the baseline, with a line of its recordings where they are known."""
    lines = []
    for gain in gains:
        relative = 100 * gain.delta_miou / gain.baseline_miou if gain.baseline_miou else 0.0
        by_images = gain.standard_error_over == "images"
        over = f"images, {counted(gain.seeds, 'training')} each" if by_images else gain.trainings
        lines.append(
            f"{title_of(gain.run):<24}{gain.delta_miou:+.4f} ({relative:+.2f}%)  "
            f"± {gain.standard_error:.4f} standard error over {over}: {gain.verdict}"
        )
        if gain.miou_by_group and len(gain.miou_by_group) > 1:
            by = "; ".join(f"{g} {s.miou:.4f} ({s.delta_miou:+.4f})" for g, s in gain.miou_by_group.items())
            lines.append(f"{'':<24}by recording: {by}")
    return lines


def footnotes(comparison: Comparison, reasons: list[str]) -> list[str]:
    """What stands below the table: what was timed, the teacher, why rows did not run, and what to be careful of."""
    data, timing = comparison.dataset, comparison.timing
    size = "x".join(map(str, data["size"])) if data["size"] else "?"
    lines = [
        f"{data['name']} {data['split']}, {data['images']} images, input {size}, mIoU at the label's resolution. "
        f"ms = mean ± std of one call ({timing['call']}, batch {timing['batch']}, "
        f"{counted(timing['threads'], 'thread')}, {timing['device']}), {timing['rounds']} rounds."
    ]
    lines += lines_over_seeds(comparison)
    if new_scenes := new_scenes_line(comparison):
        lines.append(new_scenes)
    if comparison.teacher is not None:
        lead = comparison.teacher.lead
        lines.append(
            f"Teacher {comparison.teacher.arch}: mIoU {comparison.teacher.miou:.4f}, "
            f"{comparison.teacher.params / 1e6:.2f}M parameters"
            + ("." if lead is None else f", {100 * lead:+.1f} points from the baseline's mean.")
        )
    if imported := imported_line(comparison):
        lines.append(imported)
    if computed := operators_line(comparison):
        lines.append(computed)
    lines += [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    lines += [f"Note: {note}." for note in comparison.notes]
    return lines


def lines_over_seeds(comparison: Comparison) -> list[str]:
    """Which seed the rows are of, and each method's mean mIoU ± standard error over its seeds; none for one seed."""
    methods: dict[tuple[int, ...], list[str]] = {}
    for run, training in comparison.training.items():
        methods.setdefault(tuple(training["seeds"]), []).append(title_of(run))
    if max(map(len, methods), default=0) < 2:
        return []
    listed = {", ".join(map(str, seeds)): names for seeds, names in methods.items()}
    if len(methods) == 1:
        (every,) = listed
        first = f"of seed {every.split(', ')[0]}, which are exported; improvements are means over the seeds {every}."
    else:
        its = "; ".join(f"{seeds} of {', '.join(names)}" for seeds, names in listed.items())
        first = (
            "of each method's first seed, which are exported; improvements are means over the seeds that a method and "
            f"its baseline share. Seeds: {its}."
        )
    means = []
    for method, training in comparison.training.items():
        scores = training["miou_by_seed"]
        error = standard_error(scores)
        if error is not None:
            means.append(f"{title_of(method)} {fmean(scores):.4f} ± {error:.4f}")
    return [
        f"The table's rows are the models {first}",
        f"mIoU over seeds, mean ± standard error (torch): {'; '.join(means)}.",
    ]


def new_scenes_line(comparison: Comparison) -> str | None:
    """What scores beside validation's mean; None where there are none."""
    splits = {split for row in comparison.rows for split in row.miou_by_split or ()}
    said = []
    if "new_scenes" in splits:
        said.append(
            "New scenes: each recording held out in turn, of a model that learnt from the others, as its teacher did; "
            "mean over these folds. Validation images of a recording that training knows reward remembering it."
        )
    if "test" in splits:
        images = comparison.dataset.get("test_images")
        said.append(f"Test: {images} images, for reporting a finished study: choose nothing by it.")
    return " ".join(said) or None


def imported_line(comparison: Comparison) -> str | None:
    """Which rows are of imported files, and what that means; None without any."""
    names = list(dict.fromkeys(row.run for row in comparison.rows if row.imported))
    if not names:
        return None
    return (
        f'Imported: {", ".join(names)}. Their "= torch" is agreement with their own fp32 ONNX run; nothing is known of '
        "their training, so no gain is claimed."
    )


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
    """On the screen: the tables of the files where they fit.

    One that is too wide becomes one line per method, backend and precision; where that is too wide as well, or was
    never one table, there are several.
    """
    parts, reasons = of_files(comparison)
    if len(parts) == 1 and not _fits(parts[0], console):
        parts = [one_line_per_row(comparison, reasons)]
        if not _fits(parts[0], console):
            parts = several_tables(comparison, reasons)
    for part in parts:
        console.print(_rich_table(part))
    for where, improvements in improvement_sections(comparison):
        _say(console, f"IMPROVEMENTS OVER BASELINE{where} (mIoU, torch):")
        for line in improvements:
            _say(console, "  " + line)
    for line in footnotes(comparison, reasons):
        _say(console, line)


def _fits(part: Part, console: Console) -> bool:
    unlimited = console.options.update(max_width=10_000)
    return console.measure(_rich_table(part), options=unlimited).maximum <= console.width


def _say(console: Console, line: str) -> None:
    """A line as it is; on a terminal it breaks between words."""
    if console.is_terminal:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        line = textwrap.fill(line, console.width, subsequent_indent=indent, break_on_hyphens=False)
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rich_table(part: Part) -> Table:
    """Where it is too wide, names are broken into lines, numbers never."""
    table = Table(title=part.title or None, title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(part.header):
        words = index < part.words
        table.add_column(name, justify="left" if words else "right", no_wrap=index > 0, overflow="fold")
    for index, row in enumerate(part.cells):
        table.add_row(*(cell.replace("[", r"\[") for cell in row), end_section=index in part.groups)
    return table


def as_text(comparison: Comparison) -> str:
    parts, reasons = of_files(comparison)
    lines = list[str]()
    for part in parts:
        lines += [*([""] if lines else []), *([part.title] if part.title else []), *_aligned(part)]
    for where, improvements in improvement_sections(comparison):
        lines += ["", f"IMPROVEMENTS OVER BASELINE{where} (mIoU, torch):", *("  " + line for line in improvements)]
    return "\n".join([*lines, "", *footnotes(comparison, reasons)]) + "\n"


def _aligned(part: Part) -> list[str]:
    widths = [max(map(len, column)) for column in zip(part.header, *part.cells, strict=True)]

    def aligned(line: list[str]) -> str:
        padded = [
            cell.ljust(width) if index < part.words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "   ".join(padded).rstrip()

    header = aligned(part.header)
    return [header, "-" * len(header), *map(aligned, part.cells)]


def as_markdown(comparison: Comparison) -> str:
    parts, reasons = of_files(comparison)
    lines = list[str]()
    for part in parts:
        lines += [*([""] if lines else []), *([f"**{part.title}**", ""] if part.title else [])]
        lines.append(markdown.table(part.header, part.cells, part.words))
    for where, improvements in improvement_sections(comparison):
        lines += ["", f"Improvements over the baseline{where.replace(' ON', ' on', 1)} (mIoU, torch):", ""]
        lines += [f"{'  ' * line.startswith(' ')}- {' '.join(line.split())}" for line in improvements]
    return "\n".join([*lines, "", *(f"{line}\n" for line in footnotes(comparison, reasons))]).rstrip() + "\n"


LATER = ("variant", "student", "labelled", "unlabelled", "reference")
"""Fields that rows did not always have: the last columns of the CSV, where any row has them."""
IN_JSON_ALONE = ("miou_ci95", "miou_loss", "miou_by_split", "iou_per_class", "throughput", "engine")
"""Fields of a row that are no plain number or word."""


def as_csv(comparison: Comparison) -> str:
    """One line per row of the JSON, with a column for each of its fields; latency and artifact are spread over theirs.

    Lists and details of the engine stay in the JSON.
    """
    latency = [name for name, field in Latency.model_fields.items() if not field.exclude]
    spread = {"latency": latency, "artifact": list(Artifact.model_fields)}
    interval = {"ci95_ms": ("ci95_low_ms", "ci95_high_ms")}
    fields = [field for field in Row.model_fields if field not in IN_JSON_ALONE]
    later = [field for field in LATER if any(getattr(row, field) is not None for row in comparison.rows)]
    kept = [*(field for field in fields if field not in LATER), *later]
    names = [name for field in kept for name in spread.get(field, (field,))]
    columns = [column for name in names for column in interval.get(name, (name,))]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in comparison.rows:
        flat = row.model_dump()
        for field in spread:
            flat |= flat.pop(field) or {}
        flat |= zip(interval["ci95_ms"], flat.pop("ci95_ms", (None, None)), strict=True)
        writer.writerow(flat)
    return out.getvalue()


def write_all(comparison: Comparison, json_file: Path) -> None:
    """Write ``json_file`` and its .txt, .md and .csv twins."""
    comparison.write(json_file)
    for suffix, text in ((".txt", as_text), (".md", as_markdown), (".csv", as_csv)):
        write_text(json_file.with_suffix(suffix), text(comparison))
