"""Is the 8-bit file still the same model? Two ONNX files, ours or anybody's, on the same real images."""

import sys
from pathlib import Path

import kdbench

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
exports = runs / "shapes" / "baseline" / "exports"
scenes = kdbench.open_dataset("shapes", "val")

options = kdbench.ParityOptions(limit=50)  # int8's tolerance, by the metadata of the files
found = kdbench.parity(exports / "onnx-fp32" / "mask.onnx", exports / "onnx-int8" / "mask.onnx", scenes, options)
numbers = found.parity
print(f"{numbers.pixel_agreement:.2%} of pixels have the same class on {numbers.images} images")
print(f"mIoU {numbers.miou_reference:.4f} -> {numbers.miou_candidate:.4f}")
print(found.problem or f"the same model, by the tolerance of {found.tolerance}")
