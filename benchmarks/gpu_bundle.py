"""Everything that an NVIDIA GPU is measured with, in one folder: made on any machine, read where minutes count.

    python -m benchmarks.gpu_bundle --runs runs --dataset camvid --data-root data/camvid --method baseline \\
        --sizes 360x480,512x512 --out .gpu/bundle

The folder holds the checkpoint, the validation images and labels, ONNX files of the mask in fp32 and fp16 for each
size (a batch of 1, and an open batch) that were held against PyTorch, and ``manifest.json`` with each file's sha256.
Images stay as they were encoded; whoever reads them resizes them, as everywhere in kdbench. The ONNX files' weights lie
in one file beside them, each once.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdbench.data import Sample, SegmentationDataset, open_dataset
from kdbench.data.base import ImageMaskPairs, read_image, read_mask
from kdbench.data.preprocessing import Size, parse_size
from kdbench.errors import BadInput
from kdbench.runs.files import read_json, sha256, write_json
from kdbench.runs.tree import RunTree, sidecar_path

MADE_BY = "python -m benchmarks.gpu_bundle"
PARITY_SAMPLES = 20
PRECISIONS = ("fp32", "fp16")
WEIGHTS = "weights.bin"
SHARED_FROM = 1024
"""Bytes from which an ONNX file's tensor goes into the common file."""


@dataclass(frozen=True)
class Bundle:
    """A folder that ``make_bundle`` wrote."""

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Bundle:
        """Read the manifest and hold every file against its hash.

        Raises:
            Missing: no bundle there. BadInput: a file is missing or is not the one that was written.
        """
        manifest = read_json(folder / "manifest.json", MADE_BY)
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file() or sha256(path) != expected:
                raise BadInput(f"bundle file '{path}' is missing or changed (sha256 differs): make it again, {MADE_BY}")
        return Bundle(folder, manifest)

    @property
    def checkpoint(self) -> Path:
        return RunTree(self.folder / "runs", self.manifest["dataset"]).checkpoint(self.manifest["method"])

    def onnx(self, size: Size, precision: str, batch: int) -> Path:
        """The ONNX file for a size and batch."""
        path = self.folder / onnx_name(size, precision, open_batch=batch > 1)
        if not path.exists():
            sizes = ", ".join(self.manifest["sizes"])
            raise BadInput(f"bundle '{self.folder}': has no {path.name}, expected one of the sizes {sizes}")
        return path

    def samples(self) -> list[Sample]:
        """The validation split, decoded by several threads."""

        def decode(entry: dict[str, str]) -> Sample:
            image, label = (self.folder / entry[key] for key in ("image", "label"))
            return Sample(entry["name"], read_image(image), read_mask(label))

        with ThreadPoolExecutor() as pool:
            return list(pool.map(decode, self.manifest["images"]))


def onnx_name(size: Size, precision: str, *, open_batch: bool) -> str:
    return f"onnx/{size[0]}x{size[1]}-{precision}{'-open-batch' if open_batch else ''}.onnx"


@dataclass(frozen=True)
class BundleOptions:
    """What goes into a bundle.

    Attributes:
        tree: where ``method`` was trained.
        sizes: (H, W) of the ONNX files; without any there are none, and PyTorch's ways alone can be measured.
        allow_drift: keep ONNX files that differ from PyTorch by more than they may.
    """

    tree: RunTree
    method: str
    data_root: Path | None
    sizes: tuple[Size, ...]
    allow_drift: bool = False


