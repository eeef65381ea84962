"""Parity of two ONNX files, ours or not: ``kdbench parity`` and ``kdbench.parity``.

files = open_files((Path("model.onnx"), Path("model-int8.onnx")), options := ParityOptions())
split = open_dataset("shapes", "val")
found = compare_files(files, spread(split, options.limit), split.classes, options, "model.onnx")
print(found.problem or "the same model")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import Reading
from kdbench.comparison.parity import Parity, compare_outputs, drift
from kdbench.data import Sample
from kdbench.data.base import read_image
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import Size
from kdbench.data.spread import spread_indices
from kdbench.errors import BadInput
from kdbench.formats import PRECISIONS
from kdbench.machine.cores import answer_threads
from kdbench.predict.images import find_images

UNKNOWN_CLASSES = 256
"""Class ids that a file without names and logits may return."""


@dataclass(frozen=True)
class ParityOptions:
    """How two files are held against each other.

    Attributes:
        tolerance: "fp32", "fp16" or "int8": what may differ; None = by the files' metadata.
        limit: images at most, evenly spread over what there is.
        size: (H, W) for files that leave them open.
        mean, std: of a float input, R, G and B of 0 to 1; None = by the metadata, or ImageNet's.
        readings: of the reference and the candidate, in place of the three above; () = those for both.
        limit_s: run each file in a process of its own, which may take so many seconds; None = in this one.
    """

    tolerance: str | None = None
    limit: int = 100
    size: Size | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    readings: tuple[Reading, ...] = ()
    limit_s: float | None = None


@dataclass(frozen=True)
class FilesParity:
    """What came of it.

    Attributes:
        parity: the counts, and what follows from them.
        tolerance: the precision whose tolerance was applied.
        problem: how the candidate drifted further than it may; None where it did not, or that could not be judged.
        notes: what was assumed about the files' input, for a person to check.
    """

    parity: Parity
    tolerance: str
    problem: str | None
    notes: tuple[str, ...]

    @property
    def judged(self) -> bool:
        """Whether there was anything to judge by: 8 bits may change pixels as long as mIoU stays, which labels tell."""
        return self.tolerance != "int8" or self.parity.labelled

    @property
    def same(self) -> bool:
        return self.judged and self.problem is None


def open_files(paths: Sequence[Path], options: ParityOptions) -> list[OnnxFile]:
    """Load the reference and the candidate; ``compare_files`` closes them.

    Raises:
        BadInput: an unknown tolerance, no ONNX file, or no segmentation of one image.
    """
    if options.tolerance is not None and options.tolerance not in PRECISIONS:
        raise BadInput(f"--tolerance: got '{options.tolerance}', expected one of {', '.join(PRECISIONS)}")
    readings = options.readings or (Reading(options.size, options.mean, options.std),) * 2
    # Two engines take turns in this process.
    return [
        OnnxFile.open(path, reading, threads=answer_threads(), spinning=False, limit_s=options.limit_s)
        for path, reading in zip(paths, readings, strict=True)
    ]


def compare_files(
    files: Sequence[OnnxFile],
    samples: Sequence[Sample],
    names: tuple[str, ...] | None,
    options: ParityOptions,
    shown: str,
) -> FilesParity:
    """Run both on the same images, and judge by the tolerance.

    Args:
        files: reference and candidate, of ``open_files``.
        samples: real images.
        names: the classes of their labels; None where they have none.
        shown: what ``problem`` calls the reference.

    Raises:
        BadInput: the files, or a file and the labels, have different numbers of classes; or there is no image.
    """
    tolerance = options.tolerance or max((f.about.get("precision", "fp32") for f in files), key=PRECISIONS.index)
    reference, candidate = files
    try:
        result = compare_outputs(reference, candidate, samples, class_names(files, names))
    finally:
        for file in files:
            file.close()
    return FilesParity(result, tolerance, drift(result, tolerance, shown), assumptions(files))


def assumptions(files: Sequence[OnnxFile]) -> tuple[str, ...]:
    """What was assumed about them, for a person to check."""
    return tuple(file.assumption for file in files if file.assumption)


def class_names(files: Sequence[OnnxFile], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """What class ids mean: the labels' classes, or those of our metadata, or numbers."""
    counts = [len(names)] if names else []
    counts += [file.classes or len(file.about.get("classes") or []) for file in files]
    known = [count for count in counts if count]
    for file in files:
        own = file.about.get("classes")
        if names and own and tuple(own) != names:
            raise BadInput(
                f"a file was trained on the classes {', '.join(own)}, the labels have {', '.join(names)}, expected the "
                "same: name the dataset that it was trained on, or images without labels"
            )
    if len(set(known)) > 1:
        raise BadInput(f"got {' and '.join(map(str, dict.fromkeys(known)))} classes, expected the same everywhere")
    names = names or next((tuple(f.about["classes"]) for f in files if f.about.get("classes")), None)
    return names or tuple(f"class {i}" for i in range(known[0] if known else UNKNOWN_CLASSES))


def unlabelled(paths: Sequence[Path], limit: int) -> list[Sample]:
    """At most ``limit`` of the images that the paths (files, and folders of them) mean; every label is "ignore".

    Raises:
        BadInput: a path does not exist, or an image cannot be read.
    """
    files, problems = find_images(paths)
    if problems or not files:
        raise BadInput(problems[0] if problems else "images: got none, expected files, or folders that hold some")
    found = []
    for index in spread_indices(len(files), limit):
        path = files[index]
        pixels = read_image(path)
        found.append(Sample(path.name, pixels, np.full(pixels.shape[:2], IGNORE, np.uint8)))
    return found
