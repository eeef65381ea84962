"""Choose a backend by its name on the command line, and load an artifact into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.backends.base import Backend
from kdbench.backends.declared import BACKENDS
from kdbench.machine.cores import usable_cores
from kdbench.runs.tree import RunTree

if TYPE_CHECKING:
    from kdbench.data.preprocessing import Size


def runs_checkpoints(backend: str) -> bool:
    """Whether a backend loads the checkpoint itself; False of a name in an old file that nobody declares now."""
    return backend in BACKENDS and BACKENDS[backend].loads is None


def artifact_of(tree: RunTree, method: str, backend: str, precision: str, output: str) -> Path:
    """The file that a backend loads for a method: the checkpoint itself for torch, an export for the others."""
    return BACKENDS[backend].artifact(tree, method, precision, output)


def reference_of(tree: RunTree, method: str) -> tuple[str, Path]:
    """What says how a method's exports should be, as (backend, file): PyTorch, or an imported file's own fp32 run."""
    if tree.is_import(method):
        return "onnx", tree.export(method, "onnx", "fp32", "mask")
    return "torch", tree.checkpoint(method)


def load_backend(
    name: str, artifact: Path, *, output: str, size: Size | None = None, device: str = "cpu", threads: int = 0
) -> Backend:
    """Load ``artifact`` into the backend ``name``; ``threads=0`` means one per core. See ``declared.Load``."""
    threads = threads or usable_cores()
    return BACKENDS[name].load(artifact, output=output, size=size, device=device, threads=threads)
