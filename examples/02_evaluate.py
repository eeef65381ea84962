"""Score a checkpoint and its export on the same images: mIoU, and IoU per class."""

import sys
from pathlib import Path

import kdbench

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
baseline = runs / "shapes" / "baseline"
scenes = kdbench.open_dataset("shapes", "val")

for artifact in (baseline / "student.safetensors", baseline / "exports" / "onnx-int8" / "mask.onnx"):
    result = kdbench.evaluate(artifact, scenes, threads=1)  # on images this small a second thread only waits
    print(f"{artifact.name}: mIoU {result.miou:.4f} in {result.seconds:.1f} s")
    for name, iou in zip(scenes.classes, result.iou_per_class, strict=True):
        print(f"  {name:12} {iou:.4f}")
