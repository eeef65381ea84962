"""``kdbench data``: look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.app import App, app
from kdbench.cli.options import JsonFile, json_result
from kdbench.errors import BadInput

data_app = App(help="Look at datasets before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command()
def check(
    dataset: Annotated[str, typer.Option(help="{dataset}.")],
    data_root: Annotated[Path | None, typer.Option(help="The folder that holds: {roots}.")] = None,
    sbd: Annotated[bool, typer.Option(help="{sbd}: with the images that SBD adds.")] = False,
    download: Annotated[bool, typer.Option(help="{download}: download it first.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Read every file once: counts, sizes, class shares, and every problem with the file's name.

    Example:
      kdbench data check --dataset camvid --data-root data/camvid
    """
    from dataclasses import asdict

    from rich.console import Console

    from kdbench.data import open_dataset
    from kdbench.data.check import check_dataset, overlap, report_tables

    train_set = open_dataset(dataset, "train", data_root, sbd=sbd, download=download)
    validation = open_dataset(dataset, "val", data_root)
    with json_result(json_file) as document:
        console = Console()
        problems, warnings = overlap(train_set, validation), list[str]()
        reports = [check_dataset(split) for split in (train_set, validation)]
        for report in reports:
            for table in report_tables(report):
                console.print(table)
            problems += report.problems
            warnings += report.warnings
        document.update(splits=[asdict(report) for report in reports], problems=problems, warnings=warnings)
        for label, lines in (("warning", warnings), ("problem", problems)):
            for line in lines:
                console.print(f"{label}: {line}", markup=False, highlight=False, soft_wrap=True)
        if problems:
            raise BadInput(
                f"dataset '{dataset}' has {len(problems)} problem(s), listed above: mend them before training"
            )
