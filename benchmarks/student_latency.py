"""The student against torchvision's ``lraspp_mobilenet_v3_large``: latency of the deployed mask graph in ONNX Runtime.

    python -m benchmarks.student_latency

Both models are exported the same way (uint8 image → uint8 mask, 512 x 512, 11 classes, untrained: weights do not change
the time). Each runs in a process of its own; slices of calls alternate A B B A, so that drift of the machine cancels
within such a quad, and the process that waits is suspended. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy.stats import bootstrap

from exporters.to_onnx import export_onnx
from kdbench.artifacts import RunTree, save_checkpoint, write_json
from kdbench.backends import load_backend
from kdbench.data.shapes import Shapes
from kdbench.environment import environment
from kdbench.models.deploy import build_model, count_gflops
from kdbench.models.segmentation import parameter_count

MODELS = ("student", "lraspp_mobilenet_v3_large")
SIZE, CLASSES = (512, 512), 11
CALLS = 8
"""Timed calls in a slice; one more, the first after waking up, is dropped."""


def worker(connection: Connection, artifact: Path, threads: int) -> None:
    """Load an artifact, then time a slice at every request: ln of the median call in milliseconds."""
    backend = load_backend("onnx", artifact, output="mask", threads=threads)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, *SIZE, 3), dtype=np.uint8) for _ in range(4)]
    for call in range(20):
        backend.infer(images[call % 4])
    connection.send("ready")
    while connection.recv():
        milliseconds = []
        for call in range(CALLS + 1):
            started = time.perf_counter()
            backend.infer(images[call % 4])
            milliseconds.append((time.perf_counter() - started) * 1e3)
        connection.send(math.log(statistics.median(milliseconds[1:])))


class Runner:
    """A worker process that is suspended except while it measures."""

    def __init__(self, artifact: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs, artifact, threads), daemon=True)
        self.process.start()
        self.connection.recv()
        self.handle = psutil.Process(self.process.pid)
        self.handle.suspend()

    def slice(self) -> float:
        self.handle.resume()
        self.connection.send(True)
        result = self.connection.recv()
        self.handle.suspend()
        return result

    def stop(self) -> None:
        self.handle.resume()
        self.connection.send(False)
        self.process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quads", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    scenes = Shapes("val")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = RunTree(Path(folder), "untrained")
        runners = []
        for arch in MODELS:
            torch.manual_seed(0)
            model = build_model(arch, CLASSES)
            about = {"arch": arch, "classes": [str(i) for i in range(CLASSES)], "palette": [], "size": list(SIZE)}
            save_checkpoint(tree.checkpoint(arch), model.state_dict(), about)
            path = export_onnx(tree, arch, output="mask", size=None, images=[scenes[0].image])
            runners.append(Runner(path, arguments.threads))
            rows.append({"model": arch, "params": parameter_count(model), "gflops": count_gflops(arch, CLASSES, SIZE)})
        student, other = runners
        ratios, medians = [], list[list[float]]([[], []])
        for quad in range(arguments.quads):
            order = [student, other, other, student] if quad % 2 == 0 else [other, student, student, other]
            slices = [(runner, runner.slice()) for runner in order]
            sums = [sum(value for runner, value in slices if runner is which) for which in runners]
            ratios.append(math.exp((sums[0] - sums[1]) / 2))
            for index in range(2):
                medians[index].append(math.exp(sums[index] / 2))
        for runner in runners:
            runner.stop()
    interval = bootstrap((ratios,), np.median, n_resamples=5000, method="percentile", rng=0).confidence_interval
    print(f"mask output, {SIZE[0]} x {SIZE[1]}, ONNX Runtime, {arguments.threads} threads, {arguments.quads} quads")
    print(f"{'model':<28}{'params':>10}{'GFLOP':>8}{'median ms':>11}")
    for row, values in zip(rows, medians, strict=True):
        row["slice_medians_ms"] = values
        print(f"{row['model']:<28}{row['params'] / 1e6:>9.2f}M{row['gflops']:>8.2f}{statistics.median(values):>11.2f}")
    ratio = statistics.median(ratios)
    print(f"student / lraspp: {ratio:.3f}, 95% interval {interval.low:.3f} to {interval.high:.3f}")
    report = {
        "schema_version": 1, "benchmark": "student_latency", "rows": rows, "ratios": ratios, "ratio": ratio,
        "ci95": [float(interval.low), float(interval.high)],
        "environment": {**environment(), "command": "python -m benchmarks.student_latency"},
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
