"""``kdbench parity``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, json_result
from kdbench.errors import BadInput, RunFailed


@app.command()
def parity(
    reference: Annotated[Path, typer.Argument(help="An ONNX file: the model as it should be.")],
    candidate: Annotated[Path, typer.Argument(help="Another ONNX file: an export of it, in any precision.")],
    images: Annotated[
        list[Path] | None, typer.Option(help="Images or folders of them, without labels; may be given several times.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Score on a labelled val split: {dataset}.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    limit: Annotated[int, typer.Option(help="Images at most.", min=1)] = 100,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, for files that leave them open.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of a float input, R,G,B of 0..1; default ImageNet's.")] = None,
    std: Annotated[str | None, typer.Option(help="As --mean.")] = None,
    tolerance: Annotated[str | None, typer.Option(help="fp32, fp16 or int8. Default: by the files' metadata.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Tell whether two ONNX files are still the same segmentation model, on real images.

    Works on any two files with one RGB image in and logits or class ids out. Exit code 0 inside the tolerance
    (fp32: 99.9% of pixels with the same class, fp16: 99.5%, int8: at most 1 point of mIoU lost), 1 outside.

    Examples:
      kdbench parity model.onnx model-int8.onnx --dataset camvid --data-root data/camvid
      kdbench parity ours.onnx theirs.onnx --images photos/
    """
    from rich.console import Console

    from kdbench.comparison.parity_files import ParityOptions, compare_files, open_files
    from kdbench.data.preprocessing import parse_size

    options = ParityOptions(
        tolerance, limit, parse_size(size) if size else None, triple("--mean", mean), triple("--std", std)
    )
    with json_result(json_file) as document:
        files = open_files((reference, candidate), options)
        about = files[0].about or files[1].about
        samples, names = open_samples(images, dataset or (None if images else about.get("dataset")), data_root, limit)
        found = compare_files(files, samples, names, options, str(reference))
        result, problem = found.parity, found.problem
        document.update(
            reference=reference.as_posix(), candidate=candidate.as_posix(), tolerance=found.tolerance,
            verdict="drift" if problem else "same", reason=problem, classes=list(result.classes), **result.as_json(),
        )  # fmt: skip
        console = Console(width=None if sys.stdout.isatty() else 120)
        for note in found.notes:
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        print_parity(result, console)
        if problem:
            raise RunFailed(f"'{candidate}' is not the model of '{reference}': {problem}")
        if found.tolerance == "int8" and not result.labelled:
            console.print(
                "no labels, so the loss of mIoU was not judged: --dataset and --data-root give a labelled split"
            )
        console.print(f"same model, by the tolerance of {found.tolerance}", highlight=False)


def triple(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise BadInput(f"{flag}: got '{text}', expected three numbers, for example 0.485,0.456,0.406")
    return values


def open_samples(
    images: list[Path] | None, dataset: str | None, data_root: Path | None, limit: int
) -> tuple[Any, tuple[str, ...] | None]:
    """Real images, evenly spread over what was named, and the classes of a labelled split."""
    from kdbench.comparison.parity_files import spread, unlabelled
    from kdbench.data import DATASETS, open_dataset
    from kdbench.data.open import join_dataset

    if images and dataset:
        raise BadInput("--images and --dataset: got both, expected one of them")
    if images:
        return unlabelled(images, limit), None
    if dataset is None or (DATASETS[join_dataset(dataset)].holds and data_root is None):
        hint = f" --dataset {dataset} --data-root FOLDER" if dataset else " --dataset NAME --data-root FOLDER"
        raise BadInput(f"kdbench parity: expected real images to compare on: give --images FOLDER, or{hint}")
    split = open_dataset(dataset, "val", data_root)
    return spread(split, limit), split.classes


def print_parity(result: Any, console: Any) -> None:
    """Per class: IoU of both against the labels, or of one against the other where there are none."""
    import math

    from rich.table import Table

    from kdbench.comparison.numbers import NOTHING, difference, fraction

    report = result.as_json()
    labelled = result.labelled
    table = Table("class", "IoU reference", "IoU candidate", "change") if labelled else Table("class", "same (IoU)")

    for index, name in enumerate(result.classes):
        if labelled:
            change = result.class_changes()[index]
            mark = "  ◄ lost over 2 points" if name in report["worse_classes"] else ""
            shown = NOTHING if math.isnan(change) else f"{difference(change)}{mark}"
            table.add_row(
                name, fraction(report["iou_reference"][index]), fraction(report["iou_candidate"][index]), shown
            )
        elif report["class_agreement"][index] is not None:
            table.add_row(name, fraction(report["class_agreement"][index]))
    console.print(table)
    lines = [f"{report['images']} images, {100 * report['pixel_agreement']:.3f}% of pixels have the same class"]
    if labelled:
        before, after = report["miou_reference"], report["miou_candidate"]
        lines.append(f"mIoU {fraction(before)} → {fraction(after)} ({difference(after - before)})")
    if report["max_logit_difference"] is not None:
        lines.append(f"largest difference of a logit {report['max_logit_difference']:.3g}")
    if report["classes_seen"] == 1:
        lines.append("one class everywhere on these images: agreement proves little")
    console.print("; ".join(lines), highlight=False)
