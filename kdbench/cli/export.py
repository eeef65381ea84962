"""``kdbench export``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import (
    DataRoot,
    Dataset,
    JsonFile,
    OutputOption,
    Runs,
    Variant,
    choose,
    deployable,
    json_result,
    open_trained_dataset,
)
from kdbench.errors import RunFailed
from kdbench.formats import FORMATS, PRECISIONS, companions
from kdbench.methods.base import student_methods
from kdbench.runs.tree import RunTree

if TYPE_CHECKING:
    from rich.table import Table

    from exporters.export import Attempt
    from exporters.stopwatch import Stopwatch

PARITY_IMAGES = 100


@app.command(rebuilds=True, computes=True)
def export(
    method: Annotated[str, typer.Option(help="{students}, an import's name, several with commas, or all trained.")],
    export_format: Annotated[str, typer.Option("--format", help="{format}, several, or all.")] = "all",
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}, several with commas, or all.")] = "fp32",
    output: OutputOption = "mask",
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the engine. Default: that of training.")] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch open; else it is 1.")] = False,
    keep_float: Annotated[
        str, typer.Option(help="int8: layers that stay in float: names with commas, or how many of the worst.")
    ] = "",
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Keep exports that differ more than their precision may.")
    ] = False,
    compute_capability: Annotated[
        str | None, typer.Option(help="GPUs that tensorrt-rtx builds for ahead of time, for example SM86,SM89.")
    ] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    variant: Variant = None,
    json_file: JsonFile = None,
) -> None:
    """Turn trained students into ONNX, TensorRT and OpenVINO files, each compared with PyTorch before it is kept.

    Parity is measured on 100 validation images: fp32 must give PyTorch's class to 99.9% of pixels, fp16 to 99.5%,
    int8 may lose 1.0 point of mIoU. What this machine cannot make is skipped with the reason.

    Examples:
      kdbench export --method feature
      kdbench export --method all --format all --precision all
      kdbench export --method response --format onnx,openvino --precision int8 --keep-float 3
    """
    tree = RunTree.find(runs, dataset, variant)
    trained = tuple(m for m in student_methods() if tree.checkpoint(m).exists())
    with json_result(json_file) as document:
        options = ExportOptions(
            choose("--method", method, deployable(tree), trained or student_methods()),
            choose("--format", export_format, FORMATS.names(), FORMATS.names()),
            choose("--precision", precision, PRECISIONS, PRECISIONS),
            choose("--output", output, ("mask", "logits"))[0],
            size=size, dynamic_batch=dynamic_batch, keep_float=keep_float, allow_drift=allow_drift,
            compute_capability=compute_capability,
        )  # fmt: skip
        run_export(tree, options, data_root, document)


@dataclass(frozen=True)
class ExportOptions:
    """What to export; see ``kdbench export --help``."""

    methods: tuple[str, ...]
    formats: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    output: str = "mask"
    size: str | None = None
    dynamic_batch: bool = False
    keep_float: str = ""
    allow_drift: bool = False
    compute_capability: str | None = None


def run_export(
    tree: RunTree, options: ExportOptions, data_root: Path | None = None, document: dict[str, Any] | None = None
) -> None:
    """Export, then print a table of what was made, skipped and failed, even when a later export raises.

    Args:
        data_root: the dataset's folder; None = where it was at training.
        document: gets ``exports``, the same for --json.
    """
    from exporters.export import export_all, failed_attempts
    from exporters.export_job import ExportJob
    from exporters.imported import ImportedJob
    from exporters.quantise import calibration_images
    from kdbench.data.preprocessing import parse_size
    from kdbench.data.spread import spread
    from kdbench.progress import progress_bar

    names = tuple(part.strip() for part in options.keep_float.split(",") if part.strip())
    wanted = parse_size(options.size) if options.size else None
    capability = options.compute_capability
    capabilities = tuple(c.strip() for c in capability.split(",")) if capability else ()
    validation = open_trained_dataset(tree, data_root, options.methods[0])
    samples = spread(validation, PARITY_IMAGES)
    calibration = []
    if "int8" in options.precisions:
        train_set = open_trained_dataset(tree, data_root, options.methods[0], "train")
        calibration = [train_set[i].image for i in calibration_images(len(train_set))]
    attempts: list[Attempt] = []
    times: dict[str, Stopwatch] = {}
    kept: Any = int(names[0]) if len(names) == 1 and names[0].isdigit() else names
    try:
        steps = len(options.methods) * len(options.formats) * len(options.precisions)
        with progress_bar("export", steps) as bar:

            def count(attempt: Attempt) -> None:
                attempts.append(attempt)
                bar.advance(1, f"{attempt.method} {attempt.format} {attempt.precision}: {attempt.status}")

            for method in options.methods:
                try:
                    job = (ImportedJob if tree.is_import(method) else ExportJob)(
                        tree, method, options.output, wanted, samples, calibration, kept, options.allow_drift,
                        options.dynamic_batch, capabilities,
                    )  # fmt: skip
                except Exception as error:
                    if len(options.methods) == 1:
                        raise
                    for attempt in failed_attempts(method, options.formats, options.precisions, error):
                        count(attempt)
                    continue
                with job:
                    export_all(job, options.formats, options.precisions, count)
                times[method] = job.watch
    finally:
        print_attempts(attempts)
        for method, watch in times.items():
            print(f"{method} took {watch.told()}")
        if document is not None:
            document.update(
                exports=[as_json(attempt) for attempt in attempts],
                seconds={method: watch.seconds for method, watch in times.items()},
            )
    raise_if_failed(attempts)


def raise_if_failed(attempts: list[Attempt]) -> None:
    """Raise what ends the command after its table.

    Raises:
        BadInput: every failure is the same refusal of what was asked for.
        RunFailed: something failed, or nothing could be made here.
    """
    failed = [attempt for attempt in attempts if attempt.status == "failed"]
    if failed:
        if failed[0].refused is not None and len({attempt.reason for attempt in failed}) == 1:
            raise failed[0].refused
        raise RunFailed(f"{len(failed)} of {len(attempts)} exports failed, the reasons stand in the table above")
    tried = [attempt for attempt in attempts if attempt.status != "unsupported"]
    if tried and not any(attempt.status == "made" for attempt in tried):
        raise RunFailed("nothing could be exported on this machine: the reasons stand in the table above")


def as_json(attempt: Attempt) -> dict[str, Any]:
    """An attempt for --json: parity is what the export's own .json says."""
    return {
        "method": attempt.method, "format": attempt.format, "precision": attempt.precision, "status": attempt.status,
        "reason": attempt.reason, "path": attempt.path and attempt.path.as_posix(),
        "parity": (attempt.sidecar or {}).get("parity"),
    }  # fmt: skip


