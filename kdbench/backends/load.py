"""Choose a backend by its name on the command line, and load an artifact into it."""

from __future__ import annotations

import os
from pathlib import Path

from kdbench.backends.base import Backend
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput
from kdbench.runs.tree import BACKENDS, RunTree


def runs_checkpoints(backend: str) -> bool:
    """Whether a backend loads the checkpoint itself, in float32, rather than an export."""
    return backend.startswith("torch")


def precisions_of(backend: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``wanted`` that a backend has rows for: PyTorch runs the float32 checkpoint alone, OpenVINO no fp16."""
    if runs_checkpoints(backend):
        return ("fp32",)
    return tuple(precision for precision in wanted if (backend, precision) != ("openvino", "fp16"))


def artifact_of(tree: RunTree, method: str, backend: str, precision: str, output: str) -> Path:
    """The file that a backend loads for a method: the checkpoint itself for torch, an export for the others."""
    return tree.checkpoint(method) if runs_checkpoints(backend) else tree.export(method, backend, precision, output)


def load_backend(
    name: str, artifact: Path, *, output: str, size: Size | None = None, device: str = "cpu", threads: int = 0
) -> Backend:
    """Load ``artifact`` into the backend ``name``; ``threads=0`` means one per core. See ``Backend.load``."""
    threads = threads or os.cpu_count() or 1
    if name in BACKENDS and runs_checkpoints(name):
        from kdbench.backends.torch_eager import TorchBackend

        return TorchBackend.load(artifact, output=output, size=size, device=device, threads=threads, name=name)
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
