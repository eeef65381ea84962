"""``kdbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.artifacts import STUDENT_METHODS, RunTree
from kdbench.cli.app import app
from kdbench.cli.options import DataRoot, Dataset, OutputOption, Runs, choose, open_trained_dataset


@app.command()
def export(
    method: Annotated[str, typer.Option(help=f"{', '.join(STUDENT_METHODS)}, several with commas, or all trained.")],
    export_format: Annotated[str, typer.Option("--format", help="onnx, trt, several with commas, or all.")] = "all",
    precision: Annotated[str, typer.Option(help="fp32.")] = "fp32",
    output: OutputOption = "mask",
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the engine. Default: that of training.")] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
) -> None:
    """Turn trained students into ONNX files and TensorRT engines, each compared with PyTorch before it is kept.

    Examples:
      kdbench export --method feature
      kdbench export --method all --format onnx --output logits --size 512x512
    """
    tree = RunTree.find(runs, dataset)
    trained = tuple(m for m in STUDENT_METHODS if tree.checkpoint(m).exists())
    methods = choose("--method", method, STUDENT_METHODS, trained or STUDENT_METHODS)
    formats = choose("--format", export_format, ("onnx", "trt"), ("onnx", "trt"))
    for made in run_export(tree, methods, formats, precision, output, size, data_root):
        print(made)


def run_export(
    tree: RunTree,
    methods: tuple[str, ...],
    formats: tuple[str, ...],
    precision: str,
    output: str,
    size: str | None,
    data_root: Path | None,
) -> list[str]:
    """Export and return one line per artifact made; TensorRT is skipped with its reason when nothing builds it."""
    from exporters.to_onnx import export_onnx
    from exporters.to_tensorrt import export_tensorrt
    from kdbench.data.preprocessing import parse_size
    from kdbench.errors import BackendUnavailable
    from kdbench.progress import progress_bar

    choose("--precision", precision, ("fp32",))
    choose("--output", output, ("mask", "logits"))
    wanted = parse_size(size) if size else None
    validation = open_trained_dataset(tree, data_root, methods[0])
    images = [validation[i].image for i in range(min(8, len(validation)))]
    lines = []
    with progress_bar("export", len(methods) * len(formats)) as bar:
        for method in methods:
            for name in formats:
                if name == "onnx":
                    made = export_onnx(tree, method, output=output, size=wanted, images=images)
                    lines.append(f"{method} onnx {precision}: {made}")
                else:
                    try:
                        made = export_tensorrt(tree, method, output=output)
                        lines.append(f"{method} trt {precision}: {made}")
                    except BackendUnavailable as error:
                        lines.append(f"{method} trt {precision}: skipped: {error}")
                bar.advance(1, f"{method} {name}")
    return lines
