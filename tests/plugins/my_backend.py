"""A backend from outside, as one file: ONNX Runtime that runs the graph as it was exported, without its optimisers.

kdbench --plugin tests/plugins/my_backend.py compare --backend onnx,mine
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.backends import BACKENDS, Backend, DeclaredBackend
from kdbench.backends.exported import read_export
from kdbench.errors import BackendUnavailable
from kdbench.machine.checks import Check, Gpu, cpu, package_row, try_import

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdbench.data.preprocessing import Size


class MyBackend(Backend):
    """An ``.onnx`` export, operator by operator as PyTorch's exporter wrote it."""

    _session: Any

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> MyBackend:
        if device != "cpu":
            raise BackendUnavailable(f"mine: got --device {device}, it runs on the CPU alone: use --device cpu")
        sidecar = read_export(artifact, "onnx", size)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        backend = cls()
        backend._session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        backend.output, backend.size = output, tuple(sidecar["size"])
        backend.details = {"device": device, "optimised": False, "precision": sidecar["precision"]}
        return backend

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        return self._session.run(None, {"image": batch})[0]

    def close(self) -> None:
        del self._session


def probe(gpu: Gpu | None) -> list[Check]:
    return [package_row("mine", "My engine", try_import("onnxruntime", "onnxruntime"), cpu(), ("fp32",), None)]


BACKENDS.add(
    DeclaredBackend(
        "mine",
        MyBackend.load,
        probe,
        loads="onnx",
        precisions=("fp32",),
        unsupported={"int8": "it reads float files alone"},
        color="#CC79A7",
    )
)
