"""``kdbench parity``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, Timeout, json_result
from kdbench.cli.reading import make_reading
from kdbench.errors import BadInput, RunFailed
from kdbench.machine.apart import LIMIT_S

if TYPE_CHECKING:
    from kdbench.backends.onnx_layout import Reading


NOT_JUDGED = "no labels, so the loss of mIoU was not judged: --dataset and --data-root give a labelled split"


@app.command(computes=True)
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
    mean: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a float input's channels, as 0.5,0.5,0.5; given twice: the reference's, the candidate's."
        ),
    ] = None,
    std: Annotated[list[str] | None, typer.Option(help="As --mean.")] = None,
    range_: Annotated[list[str] | None, typer.Option("--range", help="1 or 255, as --mean.")] = None,
    space: Annotated[list[str] | None, typer.Option(help="RGB or BGR, as --mean.")] = None,
    output_name: Annotated[list[str] | None, typer.Option(help="Of several outputs, as --mean.")] = None,
    output_layout: Annotated[list[str] | None, typer.Option(help="NCHW or NHWC of an output, as --mean.")] = None,
    threshold: Annotated[list[float] | None, typer.Option(help="Of a one-channel output, as --mean.")] = None,
    tolerance: Annotated[str | None, typer.Option(help="fp32, fp16 or int8. Default: by the files' metadata.")] = None,
    timeout: Timeout = LIMIT_S,
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

    from kdbench.comparison.parity_files import ParityOptions, assumptions, compare_files, open_files
    from kdbench.regress.rule import EXIT_CODES

    flags = {
        "mean": mean, "std": std, "range": range_, "space": space, "output_name": output_name,
        "output_layout": output_layout, "threshold": threshold,
    }  # fmt: skip
    options = ParityOptions(tolerance, limit, readings=two_readings(size, flags), limit_s=timeout)
    with json_result(json_file) as document:
        files = open_files((reference, candidate), options)
        about = files[0].about or files[1].about
        samples, names = open_samples(images, dataset or (None if images else about.get("dataset")), data_root, limit)
        console = Console(width=None if sys.stdout.isatty() else 120)
        for note in assumptions(files):
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        found = compare_files(files, samples, names, options, str(reference))
        result, problem = found.parity, found.problem
        document.update(
            reference=reference.as_posix(), candidate=candidate.as_posix(), tolerance=found.tolerance,
            verdict="drift" if problem else "same" if found.same else "not judged",
            reason=problem or (None if found.judged else NOT_JUDGED), classes=list(result.classes), **result.as_json(),
        )  # fmt: skip
        print_parity(result, console)
        if problem:
            raise RunFailed(f"'{candidate}' is not the model of '{reference}': {problem}")
        if not found.judged:
            console.print(NOT_JUDGED, highlight=False, soft_wrap=True)
            raise typer.Exit(EXIT_CODES["inconclusive"])
        console.print(f"same model, by the tolerance of {found.tolerance}", highlight=False)


def two_readings(size: str | None, flags: dict[str, list[Any] | None]) -> tuple[Reading, ...]:
    """How the reference and the candidate are read.

    Args:
        flags: name → what was given: once for both, or twice.
    """
    readings = []
    for which in (0, 1):
        told: dict[str, Any] = {"size": size}
        for name, values in flags.items():
            flag = f"--{name.replace('_', '-')}"
            if values and len(values) > 2:
                raise BadInput(f"{flag}: got it {len(values)} times, expected once for both files, or twice")
            told[name] = values[min(which, len(values) - 1)] if values else None
        space = told.pop("space")
        if space not in (None, "RGB", "BGR"):
            raise BadInput(f"--space: got '{space}', expected RGB or BGR")
        readings.append(make_reading(**told, bgr=None if space is None else space == "BGR"))
    return tuple(readings)


def open_samples(
    images: list[Path] | None, dataset: str | None, data_root: Path | None, limit: int
) -> tuple[Any, tuple[str, ...] | None]:
    """Real images, evenly spread over what was named, and the classes of a labelled split."""
    from kdbench.comparison.parity_files import unlabelled
    from kdbench.data import DATASETS, open_dataset
    from kdbench.data.open import join_dataset
    from kdbench.data.spread import spread

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
