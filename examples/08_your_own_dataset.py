"""Score a model on samples from anywhere: a dataset is a length, samples, names of classes and their colours."""

import sys
from pathlib import Path

import numpy as np

import kdbench
from kdbench.data import Sample, SegmentationDataset

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
model = runs / "shapes" / "baseline" / "exports" / "onnx-fp32" / "mask.onnx"
scenes = kdbench.open_dataset("shapes", "val")


class Dark(SegmentationDataset):
    """The first scenes with half of their light; in your case, what your database or your camera gives."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Sample:
        sample = scenes[index]
        return Sample(sample.name, (sample.image // 2).astype(np.uint8), sample.label)


dark = Dark("dark", "val", scenes.classes, scenes.palette)
print(f"mIoU {kdbench.evaluate(model, dark).miou:.4f} in the dark")
