"""Take in an ONNX file from elsewhere: understand it, wrap it, prove that the wrapped one is the same model, write it.

    taken = import_file(Path("theirs.onnx"), tree, split, ImportOptions("theirs"))

The wrapped file in fp32 is what everything else of that name is held against. The source is not needed afterwards.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.graph import describe_graph
from exporters.wrap import count_parameters, wrap
from kdbench.backends.onnx_file import OnnxFile, external_files
from kdbench.backends.onnx_layout import NOTHING_SAID, Reading
from kdbench.backends.onnx_metadata import write_metadata
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.comparison.parity import Parity, compare_outputs, drift
from kdbench.comparison.readings import (
    IMAGES,
    Scored,
    choose_reading,
    score_readings,
    undecided,
    usual_readings,
)
from kdbench.data import Sample, SegmentationDataset
from kdbench.data.spread import spread
from kdbench.errors import BadInput, RunFailed
from kdbench.machine.apart import LIMIT_S
from kdbench.machine.cores import answer_threads
from kdbench.machine.environment import environment, git_revision
from kdbench.machine.scratch import ScratchFolder
from kdbench.methods.base import METHODS
from kdbench.runs.files import SCHEMA_VERSION, atomic_path, sha256, write_sealed
from kdbench.runs.tree import RESERVED, USUAL, RunTree, sidecar_path

PARITY_IMAGES = 100
LONGEST_NAME = 64


@dataclass(frozen=True)
class ImportOptions:
    """How a file is taken in; see ``kdbench import --help``.

    Attributes:
        name: under which it lies beside the methods.
        reading: what a person says of it.
        overwrite: replace what was imported under that name before, with its exports.
        data_root: the dataset's folder, for the commands after this one.
        limit_s: seconds that the file may take in all.
        on_readings: shown the readings that were scored, best first, before one of them is taken.
    """

    name: str
    reading: Reading = NOTHING_SAID
    overwrite: bool = False
    data_root: Path | None = None
    limit_s: float = LIMIT_S
    on_readings: Callable[[list[Scored]], None] = lambda scored: None


@dataclass(frozen=True)
class Imported:
    """What came of it.

    Attributes:
        sidecar: what ``imported.json`` holds.
        parity: the wrapped file against the source.
        written: the wrapped files.
    """

    sidecar: dict[str, Any]
    parity: Parity
    written: tuple[Path, ...]


def check_name(tree: RunTree, name: str, overwrite: bool) -> None:
    """Raise BadInput for a name that is none, means something else, or is taken."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        raise BadInput(
            f"--name: got '{name:.80}', expected letters, digits, '.', '-' and '_', at most {LONGEST_NAME} of them"
        )
    if name in METHODS or name in ("all", USUAL, *RESERVED):
        what = "a method" if name in METHODS else "a word of kdbench's own"
        raise BadInput(f"--name: '{name}' is {what}: choose another")
    if name in tree.imports():
        if not overwrite:
            raise BadInput(f"--name: '{tree.imported(name).parent}' was imported before: --overwrite replaces it")
    elif tree.imported(name).parent.exists():
        raise BadInput(f"--name: '{tree.imported(name).parent}' exists and is no import: choose another")


