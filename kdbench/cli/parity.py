"""``kdbench parity``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, json_result
from kdbench.errors import BadInput, RunFailed
from kdbench.runs.tree import PRECISIONS

UNKNOWN_CLASSES = 256
"""Class ids that a file without names and logits may return."""


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

    from exporters.parity import compare_outputs, drift
    from kdbench.backends.onnx_file import OnnxFile
    from kdbench.data.preprocessing import parse_size
    from kdbench.machine.cores import answer_threads

    options: dict[str, Any] = {
        "size": parse_size(size) if size else None, "mean": triple("--mean", mean), "std": triple("--std", std),
        "threads": answer_threads(), "spinning": False,  # two engines take turns in this process
    }  # fmt: skip
    if tolerance is not None and tolerance not in PRECISIONS:
        raise BadInput(f"--tolerance: got '{tolerance}', expected one of {', '.join(PRECISIONS)}")
    with json_result(json_file) as document:
        files = [OnnxFile.open(path, **options) for path in (reference, candidate)]
        about = files[0].about or files[1].about
        samples, names = open_samples(images, dataset or (None if images else about.get("dataset")), data_root, limit)
        classes = class_names(files, about, names)
        precision = tolerance or max((f.about.get("precision", "fp32") for f in files), key=PRECISIONS.index)
        result = compare_outputs(files[0], files[1], samples, classes)
        for file in files:
            file.close()
        problem = drift(result, precision, str(reference))
        document.update(
            reference=reference.as_posix(), candidate=candidate.as_posix(), tolerance=precision,
            verdict="drift" if problem else "same", reason=problem, classes=list(result.classes), **result.as_json(),
        )  # fmt: skip
        console = Console(width=None if sys.stdout.isatty() else 120)
        for file in files:
            if file.assumption:
                console.print(f"note: {file.assumption}", markup=False, highlight=False, soft_wrap=True)
        print_parity(result, console)
        if problem:
            raise RunFailed(f"'{candidate}' is not the model of '{reference}': {problem}")
        if precision == "int8" and not result.labelled:
            console.print(
                "no labels, so the loss of mIoU was not judged: --dataset and --data-root give a labelled split"
            )
        console.print(f"same model, by the tolerance of {precision}", highlight=False)


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
    import numpy as np

    from kdbench.data import DATASETS, Sample, open_dataset
    from kdbench.data.base import read_image
    from kdbench.predict.images import find_images

    if images and dataset:
        raise BadInput("--images and --dataset: got both, expected one of them")
    if images:
        files, problems = find_images(images)
        if problems:
            raise BadInput(problems[0])
        found = []
        for path in files[:: -(-len(files) // limit)]:
            pixels = read_image(path)
            found.append(Sample(path.name, pixels, np.full(pixels.shape[:2], 255, np.uint8)))
        return found, None
    if dataset is None or (DATASETS[dataset].holds and data_root is None):
        hint = f" --dataset {dataset} --data-root FOLDER" if dataset else " --dataset NAME --data-root FOLDER"
        raise BadInput(f"kdbench parity: expected real images to compare on: give --images FOLDER, or{hint}")
    from torch.utils.data import Subset

    split: Any = open_dataset(dataset, "val", data_root)
    return Subset(split, range(0, len(split), -(-len(split) // limit))), split.classes


def class_names(files: list[Any], about: dict[str, Any], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """What class ids mean: the dataset's classes, or those of our metadata, or numbers.

    Raises:
        BadInput: the files, or a file and the dataset, have different numbers of classes.
    """
    counts = [len(names)] if names else []
    counts += [file.classes or len(file.about.get("classes", [])) for file in files]
    known = [count for count in counts if count]
    if len(set(known)) > 1:
        raise BadInput(f"got {' and '.join(map(str, dict.fromkeys(known)))} classes, expected the same everywhere")
    if names or about.get("classes"):
        return tuple(names or about["classes"])
    return tuple(f"class {i}" for i in range(known[0] if known else UNKNOWN_CLASSES))


def print_parity(result: Any, console: Any) -> None:
    """Per class: IoU of both against the labels, or of one against the other where there are none."""
    import math

    from rich.table import Table

    report = result.as_json()
    labelled = result.labelled
    table = Table("class", "IoU reference", "IoU candidate", "change") if labelled else Table("class", "same (IoU)")

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f}"

    for index, name in enumerate(result.classes):
        if labelled:
            change = result.class_changes()[index]
            mark = "  ◄ lost over 2 points" if name in report["worse_classes"] else ""
            shown = "–" if math.isnan(change) else f"{100 * change:+.2f}{mark}"
            table.add_row(name, percent(report["iou_reference"][index]), percent(report["iou_candidate"][index]), shown)
        elif report["class_agreement"][index] is not None:
            table.add_row(name, percent(report["class_agreement"][index]))
    console.print(table)
    lines = [f"{report['images']} images, {100 * report['pixel_agreement']:.3f}% of pixels have the same class"]
    if labelled:
        before, after = report["miou_reference"], report["miou_candidate"]
        lines.append(f"mIoU {percent(before)} → {percent(after)} ({100 * (after - before):+.2f})")
    if report["max_logit_difference"] is not None:
        lines.append(f"largest difference of a logit {report['max_logit_difference']:.3g}")
    console.print("; ".join(lines), highlight=False)
