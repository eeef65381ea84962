"""The command line: a module per command; heavy imports are inside them, so that ``kdbench --help`` answers at once.

The only part of the core that imports trainers and exporters.
"""

from kdbench.cli import (  # noqa: I001  in the order of --help
    train,
    sweep,
    import_,
    export,
    compare,
    choose,
    package,
    regress,
    parity,
    plot,
    report,
    predict,
    model,
    doctor,
    demo,
    data,
)
from kdbench.cli.app import app, main

__all__ = [
    "app",
    "choose",
    "compare",
    "data",
    "demo",
    "doctor",
    "export",
    "import_",
    "main",
    "model",
    "package",
    "parity",
    "plot",
    "predict",
    "regress",
    "report",
    "sweep",
    "train",
]
