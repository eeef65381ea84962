"""A trained student to an OpenVINO IR: ``<output>.xml``, its weights in ``<output>.bin``, and the sidecar."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from exporters.export_job import ExportJob
from exporters.parity import compare_outputs, require_parity
from exporters.quantise import quantise_for_openvino
from kdbench.backends.openvino_runtime import OpenVinoBackend
from kdbench.errors import BackendUnavailable
from kdbench.machine.cores import answer_threads
from kdbench.runs.files import put_in_place, sha256, write_json
from kdbench.runs.tree import sidecar_path

PRECISIONS = ("fp32", "int8")
"""OpenVINO chooses half precision itself, by the processor; an IR in fp16 would only be a smaller file."""


def export_openvino(job: ExportJob, precision: str) -> Path:
    """Convert, run beside PyTorch, and only then put both files in their place.

    The graph is the one with elementwise upsampling and argmax, which OpenVINO fuses (``upsampled_argmax``).

    Returns:
        Path of the ``.xml`` file.

    Raises:
        BackendUnavailable: OpenVINO is not installed. RunFailed: its outputs are not the model's.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f"openvino cannot be imported ({error}): `pip install openvino`") from error

    path = job.path("openvino", precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = openvino.Core().read_model(job.graph(elementwise=job.output == "mask"))
    if precision == "int8":
        model = quantise_for_openvino(model, job.calibration_batches(), job.float_layers)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        temporary = Path(folder) / path.name
        openvino.save_model(model, temporary, compress_to_fp16=False)
        candidate = OpenVinoBackend.open(temporary, output=job.output, precision=precision, threads=answer_threads())
        candidate.input = job.model.input
        parity = compare_outputs(job.reference, candidate, job.samples, job.trained["classes"])
        candidate.close()
        if not job.allow_drift:
            require_parity(parity, precision, f"{job.method} openvino {precision} {job.output}")
        weights = path.with_suffix(".bin")
        put_in_place(temporary.with_suffix(".bin"), weights)
        put_in_place(temporary, path)
    operators = [op.get_type_name() for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]
    write_json(
        sidecar_path(path),
        {
            **job.about(),
            "format": "openvino",
            "precision": precision,
            "nodes": len(operators),
            "operators": dict(Counter(operators).most_common()),
            **(job.int8_fields() if precision == "int8" else {}),
            "parity": parity.as_json(),
            "weights": {"file": weights.name, "sha256": sha256(weights), "bytes": weights.stat().st_size},
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
        },
    )
    return path
