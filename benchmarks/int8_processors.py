"""Whether an int8 file has the same classes on a processor without VNNI instructions, with 8 bits of weight and with 7.

    python -m benchmarks.int8_processors --runs runs/quarter --dataset camvid --data-root data/camvid

Each method is quantised for ONNX Runtime and OpenVINO twice: as those libraries do by themselves, and with weights of
half the range, as kdbench does (``exporters/quantise.py``). Each file's masks are compared between this processor and
one that has AVX2 alone: OpenVINO is held to AVX2 by ``ONEDNN_MAX_CPU_ISA``, ONNX Runtime has no such switch and runs in
QEMU's emulation of a Haswell (Debian's package qemu-user). The processor here must have VNNI, or there is nothing to
see. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from exporters.export_job import ExportJob
from exporters.quantise import calibration_images
from exporters.steps import STEPS
from kdbench.backends.base import Backend
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.backends.openvino_runtime import OpenVinoBackend
from kdbench.comparison.metrics import confusion_matrix, mean_iou
from kdbench.data import Sample, open_dataset
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.data.spread import spread_indices
from kdbench.machine.environment import environment
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree

EMULATOR = "qemu-x86_64"
HASWELL = (EMULATOR, "-cpu", "Haswell")
"""AVX2, neither AVX-512 nor VNNI."""
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
FORMATS: dict[str, tuple[Callable[[Path], Backend], str]] = {
    "onnx": (lambda file: OnnxBackend.open(file, output="mask", threads=1), "mask.onnx"),
    "openvino": (lambda file: OpenVinoBackend.open(file, output="mask", precision="int8", threads=1), "mask.xml"),
}
"""Format → how its file is opened, and its name."""


@contextlib.contextmanager
def whole_range() -> Iterator[None]:
    """Quantise as ONNX Runtime and NNCF do when nobody asks for half the range."""
    import nncf
    import onnxruntime.quantization as onnx_quantisation

    def without(quantise: Callable[..., Any], option: str) -> Callable[..., Any]:
        return lambda *arguments, **options: quantise(*arguments, **{k: v for k, v in options.items() if k != option})

    with (
        mock.patch.object(nncf, "quantize", without(nncf.quantize, "advanced_parameters")),
        mock.patch.object(
            onnx_quantisation, "quantize_static", without(onnx_quantisation.quantize_static, "reduce_range")
        ),
    ):
        yield


def answer(export_format: str, file: Path, images: Path, out: Path) -> None:
    """Write the masks of images of the network's size: in a process of its own where a processor is played."""
    opened, _ = FORMATS[export_format]
    engine = opened(file)
    np.save(out, np.concatenate([engine.infer(image[None]) for image in np.load(images)]))


def masks(export_format: str, file: Path, images: Path, *, avx2: bool) -> NDArray[np.uint8]:
    """N x H x W, by this processor or by one with AVX2 alone."""
    out = file.with_suffix(".npy")
    command = [
        os.path.realpath(sys.executable), "-m", "benchmarks.int8_processors", "--answer", export_format, str(file),
        str(images), str(out),
    ]  # fmt: skip
    settings = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if avx2 and export_format == "onnx":
        command = [*HASWELL, *command]
    elif avx2:
        settings |= AVX2
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: NDArray[np.uint8] = np.load(out)
    return found


def miou_of(found: NDArray[np.uint8], samples: Sequence[Sample], classes: int) -> float:
    """At the labels' resolution."""
    counts = [
        confusion_matrix(sample.label, resize_label(mask, sample.label.shape), classes)
        for mask, sample in zip(found, samples, strict=True)
    ]
    return mean_iou(np.sum(counts, axis=0))


def measure(job: ExportJob, images: Path, samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """A row for each format and range of weights of one method."""
    rows = []
    for export_format, (_, name) in FORMATS.items():
        for weights in ("whole range", "half range"):
            place = folder / job.method / export_format / weights.split()[0]
            place.mkdir(parents=True)
            with whole_range() if weights == "whole range" else contextlib.nullcontext():
                STEPS[export_format].write(job, "int8", place / name)
            here, there = (masks(export_format, place / name, images, avx2=avx2) for avx2 in (False, True))
            classes = len(job.trained["classes"])
            rows.append(
                {
                    "method": job.method, "format": export_format, "weights": weights,
                    "miou": miou_of(here, samples, classes), "miou_avx2": miou_of(there, samples, classes),
                    "same_pixels": float((here == there).mean()),
                }
            )  # fmt: skip
            print(
                f"{job.method:<12}{export_format:<10}{weights:<13}{rows[-1]['miou']:>8.4f}{rows[-1]['miou_avx2']:>9.4f}"
                f"{rows[-1]['same_pixels']:>10.3%}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--method", default="baseline", help="one or several, comma separated")
    parser.add_argument("--images", type=int, default=51, help="evenly spaced ones of val")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer(arguments.answer[0], *map(Path, arguments.answer[1:]))
        return
    if shutil.which(EMULATOR) is None:
        raise SystemExit(f"{EMULATOR} is not installed: `apt install qemu-user`")
    train, val = (open_dataset(arguments.dataset, split, arguments.data_root) for split in ("train", "val"))
    samples = [val[i] for i in spread_indices(len(val), arguments.images)]
    calibration = [train[i].image for i in calibration_images(len(train))]
    tree = RunTree.find(arguments.runs, arguments.dataset)
    print(f"{'method':<12}{'format':<10}{'weights':<13}{'mIoU':>8}{'on AVX2':>9}{'same':>10}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.method.split(","):
            with ExportJob(tree, method, "mask", samples=samples, calibration=calibration) as job:
                assert job.size is not None
                images = Path(folder) / f"{method}.npy"
                np.save(images, np.stack([resize_image(sample.image, job.size) for sample in samples]))
                rows += measure(job, images, samples, Path(folder))
    report = {
        "schema_version": 1, "benchmark": "int8_processors", "dataset": arguments.dataset, "images": len(samples),
        "rows": rows, "environment": environment(),
    }  # fmt: skip
    print(json.dumps(report))
    if arguments.json:
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
