"""``kdbench choose``."""

from __future__ import annotations

import math
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.backends import BACKENDS
from kdbench.cli.app import app
from kdbench.cli.options import Dataset, JsonFile, Runs, choose, json_result
from kdbench.data.open import join_dataset
from kdbench.errors import BadInput
from kdbench.methods.base import student_methods
from kdbench.runs.tree import USUAL, RunTree

if TYPE_CHECKING:
    from kdbench.comparison.choice import Choice
    from kdbench.comparison.results import Comparison

WIDTH = 80
"""Columns of the paragraph where the output is no terminal."""

Results = Annotated[Path | None, typer.Option(help="A comparison's JSON. Default: compare.json of the runs.")]
MaxLoss = Annotated[
    float, typer.Option(help="At most this much mIoU lost against the fp32 row of the same method; 0.01 = a point.")
]
MaxMs = Annotated[float | None, typer.Option(help="At most this many milliseconds by the median of one call.")]
MinMiou = Annotated[float | None, typer.Option(help="At least this mIoU, a fraction.")]
MaxMb = Annotated[float | None, typer.Option(help="At most this many megabytes (10^6 bytes) of the artifact's files.")]
Backends = Annotated[str, typer.Option(help="Several with commas; all = every one that runs exports.")]
Methods = Annotated[str, typer.Option(help="Several with commas, or all.")]
Variants = Annotated[str, typer.Option(help="As student=student_lite0 or usual: several with commas, or all.")]


@app.command(name="choose")
def choose_command(
    results: Results = None,
    max_miou_loss: MaxLoss = 0.01,
    max_ms: MaxMs = None,
    min_miou: MinMiou = None,
    max_mb: MaxMb = None,
    backend: Backends = "all",
    method: Methods = "all",
    variant: Variants = "all",
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
    json_file: JsonFile = None,
) -> None:
    """Say which artifact of a comparison to deploy, and why; exit code 1 when none meets the limits.

    The fastest that meets them; of those that are as fast within noise, the most accurate, then the smallest.

    Examples:
      kdbench choose --max-ms 20
      kdbench choose --results compare.json --backend onnx,openvino --max-miou-loss 0.005
    """
    from kdbench.comparison.choice_text import as_json

    numbers, names = (max_miou_loss, max_ms, min_miou, max_mb), (backend, method, variant)
    with json_result(json_file) as document:
        comparison, tree = open_comparison(results, runs, dataset)
        choice = choice_within(comparison, numbers, names)
        document.update(as_json(choice, comparison))
        print_choice(choice, comparison)
        if choice.chosen is not None:
            path = tree.root / choice.chosen.artifact.path
            state = state_of_files(choice.chosen.row.measured_files(tree.root))
            document["file"] = {"path": path.as_posix(), "state": state}
            print(f"File: {path} ({state})")
    if choice.chosen is None:
        raise typer.Exit(1)


def open_comparison(results: Path | None, runs: Path, dataset: str | None) -> tuple[Comparison, RunTree]:
    """A comparison, and the tree that its artifacts lie in: that of its dataset, whether it is here or not."""
    from kdbench.comparison.results import Comparison

    if results is None:
        tree = RunTree.find(runs, dataset, USUAL)
        return Comparison.read(tree.comparison), tree
    comparison = Comparison.read(results)
    return comparison, RunTree(runs, comparison.dataset["name"] if dataset is None else join_dataset(dataset))


Numbers = tuple[float | None, float | None, float | None, float | None]


def choice_within(comparison: Comparison, numbers: Numbers, names: tuple[str, str, str]) -> Choice:
    """What the flags choose.

    Args:
        numbers: --max-miou-loss, --max-ms, --min-miou and --max-mb.
        names: --backend, --method and --variant.

    Raises:
        BadInput: a number that no artifact could be held against, or an unknown name.
    """
    from kdbench.comparison.choice import Limits, choose_artifact

    loss, ms, miou, mb = numbers
    for flag, value, least, most in (
        ("--max-miou-loss", loss, -1.0, 1.0), ("--min-miou", miou, 0.0, 1.0),
        ("--max-ms", ms, 0.0, float("inf")), ("--max-mb", mb, 0.0, float("inf")),
    ):  # fmt: skip
        if value is not None and not (math.isfinite(value) and least <= value <= most and (value > 0 or most == 1.0)):
            expected = f"a fraction from {least:g} to 1" if most == 1.0 else "a finite number above 0"
            raise BadInput(f"{flag}: got {value:g}, expected {expected}")
    rows = comparison.rows
    # Names in a file of another machine may be declared by a plugin of that one.
    known = {
        "--backend": [*BACKENDS.names(), *(row.backend for row in rows)],
        "--method": [*student_methods(), *(row.method for row in rows)],
        "--variant": [USUAL, *(row.variant for row in rows if row.variant)],
    }
    backends, methods, variants = (
        choose(flag, text, tuple(dict.fromkeys(there)), ())
        for (flag, there), text in zip(known.items(), names, strict=True)
    )
    wanted = tuple(None if name == USUAL else name for name in variants)
    return choose_artifact(comparison, Limits(loss, ms, miou, mb, backends=backends, methods=methods, variants=wanted))


def print_choice(choice: Choice, comparison: Comparison) -> None:
    """The paragraph, and the front as a table that fits 80 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from kdbench.comparison.choice_text import FRONT_HEADER, front_cells, paragraph, short_name

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    text = textwrap.fill(paragraph(choice, comparison), console.width, break_long_words=False, break_on_hyphens=False)
    console.print(text, markup=False, soft_wrap=True)
    cells = front_cells(choice, short_name)
    if not cells:
        return
    console.print("\nThe Pareto front of latency and mIoU:")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold", pad_edge=False)
    for index, name in enumerate(FRONT_HEADER):
        words = index in (0, len(FRONT_HEADER) - 1)
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for row in cells:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)


def state_of_files(measured: dict[Path, str]) -> str:
    """Whether an artifact's files are still those that were measured.

    Args:
        measured: file → its hash then.
    """
    from kdbench.runs.files import sha256

    if not all(path.is_file() for path in measured):
        return "not on this machine"
    if any(sha256(path) != expected for path, expected in measured.items()):
        return "another file than was measured: export and compare again"
    return "as measured"
