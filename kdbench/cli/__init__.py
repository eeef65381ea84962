"""The command line: a module per command; heavy imports are inside them, so that ``kdbench --help`` answers at once.

The only part of the core that imports trainers and exporters.
"""

# In the order of --help.
from kdbench.cli import (
    compare,
    data,
    demo,
    doctor,
    export,
    import_,
    model,
    parity,
    plot,
    predict,
    regress,
    report,
    sweep,
    train,
)
from kdbench.cli.app import app, main

__all__ = [
    "app",
    "compare",
    "data",
    "demo",
    "doctor",
    "export",
    "import_",
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
