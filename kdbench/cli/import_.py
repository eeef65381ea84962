"""``kdbench import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, Runs, Timeout, json_result
from kdbench.cli.reading import Bgr, FileSize, Mean, OutputLayout, OutputName, Range, Std, Threshold, make_reading
from kdbench.machine.apart import LIMIT_S
from kdbench.runs.tree import RunTree

if TYPE_CHECKING:
    from exporters.import_file import Imported
    from kdbench.comparison.readings import Scored


@app.command("import", computes=True)
def import_file(
    file: Annotated[Path, typer.Argument(help="An ONNX file with one image in and a segmentation out.")],
    name: Annotated[str, typer.Option(help="What it is called beside the methods.")],
    dataset: Annotated[str, typer.Option(help="{dataset}: whose classes it knows.")],
    data_root: Annotated[Path | None, typer.Option(help="The dataset's folder: {roots}.")] = None,
    mean: Mean = None,
    std: Std = None,
    range_: Range = None,
    bgr: Bgr = None,
    size: FileSize = None,
    output_name: OutputName = None,
    output_layout: OutputLayout = None,
    threshold: Threshold = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what has that name, and its exports.")
    ] = False,
    runs: Runs = Path("runs"),
    timeout: Timeout = LIMIT_S,
    json_file: JsonFile = None,
) -> None:
    """Take in an ONNX file from elsewhere, to be exported, compared and shipped beside what was trained here.

    It becomes a file that takes uint8 images and returns masks, with its normalisation inside, proven to be the same
    model on labelled images; that file in fp32 is what its exports are held against. What is not said of a float input
    is looked for: the usual normalisations and both orders of the channels are scored on 16 labelled images, and one is
    taken where it leads by 0.01 of mIoU and in 97.5% of resamples.

    Examples:
      kdbench import theirs.onnx --name theirs --dataset folder --data-root my-data
      kdbench import theirs.onnx --name theirs --dataset camvid --data-root data/camvid --range 255 --bgr
    """
    from exporters.import_file import ImportOptions
    from exporters.import_file import import_file as run
    from kdbench.data import open_dataset
    from kdbench.data.open import join_dataset

    reading = make_reading(
        mean=mean, std=std, range=range_, bgr=bgr, size=size, output_name=output_name, output_layout=output_layout,
        threshold=threshold,
    )  # fmt: skip
    dataset = join_dataset(dataset)
    tree = RunTree(runs, dataset)
    with json_result(json_file) as document:
        split = open_dataset(dataset, "val", data_root)
        taken = run(file, tree, split, ImportOptions(name, reading, overwrite, data_root, timeout, print_readings))
        document.update(**taken.sidecar, parity=taken.parity.as_json())
        print("\n".join(lines(taken)))
        print(f"written: {', '.join(path.as_posix() for path in taken.written)}")
        print(f"next: kdbench export --method {name} --format all --precision all --dataset {dataset}")


def print_readings(scored: list[Scored]) -> None:
    """The table of readings, best first."""
    from rich.console import Console
    from rich.table import Table

    from kdbench.comparison.numbers import fraction

    table = Table("reading", "mIoU", "flags", title=f"Normalisation, scored on {len(scored[0].predictions)} images")
    for one in scored:
        table.add_row(one.title, fraction(one.miou), one.flags())
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def lines(taken: Imported) -> list[str]:
    """What a person is told."""
    from kdbench.comparison.numbers import fraction

    about, source = taken.sidecar, taken.sidecar["source"]
    given, returned = source["input"], source["output"]
    wanted = about["input"]
    height, width = about["size"]
    threshold = "" if returned["threshold"] is None else f", class 1 above {returned['threshold']:g}"
    layout = f" {returned['layout']}" if returned["layout"] else ""
    numbers = "/".join(f"{value:g}" for value in wanted["mean"]), "/".join(f"{value:g}" for value in wanted["std"])
    scale = "8-bit pixels" if given["dtype"] == "uint8" else (
        f"0 to {wanted['range']}, mean {numbers[0]}, deviation {numbers[1]}"
    )  # fmt: skip
    return [
        f"input   {given['name']}: {given['dtype']} {given['layout']} {height}x{width}, {scale}, {wanted['space']}",
        f"output  {returned['name']}: {returned['dtype']} {returned['shape']}, {returned['form']}{layout}{threshold}",
        *(f"assumed {line}" for line in about["assumed"]),
        f"wrapped: {100 * taken.parity.pixel_agreement:.3f}% of pixels have the file's own class on "
        f"{taken.parity.images} images, mIoU {fraction(about['miou'])}, {about['params'] / 1e6:.2f}M parameters",
    ]
