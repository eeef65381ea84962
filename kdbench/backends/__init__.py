"""Backends: one file per engine, each a class with ``load``, ``infer`` and ``close``."""

from kdbench.backends.base import Backend
from kdbench.backends.load import BACKENDS, artifact_of, load_backend

__all__ = ["BACKENDS", "Backend", "artifact_of", "load_backend"]
