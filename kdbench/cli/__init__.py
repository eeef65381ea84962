"""The command line: a module per command; heavy imports are inside them, so that ``kdbench --help`` answers at once.

The only part of the core that imports trainers and exporters.
"""

from kdbench.cli import (
    train,
    sweep,
    export,
    compare,
    choose,
    regress,
    parity,
    plot,
    report,
    predict,
    model,
    doctor,
    demo,
    data,
)  # noqa: I001  in the order of --help
from kdbench.cli.app import app, main

__all__ = [
    "app",
    "choose",
    "compare",
    "data",
    "demo",
    "doctor",
    "export",
    "main",
    "model",
    "parity",
    "plot",
    "predict",
    "regress",
    "report",
    "sweep",
    "train",
]
