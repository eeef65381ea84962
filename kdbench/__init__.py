"""kdbench: fair benchmarks and proven exports for distilled segmentation models.

``kdbench.open_dataset``, ``load``, ``evaluate``, ``parity``, ``gate``, ``open_predictor``, ``predict_images``,
``compare`` and ``trust_code`` are the public API; see ``docs/python-api.md``.

They are imported when they are asked for, and heavy packages (torch, onnxruntime, tensorrt) where they are used, so
that ``import kdbench`` and ``kdbench --help`` stay fast.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Nothing is sent anywhere: OpenVINO and NNCF report their use where they find this package, Ray unless told not to.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

if TYPE_CHECKING:
    from kdbench.api import (
        KdbenchError,
        compare,
        evaluate,
        gate,
        load,
        open_dataset,
        open_predictor,
        parity,
        predict_images,
        trust_code,
    )
    from kdbench.comparison.parity_files import ParityOptions

__all__ = [
    "KdbenchError",
    "ParityOptions",
    "compare",
    "evaluate",
    "gate",
    "load",
    "open_dataset",
    "open_predictor",
    "parity",
    "predict_images",
    "trust_code",
]


def __getattr__(name: str) -> Any:
    """A public name, imported now (PEP 562)."""
    if name == "ParityOptions":
        from kdbench.comparison.parity_files import ParityOptions

        return ParityOptions
    if name in __all__:
        from kdbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'kdbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
