"""A trained student to an ONNX file, compared with PyTorch on real images before it is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from exporters.export_job import ExportJob
from exporters.graph import describe_value
from exporters.parity import Parity, compare_outputs, require_parity
from exporters.quantise import quantise_for_onnxruntime
from kdbench.backends.onnx_metadata import write_metadata
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.machine.cores import answer_threads
from kdbench.machine.environment import git_revision
from kdbench.runs.files import atomic_path, sha256, write_json
from kdbench.runs.tree import sidecar_path


def export_onnx(job: ExportJob, precision: str) -> Path:
    """Export, check, run in ONNX Runtime beside PyTorch, and only then put the file in its place.

    Args:
        precision: "fp32"; "fp16" (float16 weights and activations, float or uint8 at the border); or "int8" (Q/DQ).

    Returns:
        Path of the ``.onnx`` file; its sidecar is beside it.

    Raises:
        RunFailed: the graph or its outputs are not the model's.
    """
    path = job.path("onnx", precision)
    with atomic_path(path) as temporary:
        if precision == "int8":
            quantise_for_onnxruntime(job.graph(), temporary, job.calibration_batches(), job.float_layers)
        else:
            temporary.write_bytes(job.graph(half=precision == "fp16").read_bytes())
        model = finish_graph(temporary, job, precision)
        parity = check_onnx(temporary, job, precision, f"{job.method} onnx {precision} {job.output}")
    write_json(
        sidecar_path(path),
        {
            **job.about(),
            "format": "onnx",
            "precision": precision,
            "inputs": [describe_value(value) for value in model.graph.input],
            "outputs": [describe_value(value) for value in model.graph.output],
            "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
            "nodes": len(model.graph.node),
            "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
            **(job.int8_fields() if precision == "int8" else {}),
            "parity": parity.as_json(),
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
        },
    )
    return path


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
            "normalisation": {"mean": list(job.model.input.mean), "std": list(job.model.input.std)},
            "checkpoint_sha256": job.trained["sha256"],
            "git": git_revision(),
            "training": job.training_sidecar(),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return model


def check_onnx(path: Path, job: ExportJob, precision: str, what: str) -> Parity:
    """Hold an ONNX file against PyTorch in ONNX Runtime.

    Raises:
        RunFailed: it drifted further than its precision may, and drift is not allowed.
    """
    candidate = OnnxBackend.open(path, output=job.output, threads=answer_threads(), spinning=False)
    candidate.input = job.model.input
    try:
        parity = compare_outputs(job.reference, candidate, job.samples, job.trained["classes"])
    finally:
        candidate.close()
    if not job.allow_drift:
        require_parity(parity, precision, what)
    return parity
