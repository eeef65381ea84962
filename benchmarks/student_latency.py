"""The student against torchvision's ``lraspp_mobilenet_v3_large``: latency of the deployed mask graph in ONNX Runtime.

    python -m benchmarks.student_latency

Both models are exported the same way (uint8 image → uint8 mask, 512 x 512, 11 classes, untrained: weights do not change
the time) and timed side by side (``interleaved``). Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.interleaved import Call, Contender, alternate, ratio_with_interval
from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from kdbench.backends import load_backend
from kdbench.data.shapes import Shapes
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model, count_gflops
from kdbench.models.segmentation import parameter_count
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree

MODELS = ("student", "lraspp_mobilenet_v3_large")
SIZE, CLASSES = (512, 512), 11


def open_call(artifact: Path, threads: int) -> Call:
    backend = load_backend("onnx", artifact, output="mask", threads=threads)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, *SIZE, 3), dtype=np.uint8) for _ in range(4)]
    return lambda index: backend.infer(images[index % 4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    scenes = Shapes("val")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = RunTree(Path(folder), "untrained")
        contenders = []
        for arch in MODELS:
            torch.manual_seed(0)
            model = build_model(arch, CLASSES)
            about = {"arch": arch, "classes": [str(i) for i in range(CLASSES)], "palette": [], "size": list(SIZE)}
            save_checkpoint(tree.checkpoint(arch), model.state_dict(), about)
            with ExportJob(tree, arch, "mask", samples=[scenes[0]], allow_drift=True) as job:
                path = export_as(job, "onnx", "fp32")
            contenders.append(Contender(arch, open_call, path, arguments.threads))
            rows.append({"model": arch, "params": parameter_count(model), "gflops": count_gflops(arch, CLASSES, SIZE)})
        found = alternate(contenders, arguments.blocks)
        for contender in contenders:
            contender.stop()
    ratio, low, high = ratio_with_interval(found[MODELS[0]], found[MODELS[1]])
    report = {
        "schema_version": 1, "benchmark": "student_latency", "rows": rows, "block_ms": found, "ratio": ratio,
        "ci95": [low, high], "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"mask output, {SIZE[0]} x {SIZE[1]}, ONNX Runtime, {arguments.threads} threads, {arguments.blocks} blocks")
    print(f"{'model':<28}{'params':>10}{'GFLOP':>8}{'median ms':>11}")
    for row in rows:
        median = statistics.median(found[row["model"]])
        print(f"{row['model']:<28}{row['params'] / 1e6:>9.2f}M{row['gflops']:>8.2f}{median:>11.2f}")
    print(f"student / lraspp: {ratio:.3f}, 95% interval {low:.3f} to {high:.3f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
