"""The comparison as data: every trained method through every backend, accuracy and latency of the same bytes."""

import sys
from pathlib import Path

import kdbench

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
comparison = kdbench.compare(runs, backends=["torch", "onnx"], precisions=["fp32", "int8"], rounds=20)

for row in comparison.rows:
    if row.status == "ok" and row.latency is not None:
        print(f"{row.method} {row.backend} {row.precision}: mIoU {row.miou:.4f}, {row.latency.median_ms:.2f} ms")
    else:
        print(f"{row.method} {row.backend} {row.precision}: {row.status}: {row.reason}")
comparison.write(runs / "compare.json")  # as `kdbench compare --json` writes it
