"""A trained student to an OpenVINO IR."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from exporters.export_job import ExportJob
from exporters.quantise import quantise_for_openvino
from exporters.steps import STEPS, Step, Written
from kdbench.backends.openvino_runtime import OpenVinoBackend
from kdbench.errors import BackendUnavailable
from kdbench.machine.cores import answer_threads


def write_openvino(job: ExportJob, precision: str, path: Path) -> Written:
    """Convert the graph with elementwise upsampling and argmax, which OpenVINO fuses (``upsampled_argmax``).

    Raises:
        BackendUnavailable: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f"openvino cannot be imported ({error}): `pip install openvino`") from error

    model = openvino.Core().read_model(job.graph(elementwise=job.output == "mask"))
    if precision == "int8":
        model = quantise_for_openvino(model, job.calibration_batches(), job.float_layers)
    openvino.save_model(model, path, compress_to_fp16=False)
    operators = [op.get_type_name() for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]
    return Written(
        {"nodes": len(operators), "operators": dict(Counter(operators).most_common())},
        OpenVinoBackend.open(path, output=job.output, precision=precision, threads=answer_threads()),
    )


STEPS.add(Step("openvino", write_openvino))
