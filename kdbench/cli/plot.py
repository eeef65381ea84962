"""``kdbench plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.app import app
from kdbench.cli.options import Dataset, JsonFile, Runs, Variant, choose, json_result
from kdbench.methods.base import student_methods
from kdbench.runs.tree import RunTree


@app.command()
def plot(
    method: Annotated[str, typer.Option(help="{students}, several with commas, or all trained.")] = "all",
    output: Annotated[Path | None, typer.Option(help="Folder. Default: plots/ beside the methods.")] = None,
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
    variant: Variant = None,
    json_file: JsonFile = None,
) -> None:
    """Draw a training: loss terms, validation mIoU with the baseline's, losses of all methods, learning rate.

    Four figures, PNG and SVG each.

    Example:
      kdbench plot --method response
    """
    from kdbench.report.plots import make_figures, write_figures
    from kdbench.runs.history import trained_methods

    tree = RunTree.find(runs, dataset, variant)
    methods = choose("--method", method, student_methods(), trained_methods(tree) or student_methods())
    with json_result(json_file) as document:
        figures, notes = make_figures(tree, methods)
        prefix = "all" if method == "all" else "-".join(methods)
        written = write_figures(figures, output or tree.plots, prefix)
        document.update(figures=[path.as_posix() for path in written], notes=notes)
        for path in written:
            print(path)
        for note in notes:
            print(f"note: {note}")
