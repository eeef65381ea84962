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


@data_app.command(computes=True)
def check(
    dataset: Annotated[str, typer.Option(help="{dataset}.")],
    data_root: Annotated[Path | None, typer.Option(help="The folder that holds: {roots}.")] = None,
    sbd: Annotated[bool, typer.Option(help="{sbd}: with the images that SBD adds.")] = False,
    download: Annotated[bool, typer.Option(help="{download}: download it first.")] = False,
    unlabelled: Annotated[Path | None, typer.Option(help="A folder of images without labels, as for train.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Read every file once: counts, sizes, class shares, and every problem with the file's name.

    Example:
      kdbench data check --dataset camvid --data-root data/camvid
    """
    from dataclasses import asdict

    from rich.console import Console

    from kdbench.comparison.numbers import counted
    from kdbench.data import open_dataset
    from kdbench.data.check import check_splits, report_tables
    from kdbench.data.faults import AbsentSplit, collected
    from kdbench.data.open import DATASETS, join_dataset
    from kdbench.data.unlabelled import open_unlabelled

    opened, problems = [], list[str]()
    with collected() as faults:
        layout = DATASETS[join_dataset(dataset)]
        for split in (*layout.splits, *layout.reported):
            options = {"sbd": sbd, "download": download} if split == "train" else {}
            try:
                opened.append(open_dataset(dataset, split, data_root, **options))
            except BadInput as error:
                if split in layout.splits or not isinstance(error, AbsentSplit):
                    problems.append(str(error))
    if not opened:  # of two lines that say the same of both splits, the first
        raise BadInput(problems[0])
    by_split = {split.split: split for split in opened}
    more = None
    if {"train", "val"} <= by_split.keys():
        more = open_unlabelled(unlabelled, by_split["train"], by_split["val"], data_root)
    with json_result(json_file) as document:
        console = Console()
        checked = check_splits(*opened, unlabelled=more)
        problems = [*problems, *faults, *checked.problems]
        for report in checked.reports:
            for table in report_tables(report):
                console.print(table)
        if more is not None:
            document["unlabelled_images"] = len(more)
            console.print(f"{len(more)} images without labels")
        splits = [asdict(report) for report in checked.reports]
        document.update(splits=splits, problems=problems, warnings=checked.warnings)
        for label, lines in (("warning", checked.warnings), ("problem", problems)):
            for line in lines:
                console.print(f"{label}: {line}", markup=False, highlight=False, soft_wrap=True)
        if problems:
            raise BadInput(
                f"dataset '{dataset}' has {counted(len(problems), 'problem')}, listed above: mend before training"
            )


@data_app.command()
def describe(
    folder: Annotated[Path, typer.Argument(help="That holds images and masks, however they lie in it.")],
    output: Annotated[Path | None, typer.Option(help="Write the dataset file there. Default: print it.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Pattern whose brackets find the recording in a name, or, with /, path. Default: as seen."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Look at a folder, say what it holds, and write the dataset file to start from.

    Examples:
      kdbench data describe my-data --output my.toml
      kdbench data check --dataset my.toml
    """
    from dataclasses import asdict

    from kdbench.data import open_dataset
    from kdbench.data.describe import describe as look
    from kdbench.data.described_file import as_toml, report
    from kdbench.runs.files import write_text

    if output is not None and output.suffix != ".toml":
        raise BadInput(f"--output: got '{output}', expected a file that ends in .toml")
    if output is not None and output.exists() and not overwrite:
        raise BadInput(f"--output: '{output}' exists: name another, or add --overwrite")
    with json_result(json_file) as document:
        found = look(folder, group)
        text = as_toml(found, output)
        document.update({key: value for key, value in asdict(found).items() if key not in ("root", "unmasked")})
        document.update(root=folder.as_posix(), unmasked=[path.as_posix() for path in found.unmasked], toml=text)
        print("\n".join(report(found)))
        if output is None:
            print(f"\n{text}", end="")
            return
        write_text(output, text)
        print(f"written: {output}")
        for split in ("train", "val"):
            print(f"{split}: {len(open_dataset(str(output), split))} images")
