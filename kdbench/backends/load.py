"""Choose a backend by its name on the command line, and load an artifact into it."""

from __future__ import annotations

import os
from pathlib import Path

from kdbench.artifacts import RunTree
from kdbench.backends.base import Backend
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput

BACKENDS = ("torch", "onnx", "trt", "openvino")


def artifact_of(tree: RunTree, method: str, backend: str, precision: str, output: str) -> Path:
    """The file that a backend loads for a method: the checkpoint itself for torch, an export for the others."""
    return tree.checkpoint(method) if backend == "torch" else tree.export(method, backend, precision, output)


def load_backend(
    name: str, artifact: Path, *, output: str, size: Size | None = None, device: str = "cpu", threads: int = 0
) -> Backend:
    """Load ``artifact`` into the backend ``name``; ``threads=0`` means one per core. See ``Backend.load``."""
    threads = threads or os.cpu_count() or 1
    if name == "torch":
        from kdbench.backends.torch_eager import TorchBackend

        return TorchBackend.load(artifact, output=output, size=size, device=device, threads=threads)
    if name == "onnx":
        from kdbench.backends.onnx_runtime import OnnxBackend

        return OnnxBackend.load(artifact, output=output, size=size, device=device, threads=threads)
    if name == "trt":
        from kdbench.backends.tensorrt_engine import TensorRTBackend

        return TensorRTBackend.load(artifact, output=output, size=size, device=device, threads=threads)
    if name == "openvino":
        from kdbench.backends.openvino_runtime import OpenVinoBackend

        return OpenVinoBackend.load(artifact, output=output, size=size, device=device, threads=threads)
    raise BadInput(f"--backend: got '{name}', expected one of {', '.join(BACKENDS)}")
