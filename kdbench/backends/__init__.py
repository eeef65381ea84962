"""Backends: one file per engine, which declares itself and has a class with ``load``, ``infer`` and ``close``."""

from kdbench.backends.base import Backend
from kdbench.backends.declared import BACKENDS, DeclaredBackend, usual_backends
from kdbench.backends.load import artifact_of, load_backend, reference_of, runs_checkpoints

__all__ = [
    "BACKENDS",
    "Backend",
    "DeclaredBackend",
    "artifact_of",
    "load_backend",
    "reference_of",
    "runs_checkpoints",
    "usual_backends",
]
