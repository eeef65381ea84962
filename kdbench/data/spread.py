"""A few of many images, without leaving a part of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kdbench.data.base import Sample, SegmentationDataset


def spread_indices(length: int, most: int) -> list[int]:
    """At most so many of 0 … length − 1, evenly spread, both ends among them."""
    return [round(index) for index in np.linspace(0, length - 1, min(most, length)).tolist()]


def spread(split: SegmentationDataset, most: int) -> Sequence[Sample]:
    """At most so many images of a split, evenly spread, decoded when they are asked for."""
    from torch.utils.data import Subset

    return Subset(split, spread_indices(len(split), most))  # type: ignore[return-value,arg-type]