def make_bundle(options: BundleOptions, folder: Path) -> Bundle:
    """Write ``folder``, replacing a bundle that is there.

    Raises:
        Missing: the method was not trained. RunFailed: an ONNX file differs from PyTorch by more than it may.
    """
    if (folder / "manifest.json").exists():
        shutil.rmtree(folder)
    tree = RunTree(folder / "runs", options.tree.dataset)
    checkpoint, copied = options.tree.checkpoint(options.method), tree.checkpoint(options.method)
    sidecar = read_json(sidecar_path(checkpoint), f"kdbench train --method {options.method}")
    copied.parent.mkdir(parents=True, exist_ok=True)
    for source, target in ((checkpoint, copied), (sidecar_path(checkpoint), sidecar_path(copied))):
        shutil.copy(source, target)
    dataset = open_dataset(options.tree.dataset, "val", options.data_root)
    images = write_images(dataset, folder)
    exports = write_onnx(options, tree, [dataset[i] for i in range(min(PARITY_SAMPLES, len(dataset)))], folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "schema_version": 1, "kind": "gpu_bundle", "dataset": options.tree.dataset, "method": options.method,
        "arch": sidecar["arch"], "classes": sidecar["classes"],
        "sizes": [f"{height}x{width}" for height, width in options.sizes], "images": images, "exports": exports,
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return Bundle(folder, manifest)


def write_images(dataset: SegmentationDataset, folder: Path) -> list[dict[str, str]]:
    """Image files as they are (PNG where a dataset has none), and the labels' class ids as PNG."""
    (folder / "val").mkdir(parents=True)
    entries = []
    for index in range(len(dataset)):
        sample = dataset[index]
        stem = f"val/{index:04d}"
        if isinstance(dataset, ImageMaskPairs):
            source = dataset.pairs[index][0]
            image = f"{stem}{source.suffix.lower()}"
            shutil.copy(source, folder / image)
        else:
            image = f"{stem}.png"
            Image.fromarray(sample.image).save(folder / image)
        label = f"{stem}-label.png"
        encoded = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(sample.label)).save(encoded, "PNG", optimize=True)
        (folder / label).write_bytes(encoded.getvalue())
        entries.append({"name": sample.name, "image": image, "label": label})
    return entries


def write_onnx(options: BundleOptions, tree: RunTree, samples: list[Sample], folder: Path) -> list[dict[str, Any]]:
    """Export every size, precision and batch; returns what the manifest says of each."""
    from exporters.export_job import ExportJob
    from exporters.proven_export import export_as

    (folder / "onnx").mkdir()
    places: dict[bytes, int] = {}
    made = []
    for size in options.sizes:
        for open_batch in (False, True):
            with ExportJob(
                tree, options.method, "mask", size, samples, allow_drift=options.allow_drift, dynamic_batch=open_batch
            ) as job:
                for precision in PRECISIONS:
                    source = export_as(job, "onnx", precision)
                    name = onnx_name(size, precision, open_batch=open_batch)
                    move_with_shared_weights(source, folder / name, places)
                    sidecar = read_json(sidecar_path(source), MADE_BY)
                    made.append({"file": name, **{key: sidecar[key] for key in ("operators", "parity", "batch")}})
    if made:
        shutil.rmtree(tree.folder(options.method).exports)
    return made


def move_with_shared_weights(source: Path, target: Path, places: dict[bytes, int]) -> None:
    """Write an ONNX file whose large tensors lie in ``WEIGHTS`` beside it, each content once.

    Args:
        places: hash → offset of what is in ``WEIGHTS``; what is new is added.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load(source)
    with open(target.with_name(WEIGHTS), "ab") as weights:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) < SHARED_FROM:
                continue
            content = bytes(tensor.raw_data)
            key = hashlib.sha256(content).digest()
            if key not in places:
                weights.write(b"\0" * (-weights.tell() % 64))
                places[key] = weights.tell()
                weights.write(content)
            set_external_data(tensor, WEIGHTS, offset=places[key], length=len(content))
            tensor.ClearField("raw_data")
    onnx.save(model, target)
    onnx.checker.check_model(str(target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--method", default="baseline")
    parser.add_argument("--out", type=Path, default=Path(".gpu/bundle"))
    parser.add_argument("--sizes", default="360x480,512x512", help='of the ONNX files; "" makes none')
    parser.add_argument("--allow-drift", action="store_true", help="keep ONNX files that differ from PyTorch")
    arguments = parser.parse_args()
    started = time.monotonic()
    options = BundleOptions(
        RunTree(arguments.runs, arguments.dataset), arguments.method, arguments.data_root,
        tuple(map(parse_size, filter(None, arguments.sizes.split(",")))), arguments.allow_drift,
    )  # fmt: skip
    bundle = make_bundle(options, arguments.out)
    seconds = time.monotonic() - started
    mebibytes = sum((bundle.folder / name).stat().st_size for name in bundle.manifest["files"]) / 2**20
    print(f"{len(bundle.manifest['files'])} files, {mebibytes:.1f} MiB, in {seconds:.0f} s: {bundle.folder}")
    print(json.dumps({"bundle": str(bundle.folder), "mebibytes": round(mebibytes, 1), "seconds": round(seconds)}))


if __name__ == "__main__":
    main()
