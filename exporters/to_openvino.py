"""A trained student to an OpenVINO IR."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from exporters.export_job import ExportJob
from exporters.quantise import quantise_for_openvino
from exporters.steps import STEPS, Step, Written
from kdbench.backends.openvino_runtime import OpenVinoBackend
from kdbench.errors import BackendUnavailable, BadInput, RunFailed, one_line
from kdbench.machine.cores import answer_threads


def write_openvino(job: ExportJob, precision: str, path: Path) -> Written:
    """Convert the graph with elementwise upsampling and argmax, which OpenVINO fuses (``upsampled_argmax``).

    Raises:
        BackendUnavailable: OpenVINO is not installed. RunFailed: it cannot convert or run the graph.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f"openvino cannot be imported ({error}): `pip install openvino`") from error

    graph = job.graph(elementwise=job.output == "mask")
    try:
        model = openvino.Core().read_model(graph)
    except RuntimeError as error:  # OpenVINO's own; the last lines name the operator
        raise RunFailed(f"OpenVINO cannot convert the graph: {one_line(str(error)[-300:])}") from error
    if precision == "int8":
        model = quantise_for_openvino(model, job.calibration_batches(), job.float_layers)
    openvino.save_model(model, path, compress_to_fp16=False)
    operators = [op.get_type_name() for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]
    try:
        candidate = OpenVinoBackend.open(path, output=job.output, precision=precision, threads=answer_threads())
    except BadInput as error:  # the file is ours, and nothing that a person gave
        raise RunFailed(str(error)) from error
    return Written(
        {"nodes": len(operators), "operators": dict(Counter(operators).most_common())},
        candidate,
    )


STEPS.add(Step("openvino", write_openvino))
