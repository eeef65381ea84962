"""``kdbench package``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.app import app
from kdbench.cli.choose import (
    Backends,
    MaxLoss,
    MaxMb,
    MaxMs,
    Methods,
    MinMiou,
    Results,
    Variants,
    choice_within,
    open_comparison,
    print_choice,
)
from kdbench.cli.options import Dataset, JsonFile, Runs, json_result


@app.command()
def package(
    results: Results = None,
    output: Annotated[Path | None, typer.Option(help="The folder. Default: package in the dataset's runs.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a package that is there.")] = False,
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
    """Write a folder with the artifact that `kdbench choose` takes under the same limits, ready to ship.

    It has a model card, a program that runs the artifact without kdbench, hashes of every file, and a model repository
    for NVIDIA Triton. Exit code 1 when no artifact meets the limits.

    Examples:
      kdbench package --max-ms 20 --output street-model
      kdbench package --results compare.json --backend openvino --overwrite
    """
    from kdbench.comparison.choice_text import as_json, paragraph
    from kdbench.package.shipped import open_shipped
    from kdbench.package.write import write_package

    numbers, names = (max_miou_loss, max_ms, min_miou, max_mb), (backend, method, variant)
    with json_result(json_file) as document:
        comparison, tree = open_comparison(results, runs, dataset)
        choice = choice_within(comparison, numbers, names)
        document.update(as_json(choice, comparison))
        print_choice(choice, comparison)
        if choice.chosen is not None:
            shipped = open_shipped(tree, comparison, choice.chosen, paragraph(choice, comparison))
            folder = output or tree.package
            files = write_package(shipped, folder, overwrite)
            document["package"] = {
                "name": shipped.name, "folder": folder.as_posix(), "files": [path.as_posix() for path in files],
            }  # fmt: skip
            print(f"written: {folder} ({len(files)} files, listed in its manifest.json)")
    if choice.chosen is None:
        raise typer.Exit(1)
