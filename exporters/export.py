"""Every export of one method that was asked for, each attempt with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters.export_job import ExportJob
from exporters.to_onnx import export_onnx
from exporters.to_openvino import PRECISIONS as OPENVINO_PRECISIONS
from exporters.to_openvino import export_openvino
from exporters.to_tensorrt import export_tensorrt
from kdbench.errors import BackendUnavailable, RunFailed
from kdbench.runs.files import read_json
from kdbench.runs.tree import sidecar_path


@dataclass(frozen=True)
class Attempt:
    """One export: made, skipped because this machine cannot, or failed because the result was not the model.

    Attributes:
        reason: why it was skipped or failed.
        path: the file that was made, with ``sidecar``.
    """

    method: str
    format: str
    precision: str
    status: Literal["made", "skipped", "failed"]
    reason: str | None = None
    path: Path | None = None
    sidecar: dict[str, Any] | None = None


def export_all(
    job: ExportJob,
    formats: Sequence[str],
    precisions: Sequence[str],
    capabilities: tuple[str, ...] = (),
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
) -> None:
    """Make every format in every precision; ``on_attempt`` is called after each.

    TensorRT's fp32 and fp16 engines are built from the ONNX export of that precision, which is made first where it is
    missing or older than the checkpoint.

    Raises:
        Missing, BadInput: what was asked for makes no sense, for every format alike.
    """
    for precision in precisions:
        for name in formats:
            if name == "trt" and "onnx" not in formats and precision != "int8" and not is_current(job, precision):
                on_attempt(attempt(job, "onnx", precision, export_onnx))
            if name == "openvino" and precision not in OPENVINO_PRECISIONS:
                reason = "OpenVINO exports are fp32 or int8; it chooses half precision itself where a processor has it"
                on_attempt(Attempt(job.method, name, precision, "skipped", reason))
            elif name == "trt":
                on_attempt(attempt(job, name, precision, lambda j, p: export_tensorrt(j, p, capabilities)))
            else:
                on_attempt(attempt(job, name, precision, export_onnx if name == "onnx" else export_openvino))


def attempt(job: ExportJob, name: str, precision: str, export: Callable[[ExportJob, str], Path]) -> Attempt:
    """Run one exporter and turn what a table can show into a row of it."""
    try:
        path = export(job, precision)
    except (BackendUnavailable, RunFailed) as error:
        status: Literal["skipped", "failed"] = "skipped" if isinstance(error, BackendUnavailable) else "failed"
        return Attempt(job.method, name, precision, status, " ".join(str(error).split()))
    return Attempt(job.method, name, precision, "made", None, path, read_json(sidecar_path(path), "kdbench export"))


def is_current(job: ExportJob, precision: str) -> bool:
    """Whether the ONNX export of a precision fits the job's checkpoint, size and batch."""
    path = job.path("onnx", precision)
    if not (path.exists() and sidecar_path(path).exists()):
        return False
    sidecar = read_json(sidecar_path(path), "kdbench export")
    wanted = job.about()
    return all(sidecar.get(key) == wanted[key] for key in ("checkpoint_sha256", "size", "batch"))
