"""A trained student to an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.export_job import ExportJob
from exporters.graph import describe_graph
from exporters.quantise import percentile_images, quantise_for_onnxruntime
from exporters.steps import STEPS, Step, Written
from kdbench.backends.onnx_metadata import write_metadata
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.errors import BadInput, RunFailed
from kdbench.machine.cores import answer_threads
from kdbench.machine.environment import git_revision


def write_onnx(job: ExportJob, precision: str, path: Path) -> Written:
    """The traced graph; fp16 has float16 weights and activations, float or uint8 at the border; int8 has Q/DQ."""
    if precision == "int8":
        quantise_for_onnxruntime(job.graph(), path, job.calibration_batches(), job.float_layers)
    else:
        path.write_bytes(job.graph(half=precision == "fp16").read_bytes())
    model = finish_graph(path, job, precision)
    fields = describe_graph(model)
    if precision == "int8":
        fields["calibration_images"] = len(percentile_images(len(job.calibration)))
    return Written(fields, open_onnx(path, job), path)


def open_onnx(path: Path, job: ExportJob) -> OnnxBackend:
    """A graph in ONNX Runtime, on few threads: PyTorch takes turns with it.

    Raises:
        RunFailed: ONNX Runtime does not run it.
    """
    try:
        return OnnxBackend.open(path, output=job.output, threads=answer_threads(), spinning=False)
    except BadInput as error:  # the file is ours, and nothing that a person gave
        raise RunFailed(str(error)) from error


def finish_graph(path: Path, job: ExportJob, precision: str) -> Any:
    """Check a written graph and put into it what ``kdbench predict`` needs; returns the model."""
    import onnx

    model = onnx.load(path)
    write_metadata(
        model,
        {
            "method": job.method,
            "dataset": job.tree.dataset,
            "classes": job.trained["classes"],
            "palette": job.trained["palette"],
            "size": list(job.size or ()),
            "output": job.output,
            "precision": precision,
            "normalisation": job.input.as_json(),
            "checkpoint_sha256": job.trained["sha256"],
            "git": git_revision(),
            "training": job.training_sidecar(),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return model


STEPS.add(Step("onnx", write_onnx))
