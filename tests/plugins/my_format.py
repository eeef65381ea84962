"""A format from outside, and the backend that loads it, as one file: ONNX whose weights lie in a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.steps import STEPS, Step, Written
from kdbench.backends import BACKENDS, DeclaredBackend
from kdbench.backends.exported import read_export
from kdbench.formats import FORMATS, Format
from kdbench.machine.checks import Check, Gpu, cpu, package_row, try_import

if TYPE_CHECKING:
    from kdbench.backends import Backend

FORMATS.add(Format("onnx-apart", "ONNX apart", "graph", companions={"weights": "weights"}, precisions=("fp32",)))


def write(job: Any, precision: str, path: Path) -> Written:
    import onnx

    from exporters.to_onnx import open_onnx

    weights = path.with_suffix(".weights").name
    onnx.save(onnx.load(job.graph()), path, save_as_external_data=True, location=weights)
    return Written({"made_by": "my_format"}, open_onnx(path, job))


STEPS.add(Step("onnx-apart", write))


def load(artifact: Path, *, output: str, size: Any, device: str, threads: int) -> Backend:
    from kdbench.backends.onnx_runtime import OnnxBackend

    read_export(artifact, "onnx-apart", size)
    return OnnxBackend.open(artifact, output=output, device=device, threads=threads)


def probe(gpu: Gpu | None) -> list[Check]:
    return [package_row("apart", "ONNX apart", try_import("onnx", "onnx"), cpu(), ("fp32",), None)]


BACKENDS.add(DeclaredBackend("apart", load, probe, loads="onnx-apart"))
