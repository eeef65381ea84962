"""Image → mask through every CPU backend, as a multiple of what people usually run; and what kdbench's call adds.

    kdbench export --method combined --format onnx,openvino --precision fp32,int8 --size 512x512
    python -m benchmarks.backend_speedup --method combined --size 512x512

The usual way is PyTorch eager in float32: torchvision's transforms normalise the image, the model gives logits at the
image's size, argmax gives the mask. The others are the artifacts of the same checkpoint through kdbench's backends. All
are timed in one run, side by side (``interleaved``), batch 1, on real images; and scored on the validation split.
Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleaved import Call, Contender, alternate, ratio_with_interval
from kdbench.backends import artifact_of, load_backend
from kdbench.comparison.evaluate import evaluate
from kdbench.comparison.numbers import fraction
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.data.normalisation import MEAN, STD
from kdbench.data.preprocessing import Size, parse_size, resize_image
from kdbench.machine.environment import environment
from kdbench.models.registry import load_model
from kdbench.runs.files import read_json, write_json
from kdbench.runs.tree import RunTree, sidecar_path

USUAL = "torch eager, usual pipeline"
ROWS = (
    ("torch", "fp32"), ("torch-channels-last", "fp32"), ("torch-compile", "fp32"), ("onnx", "fp32"), ("onnx", "int8"),
    ("openvino", "fp32"), ("openvino", "int8"),
)  # fmt: skip
IMAGES = 4


def usual_call(checkpoint: Path, images: np.ndarray[Any, Any], threads: int) -> Call:
    """torchvision normalise → model → argmax."""
    import torch

    from kdbench.torchvision_compat import torchvision  # noqa: F401  before its transforms, which it makes importable
    from torchvision.transforms import v2  # isort: skip

    torch.set_num_threads(threads)
    model, _ = load_model(checkpoint, "kdbench train")
    to_input = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def call(index: int) -> Any:
        with torch.inference_mode():
            return model(to_input(images[index % IMAGES])[None]).argmax(1).to(torch.uint8).numpy()

    return call


def backend_call(name: str, artifact: Path, size: Size, images: np.ndarray[Any, Any], threads: int) -> Call:
    backend = load_backend(name, artifact, output="mask", size=size, threads=threads)
    batches = [backend.prepare(image) for image in images]
    return lambda index: backend.infer(batches[index % IMAGES])


def added_by_kdbench(artifact: Path, images: np.ndarray[Any, Any], threads: int, blocks: int) -> tuple[float, ...]:
    """``OnnxBackend.infer`` over a bare ``session.run`` of the same session, in slices A B B A: ratio and interval."""
    from kdbench.backends.onnx_runtime import OnnxBackend

    backend = OnnxBackend.open(artifact, output="mask", threads=threads)
    session, batches = backend._session, [image[None] for image in images]
    bare = [lambda i=i: session.run(None, {"image": batches[i]}) for i in range(IMAGES)]
    ours = [lambda i=i: backend.infer(batches[i]) for i in range(IMAGES)]
    found: tuple[list[float], list[float]] = ([], [])
    for block in range(-1, blocks):
        sums = [0.0, 0.0]
        for which in (0, 1, 1, 0) if block % 2 else (1, 0, 0, 1):
            times = []
            for call in (ours, bare)[which] * 2:
                started = time.perf_counter()
                call()
                times.append(time.perf_counter() - started)
            sums[which] += statistics.median(times)
        if block >= 0:  # the first warms up
            found[0].append(sums[0])
            found[1].append(sums[1])
    backend.close()
    return ratio_with_interval(*found)


def score(name: str, artifact: Path, size: Size | None, dataset: SegmentationDataset, threads: int) -> float:
    backend = load_backend(name, artifact, output="mask", size=size, threads=threads)
    try:
        return evaluate(backend, dataset).miou
    finally:
        backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--method", default="combined")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    size = parse_size(arguments.size)
    tree = RunTree(arguments.runs, arguments.dataset)
    checkpoint = tree.checkpoint(arguments.method)
    trained_size = read_json(sidecar_path(checkpoint), "kdbench train")["size"]
    validation = open_dataset(arguments.dataset, "val", arguments.data_root)
    images = np.stack([resize_image(validation[i].image, size) for i in range(IMAGES)])
    artifacts = {row: artifact_of(tree, arguments.method, *row, "mask") for row in ROWS}
    contenders = [Contender(USUAL, usual_call, checkpoint, images, arguments.threads)] + [
        Contender(f"{name} {precision}", backend_call, name, artifact, size, images, arguments.threads)
        for (name, precision), artifact in artifacts.items()
    ]
    found = alternate(contenders, arguments.blocks)
    for contender in contenders:
        contender.stop()
    added = added_by_kdbench(artifacts["onnx", "fp32"], images, arguments.threads, 2 * arguments.blocks)
    rows: list[dict[str, Any]] = []
    for (name, precision), artifact in artifacts.items():
        speedup, low, high = ratio_with_interval(found[USUAL], found[f"{name} {precision}"])
        miou = score(name, artifact, size, validation, arguments.threads)
        row: dict[str, Any] = {
            "backend": name,
            "precision": precision,
            "speedup": speedup,
            "ci95": [low, high],
            "miou": miou,
        }
        rows.append(row)
    report = {
        "schema_version": 1, "benchmark": "backend_speedup", "method": arguments.method, "size": list(size),
        "trained_size": trained_size, "threads": arguments.threads, "rows": rows, "block_ms": found,
        "kdbench_over_bare_session_run": {"ratio": added[0], "ci95": list(added[1:])},
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"image → mask, {size[0]} x {size[1]}, batch 1, {arguments.threads} threads, {arguments.blocks} blocks")
    print(f"{'':<28}{'median ms':>11}{'times faster':>14}{'95% interval':>16}{'mIoU':>8}")
    print(f"{USUAL:<28}{statistics.median(found[USUAL]):>11.2f}{1:>14.2f}")
    for row in rows:
        label = f"{row['backend']} {row['precision']}"
        interval = f"{row['ci95'][0]:.2f} to {row['ci95'][1]:.2f}"
        print(
            f"{label:<28}{statistics.median(found[label]):>11.2f}{row['speedup']:>14.2f}{interval:>16}"
            f"{fraction(row['miou']):>8}"
        )
    print(f"kdbench's call over a bare session.run: {added[0]:.4f}, 95% interval {added[1]:.4f} to {added[2]:.4f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
