"""Datasets: one sample type, one label convention (class ids 0 … C-1, 255 = ignore), one way to open them all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.data.base import Sample, SegmentationDataset
    from kdbench.data.open import DATASETS, Layout, open_dataset

__all__ = ["DATASETS", "Layout", "Sample", "SegmentationDataset", "open_dataset"]


def __getattr__(name: str) -> Any:
    """Import on demand: naming a dataset on the command line must not wait for numpy."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = "base" if name in ("Sample", "SegmentationDataset") else "open"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
