"""The report's tables and lists as plain cells, which the page and its Markdown twin both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.comparison import choice_text, columns
from kdbench.comparison.choice import Limits, choose_artifact
from kdbench.comparison.numbers import NOTHING, difference, fraction
from kdbench.comparison.results import Row, Split
from kdbench.methods.base import title_of
from kdbench.report.evidence import Evidence

ON: dict[Split, str] = {"val": "validation", "new_scenes": "new scenes", "test": "test"}
"""Splits as a reader calls them."""


@dataclass(frozen=True)
class Table:
    """Cells as text; ``words`` is how many columns from the left hold words rather than numbers."""

    header: list[str]
    rows: list[list[str]]
    words: int = 1
    about: list[dict[str, str]] = field(default_factory=list)
    """Per row what it is of, for filters: backend and precision."""


def hardware_facts(found: Evidence) -> list[tuple[str, str]]:
    """Name and value of the machine and the versions that the comparison, or else a training, recorded."""
    environment = None
    if found.comparison is not None:
        environment = found.comparison.environment
    elif found.trainings:
        environment = next(iter(found.trainings.values()))[0]["environment"]
    if environment is None:
        return []
    hardware, git = environment["hardware"], environment["git"]
    revision = f"{git['revision'][:12]}{' with changes' if git.get('dirty') else ''}" if git["revision"] else "unknown"
    return [
        ("CPU", f"{hardware['cpu']}, {hardware['cores']} cores"),
        ("Memory", f"{hardware['memory_gib']} GiB"),
        ("GPU", ", ".join(hardware["gpu"]) or "none"),
        ("System", hardware["os"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
        ("kdbench revision", revision),
    ]


def training_table(found: Evidence) -> Table:
    """Configuration and wall-clock of every method's first seed, mIoU over all of them."""
    rows = []
    for method, seeds in found.trainings.items():
        first, recipe = seeds[0], seeds[0]["recipe"]
        mious = ", ".join(fraction(s["miou"]) for s in seeds if s.get("miou") is not None) or NOTHING
        rows.append(
            [
                title_of(method), first["arch"], ", ".join(str(s["seed"]) for s in seeds), mious,
                f"{first['epoch']} of {first['epochs']}", str(recipe.get("batch_size", NOTHING)),
                "x".join(map(str, first["size"])), optimiser(recipe), duration(sum(s["train_seconds"] for s in seeds)),
            ]
        )  # fmt: skip
    header = ["Method", "Network", "Seeds", "mIoU", "Epochs", "Batch", "Size", "Optimiser, rate", "Wall-clock"]
    return Table(header, rows, words=2)


def optimiser(recipe: dict[str, Any]) -> str:
    return f"{recipe['optimizer']}, {recipe['lr']:g}" if recipe.get("optimizer") and recipe.get("lr") else NOTHING


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def comparison_table(found: Evidence) -> Table:
    every = found.comparison.rows if found.comparison else []
    shown = [column for column in columns.COLUMNS if column.needed is None or any(map(column.needed, every))]
    rows = [comparison_cells(row, shown) for row in every]
    about = [{"backend": row.backend, "precision": row.precision} for row in every]
    headers = [column.report or column.header for column in shown]
    return Table(["Method", "Backend", "Precision", "Status", *headers], rows, words=4, about=about)


def comparison_cells(row: Row, shown: Sequence[columns.Column]) -> list[str]:
    about = [title_of(row.run), row.backend, row.precision, row.status]
    return [*about, *(column.cell(row) for column in shown)]


def deploy_paragraph(found: Evidence) -> str:
    """What `kdbench choose` says without limits of a person's own; "" where nothing was compared."""
    if found.comparison is None:
        return ""
    return choice_text.paragraph(choose_artifact(found.comparison, Limits()), found.comparison)


def front_table(found: Evidence) -> Table:
    """The Pareto front beside it."""
    rows = []
    if found.comparison is not None:
        rows = choice_text.front_cells(choose_artifact(found.comparison, Limits()), choice_text.name_of)
    return Table(choice_text.FRONT_HEADER, rows)


def gains_table(found: Evidence) -> Table:
    gains = found.comparison.improvements if found.comparison else []
    elsewhere = any(gain.on != "val" for gain in gains)
    rows = [
        [
            title_of(gain.run), *([ON[gain.on]] if elsewhere else []), difference(gain.delta_miou),
            fraction(gain.standard_error), gain.standard_error_over, str(gain.seeds), gain.verdict,
        ]
        for gain in gains
    ]  # fmt: skip
    on = ["On"] if elsewhere else []
    return Table(["Method", *on, "mIoU change", "Standard error", "over", "Seeds", "Verdict"], rows, words=1 + len(on))


def classes_table(found: Evidence) -> Table:
    """IoU per class of every measured row."""
    classes: list[str] = found.comparison.dataset["classes"] if found.comparison else []
    rows = [
        [
            f"{title_of(row.run)}, {row.backend} {row.precision}",
            *map(fraction, row.iou_per_class or []),
        ]
        for row in found.ok_rows()
    ]
    return Table(["IoU", *classes], rows)


def parity_table(found: Evidence) -> Table:
    """What each export was held against before it was kept."""
    rows = []
    for sidecar in found.exports:
        parity = sidecar["parity"]
        before, after = parity.get("miou_reference"), parity.get("miou_candidate")
        rows.append(
            [
                title_of(sidecar["method"]), sidecar["format"], sidecar["precision"],
                sidecar["output"], str(parity["images"]), f"{100 * parity['pixel_agreement']:.3f}%",
                difference(None if before is None or after is None else after - before),
                NOTHING if sidecar.get("bytes") is None else f"{sidecar['bytes'] / 1e6:.2f} MB",
            ]
        )  # fmt: skip
    header = ["Method", "Format", "Precision", "Output", "Images", "Same class", "mIoU change", "File"]
    return Table(header, rows, words=4)


def not_run(found: Evidence) -> list[str]:
    """A line per backend, precision and reason, with the methods that share it: most fail for one reason together."""
    together: dict[str, list[Row]] = {}
    for row in found.comparison.rows if found.comparison else []:
        if row.status != "ok":
            reason = (row.reason or "").replace(row.method, "<method>")
            together.setdefault(f"{row.backend} {row.precision}: {row.status}: {reason}", []).append(row)
    lines = []
    for text, rows in together.items():
        if len(rows) == 1:
            text = f"{rows[0].backend} {rows[0].precision}: {rows[0].status}: {rows[0].reason}"
        lines.append(f"{', '.join(title_of(row.run) for row in rows)}, {text}")
    return lines


def reproduce(found: Evidence) -> list[str]:
    """The commands that made what is shown, as they were typed."""
    commands: list[Any] = [sidecar["environment"]["command"] for seeds in found.trainings.values() for sidecar in seeds]
    commands += [(sidecar.get("environment") or {}).get("command") for sidecar in found.exports]
    if found.comparison is not None:
        commands.append(found.comparison.environment["command"])
    return [str(command) for command in dict.fromkeys(commands) if command]