def print_attempts(attempts: list[Attempt]) -> None:
    """The table on stdout, then one line per file, per reason, and per int8 export what 8 bits hurt."""
    from rich.console import Console
    from rich.table import Table

    from kdbench.comparison.numbers import difference, fraction

    if not attempts:
        return
    references = list(dict.fromkeys(map(reference_of, attempts)))
    same = f"pixels as {references[0] if len(references) == 1 else 'the reference'}"
    table = Table("method", "format", "precision", "", "MB", "nodes", same, "mIoU", "change")
    lines, ranked = [], set[str]()
    for attempt in attempts:
        sidecar = attempt.sidecar or {}
        parity = sidecar.get("parity") or {}
        name = f"{attempt.method} {attempt.format} {attempt.precision}"
        size = sum(file.stat().st_size for file in (attempt.path, *companions(attempt.path))) if attempt.path else None
        miou, before = parity.get("miou_candidate"), parity.get("miou_reference")
        table.add_row(
            attempt.method, attempt.format, attempt.precision, attempt.status,
            "" if size is None else f"{size / 1e6:.1f}",
            str(sidecar.get("nodes", sidecar.get("network_layers", ""))),
            f"{100 * parity['pixel_agreement']:.3f}%" if parity else "",
            "" if miou is None else fraction(miou),
            "" if miou is None or before is None else difference(miou - before),
        )  # fmt: skip
        lines.append(f"{name}: {attempt.path}" if attempt.path else f"{name}: {attempt.status}: {attempt.reason}")
        if parity.get("classes_seen") == 1:
            lines[-1] += f" ({one_class(parity)})"
        if sidecar.get("layer_errors") and attempt.method not in ranked:
            ranked.add(attempt.method)  # the ranking is the model's, the same for every format
            worst = ", ".join(f"{e['layer']} ({100 * e['logit_error']:.1f}%)" for e in sidecar["layer_errors"][:5])
            kept = ", ".join(sidecar["keep_float"]) or "none"
            lines.append(
                f"{attempt.method} int8: 8 bits hurt most in {worst}, as error of the logits when that layer alone has "
                f"them; kept in float: {kept}"
            )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for method in dict.fromkeys(attempt.method for attempt in attempts):
        made = [attempt for attempt in attempts if attempt.method == method and attempt.sidecar]
        if made:
            console.print(class_table(method, made))
    print("\n".join(lines))


def one_class(parity: dict[str, Any]) -> str:
    """What a person should know where PyTorch's masks hold one class: what else there is to judge by."""
    said = "one class everywhere on these images: agreement proves little"
    if parity["max_logit_difference"] is None:
        return f"{said}, and the file does not show its logits"
    return f"{said}; logits differ by up to {parity['max_logit_difference']:.2g} of {parity['logit_range']:.2g}"


def reference_of(attempt: Attempt) -> str:
    """What an export was held against."""
    return str((attempt.sidecar or {}).get("reference", "PyTorch"))


def class_table(method: str, made: list[Attempt]) -> Table:
    """IoU per class in PyTorch, and what each export of a method changes; a loss of over 2 points is marked."""
    from rich.table import Table

    from kdbench.comparison.numbers import NOTHING, difference, fraction

    sidecars = [attempt.sidecar or {} for attempt in made]
    reference = reference_of(made[-1])
    table = Table("IoU per class", reference, title=f"{method}: change against {reference} (◄ lost over 2 points)")
    for attempt in made:
        table.add_column(f"{attempt.format} {attempt.precision}", justify="right")
    for index, name in enumerate(sidecars[0]["classes"]):
        before = [sidecar["parity"]["iou_reference"][index] for sidecar in sidecars]
        cells = [fraction(before[0])]
        for reference, sidecar in zip(before, sidecars, strict=True):
            value = sidecar["parity"]["iou_candidate"][index]
            mark = " ◄" if name in sidecar["parity"]["worse_classes"] else ""
            cells.append(NOTHING if None in (value, reference) else f"{difference(value - reference)}{mark}")
        table.add_row(name, *cells)
    return table
