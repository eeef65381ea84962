"""Backends: one file per engine, each a class with ``load``, ``infer`` and ``close``."""

from kdbench.backends.base import Backend
from kdbench.backends.load import artifact_of, load_backend, precisions_of, runs_checkpoints

__all__ = ["Backend", "artifact_of", "load_backend", "precisions_of", "runs_checkpoints"]
