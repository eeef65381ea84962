"""Datasets: one sample type, one label convention (class ids 0 … C-1, 255 = ignore), one way to open them all."""

from kdbench.data.base import Sample, SegmentationDataset
from kdbench.data.open import DATASETS, open_dataset

__all__ = ["DATASETS", "Sample", "SegmentationDataset", "open_dataset"]
