"""How much of an evaluation's wall-clock is spent inside the engine: decoding and counting should hide behind it.

    python -m benchmarks.evaluate_overlap                              # generated scenes, an untrained student
    python -m benchmarks.evaluate_overlap --dataset camvid --data-root data/camvid --size 360x480

Prints one table and one JSON line. The share does not depend on the weights, so none are needed. Each pass is beside a
pass that does the same work one step after the other, in random order, so that drift of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from kdbench.backends import Backend, load_backend
from kdbench.comparison.evaluate import class_maps, evaluate
from kdbench.comparison.metrics import confusion_matrix
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.data.preprocessing import parse_size, resize_image
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree


def one_after_the_other(backend: Backend, dataset: SegmentationDataset) -> float:
    """Seconds of decode → infer → count without any overlap."""
    started = time.perf_counter()
    for index in range(len(dataset)):
        sample = dataset[index]
        output = backend.infer(backend.prepare(resize_image(sample.image, backend.size)))
        prediction, _ = class_maps(output, sample.label.shape, sample.name)
        confusion_matrix(sample.label, prediction, len(dataset.classes))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.dataset, "val", arguments.data_root)
    size = parse_size(arguments.size)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tree = RunTree(Path(folder), dataset.name)
        torch.manual_seed(0)
        about = {"arch": "student", "classes": list(dataset.classes), "palette": [], "size": list(size)}
        save_checkpoint(tree.checkpoint("baseline"), build_model("student", len(dataset.classes)).state_dict(), about)
        with ExportJob(tree, "baseline", "mask", samples=[dataset[0]]) as job:
            export_as(job, "onnx", "fp32")
        for name, path in (
            ("torch", tree.checkpoint("baseline")),
            ("onnx", tree.export("baseline", "onnx", "fp32", "mask")),
        ):
            backend = load_backend(name, path, output="mask")
            evaluate(backend, dataset)  # warm-up: page cache, allocators, thread pools
            shares, ratios = list[float](), list[float]()
            for _ in range(arguments.passes):
                serial_first = random.Random(len(shares)).random() < 0.5
                serial = one_after_the_other(backend, dataset) if serial_first else 0.0
                result = evaluate(backend, dataset)
                serial = serial or one_after_the_other(backend, dataset)
                shares.append(result.engine_seconds / result.seconds)
                ratios.append(result.seconds / serial)
            backend.close()
            rows.append({"backend": name, "engine_share": shares, "seconds_over_serial": ratios})
    print(f"{dataset.name} val, {len(dataset)} images, input {arguments.size}, {arguments.passes} passes")
    print(f"{'backend':<10}{'engine share of wall-clock':>30}{'wall-clock over serial':>26}")
    for row in rows:
        share, ratio = row["engine_share"], row["seconds_over_serial"]
        print(
            f"{row['backend']:<10}{statistics.median(share):>14.1%} ({min(share):.1%}–{max(share):.1%})"
            f"{statistics.median(ratio):>14.2f} ({min(ratio):.2f}–{max(ratio):.2f})"
        )
    report = {
        "schema_version": 1, "benchmark": "evaluate_overlap", "dataset": dataset.name, "images": len(dataset),
        "size": list(size), "rows": rows, "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