def import_file(path: Path, tree: RunTree, split: SegmentationDataset, options: ImportOptions) -> Imported:
    """Take in a file.

    Args:
        split: labelled images, of which at most ``PARITY_IMAGES`` are used.

    Raises:
        BadInput: it is no segmentation of the dataset's classes, or something about it has to be said by a flag.
        RunFailed: the wrapped file is not the same model.
    """
    check_name(tree, options.name, options.overwrite)
    samples = spread(split, PARITY_IMAGES)
    classes = len(split.classes)
    reading = replace(options.reading, classes=classes, only_output=True)
    file = OnnxFile.open(path, reading, threads=answer_threads(), spinning=False, limit_s=options.limit_s)
    try:
        require_classes(file, path, split, spread(split, IMAGES))
        assumed, scored = settle_input(file, path, spread(split, IMAGES), reading, options)
        if file.result.form == "binary" and reading.threshold is None:
            assumed.append(f"one channel, with the threshold {file.threshold:g}")
        about = describe(file, path, split, options)
        about["assumed"], about["readings"] = assumed, [one.as_json() for one in scored]
        folder = tree.imported(options.name).parent
        with ScratchFolder("import") as temporary:
            made = Path(temporary)
            parity = _wrap_and_prove(file, path, made, samples, split.classes)
            about["params"] = _finish(made, about)
            about["sha256"] = sha256(made / "mask.onnx")
            about.update(miou=parity.miou_candidate, images=parity.images)
            # Not before everything is proven; exports of the file that lay here would be of another model.
            shutil.rmtree(tree.folder(options.name).exports, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            written = tuple(_put(file, tree, about, parity) for file in sorted(made.glob("*.onnx")))
        write_sealed(tree.imported(options.name), about)
    finally:
        file.close()
    return Imported(about, parity, written)


def require_classes(file: OnnxFile, path: Path, split: SegmentationDataset, samples: Sequence[Sample]) -> None:
    """Raise BadInput unless the file's classes can be the dataset's."""
    known = f"dataset '{split.name}' has {len(split.classes)} ({', '.join(split.classes)})"
    if file.classes is not None:
        if file.classes != len(split.classes):
            raise BadInput(
                f"'{path}': output '{file.result.name}' has {file.classes} classes, {known}: expected the same number"
            )
        return
    seen = max(int(file.class_map(samples[index].image).max()) for index in range(len(samples)))
    if seen >= len(split.classes):
        raise BadInput(f"'{path}' returns class ids up to {seen}, {known}: expected ids below {len(split.classes)}")


def settle_input(
    file: OnnxFile, path: Path, samples: Sequence[Sample], reading: Reading, options: ImportOptions
) -> tuple[list[str], list[Scored]]:
    """Let ``file.input`` be what was said, or what wins clearly on labelled images.

    Returns:
        What was assumed, for people; and the readings that were scored.

    Raises:
        BadInput: nothing was said, and no reading wins clearly.
    """
    floats = file.dtype != np.uint8
    said = reading.normalises or "normalisation" in file.about if floats else reading.bgr is not None
    if said:
        return [], []
    assert reading.classes is not None
    scored = score_readings(file, samples, reading.classes, usual_readings(floats, reading.bgr))
    options.on_readings(scored)
    best, why = choose_reading(scored)
    if best is None:
        raise undecided(str(path), scored, why)
    file.input = best.input
    return [f"{best.title}: {why}"], scored


def describe(file: OnnxFile, path: Path, split: SegmentationDataset, options: ImportOptions) -> dict[str, Any]:
    """What the sidecar says of the source."""
    import onnx

    result = file.result
    others = external_files(onnx.load(path, load_external_data=False))
    files = [path, *(path.parent / name for name in others)]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "import",
        "method": options.name,
        "dataset": split.name,
        "data_root": None if options.data_root is None else str(options.data_root.absolute()),
        "source": {
            "file": path.name, "sha256": sha256(path), "bytes": sum(entry.stat().st_size for entry in files),
            "external": others,
            "input": {
                "name": file.image_input, "dtype": np.dtype(file.dtype).name,
                "layout": "NHWC" if file.channels_last else "NCHW",
            },
            "output": {
                "name": result.name, "dtype": result.dtype, "shape": list(result.shape), "form": result.form,
                "layout": result.layout, "threshold": file.threshold if result.form == "binary" else None,
            },
        },
        "input": file.input.as_json(),
        "classes": list(split.classes),
        "palette": [list(color) for color in split.palette],
        "size": list(file.size),
        "environment": environment(),
    }  # fmt: skip


def _wrap_and_prove(
    file: OnnxFile, path: Path, folder: Path, samples: Sequence[Sample], classes: Sequence[str]
) -> Parity:
    """Write mask.onnx, and logits.onnx where the file returns logits, and hold the first against the source.

    Raises:
        RunFailed: they are not the same model.
    """
    import onnx

    outputs = ["mask", *["logits"] * (file.result.form != "ids" and file.dtype != np.uint8)]
    for output in outputs:
        onnx.save(wrap(file, path, output), folder / f"{output}.onnx")
    engine = OnnxBackend.open(folder / "mask.onnx", output="mask", threads=answer_threads(), spinning=False)
    try:
        parity = compare_outputs(file, engine, samples, classes)
    finally:
        engine.close()
    exact = file.dtype == np.float32
    if problem := drift(parity, "fp32" if exact else "fp16", f"'{path}'"):
        raise RunFailed(f"the wrapped file is not the model of '{path}': {problem}: nothing was written")
    return parity


def _finish(folder: Path, about: dict[str, Any]) -> int:
    """Write into each wrapped file what ``kdbench predict`` needs; the number of parameters."""
    import onnx

    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        parameters = count_parameters(model)
        write_metadata(
            model,
            {
                **{key: about[key] for key in ("method", "dataset", "classes", "palette", "size", "source")},
                "output": path.stem, "precision": "fp32", "normalisation": about["input"], "git": git_revision(),
            },
        )  # fmt: skip
        onnx.save(model, path)
    return parameters


def _put(made: Path, tree: RunTree, about: dict[str, Any], parity: Parity) -> Path:
    """Put a wrapped file where exports lie, with the sidecar of one."""
    import onnx

    model = onnx.load(made, load_external_data=False)
    path = tree.export(about["method"], "onnx", "fp32", made.stem)
    with atomic_path(path) as temporary:
        shutil.copyfile(made, temporary)
    write_sealed(
        sidecar_path(path),
        {
            **{key: about[key] for key in ("schema_version", "method", "dataset", "classes", "palette", "size")},
            "kind": "export", "format": "onnx", "precision": "fp32", "output": made.stem, "batch": 1,
            "input": about["input"], "environment": about["environment"], "checkpoint_sha256": about["sha256"],
            "reference": f"'{about['source']['file']}'",
            **describe_graph(model),
            "parity": parity.as_json(),
            "sha256": sha256(path), "bytes": path.stat().st_size,
        },
    )  # fmt: skip
    return path
