"""The public Python API: everything that ``import kdbench`` offers, each a thin function over what the commands use.

    import kdbench

    scenes = kdbench.open_dataset("shapes", "val")
    print(kdbench.evaluate("model.onnx", scenes).miou)

Paths may be strings. What a person can mend is a ``KdbenchError`` of one line. ``docs/python-api.md`` shows each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import BadInput, KdbenchError, Missing
from kdbench.machine.cores import usable_cores

if TYPE_CHECKING:
    from kdbench.backends import Backend
    from kdbench.comparison.evaluate import Evaluation
    from kdbench.comparison.parity_files import FilesParity, ParityOptions
    from kdbench.comparison.results import Comparison
    from kdbench.data import SegmentationDataset
    from kdbench.predict.images import Predictions, Predictor
    from kdbench.regress.record import Recording

PathLike = str | os.PathLike[str]

__all__ = [
    "KdbenchError", "compare", "evaluate", "gate", "load", "open_dataset", "open_predictor", "parity",
    "predict_images", "trust_code",
]  # fmt: skip


def trust_code() -> None:
    """Agree that checkpoints may import the Python files that built their networks, which you have read.

    As ``--trust-code`` of the commands; it holds until the process ends, and in those that it starts.

    Raises:
        Nothing: a file that has changed since its training is refused where it would be imported.
    """
    from kdbench.models.code import trust_all

    trust_all()


def open_dataset(name: str, split: str = "val", root: PathLike | None = None) -> SegmentationDataset:
    """Open one split: ``len()`` samples, each with ``name``, ``image`` (H x W x 3 uint8 RGB) and ``label``.

    Labels are H x W uint8 class ids, 255 where a pixel counts nowhere.

    Args:
        name: "shapes", "materials", "camvid", "voc2012", "folder", "cityscapes", "ade20k", or the path of a dataset
            file (.toml).
        split: "train", "val", or "test" of a dataset file that has one.
        root: the dataset's folder; "shapes" is generated and needs none.

    Raises:
        BadInput: an unknown name or split, or a folder that does not hold the dataset.
    """
    from kdbench.data import open_dataset as open_split

    return open_split(name, split, None if root is None else Path(root))


def load(
    artifact: PathLike,
    *,
    backend: str | None = None,
    output: str = "mask",
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> Backend:
    """Load a model: ``prepare(image)`` makes its input, ``infer(batch)`` runs it, ``close()`` frees it.

    Args:
        artifact: a checkpoint (.safetensors), any .onnx file, or an export (.engine, .xml), the last two and
            checkpoints with their sidecar beside them.
        backend: a name of ``kdbench compare --backend``. Default: what the file is for; an .onnx file is then taken
            as it is, whoever made it, while "onnx" checks it against its sidecar and its checkpoint.
        output: "mask" or "logits", for a checkpoint, which can give both; of an export, what it was made with.
        size: (H, W), for a checkpoint or an .onnx file that leaves them open; None = its own.
        device: "cpu" or "cuda".
        threads: CPU threads; 0 = one per core.

    Raises:
        Missing, BadInput: no such file, or a broken one.
        BackendUnavailable: this machine cannot run it.
    """
    from kdbench.backends import load_backend
    from kdbench.backends.onnx_file import OnnxFile
    from kdbench.backends.onnx_layout import Reading
    from kdbench.regress.artifact import Filter, find_artifacts

    path = Path(artifact)
    if not path.is_file():
        raise Missing(f"'{path}' is no file, expected an .onnx file, a checkpoint or an engine: check the path")
    if backend is None:
        (found,) = find_artifacts(path, Filter())
        if found.backend == "onnx-file":
            _require_cpu(path, device)
            return OnnxFile.open(path, Reading(size=size), threads=threads)
        backend = found.backend
        output = output if path.suffix == ".safetensors" else found.output or output
    return load_backend(backend, path, output=output, size=size, device=device, threads=threads)


def _require_cpu(path: Path, device: str) -> None:
    if device != "cpu":
        raise BadInput(
            f"device: got '{device}' for '{path}', an .onnx file as it is, which runs on the processor, expected 'cpu' "
            "or an export of kdbench with backend='onnx'"
        )


def evaluate(model: PathLike | Backend, dataset: SegmentationDataset, *, threads: int = 0) -> Evaluation:
    """Run a whole split through a model and count its pixels at the labels' own resolution.

    Args:
        model: a file, as of ``load``, or what ``load`` returned, which stays open.
        dataset: of ``open_dataset``, or any ``SegmentationDataset``.
        threads: CPU threads, for a file; 0 = one per core.

    Returns:
        ``miou`` (a fraction; classes without a pixel are left out), ``iou_per_class``, ``confusions``
        (images x C x C pixels, label by prediction), ``seconds``.

    Raises:
        Missing, BadInput: of ``load``, a broken image, or a file that says that its classes are others than the
            dataset's. RunFailed: the model returned NaN or infinity.
    """
    from kdbench.comparison.evaluate import evaluate as run

    if not isinstance(model, str | os.PathLike):
        return run(model, dataset)
    engine = load(model, threads=threads)
    try:
        classes = _classes_of(Path(model), engine)
        if classes and classes != list(dataset.classes):
            raise BadInput(
                f"'{model}' has the classes {', '.join(classes)}, dataset '{dataset.name}' has "
                f"{', '.join(dataset.classes)}, expected the same: score it on the dataset that it was trained on"
            )
        return run(engine, dataset)
    finally:
        engine.close()


def _classes_of(path: Path, engine: Backend) -> list[str]:
    """What a file says of its classes: in its metadata, or in the sidecar that it was opened by; [] where nothing."""
    from kdbench.backends.onnx_file import OnnxFile
    from kdbench.runs.files import read_json
    from kdbench.runs.tree import sidecar_path

    if isinstance(engine, OnnxFile):
        return list(engine.about.get("classes") or [])
    return list(read_json(sidecar_path(path), "kdbench train").get("classes") or [])


def parity(
    reference: PathLike,
    candidate: PathLike,
    on: SegmentationDataset | PathLike | Sequence[PathLike],
    options: ParityOptions | None = None,
) -> FilesParity:
    """Tell whether two ONNX files, ours or not, are still the same segmentation model on real images.

    Args:
        reference, candidate: the file that is right, and the one that is held against it.
        on: a dataset, whose labels are scored too; or image files and folders of them.
        options: tolerance, images at most, and what files from elsewhere do not say of their input.

    Returns:
        ``same``; else ``problem`` in a sentence, or ``judged`` is False: 8 bits without labels. ``parity`` has the
        numbers: ``pixel_agreement`` (a fraction), ``miou_reference`` and ``miou_candidate`` (None without labels),
        ``as_json()``.

    Raises:
        BadInput: no ONNX file, no segmentation of one image, no image, or numbers of classes that differ.
    """
    from kdbench.comparison.parity_files import ParityOptions, compare_files, open_files, unlabelled
    from kdbench.data import SegmentationDataset
    from kdbench.data.spread import spread

    options = options or ParityOptions()
    if isinstance(on, SegmentationDataset):
        samples, names = spread(on, options.limit), on.classes
    else:
        samples, names = unlabelled(_paths(on), options.limit), None
    files = open_files((Path(reference), Path(candidate)), options)
    return compare_files(files, samples, names, options, str(reference))


def gate(
    baseline: PathLike,
    candidate: PathLike,
    *,
    budget: float = 240.0,
    margin: float = 0.01,
    tolerance: float = 0.03,
    threads: int = 0,
) -> Recording:
    """Tell whether a candidate is slower than a baseline: both are measured side by side, now, in fresh processes.

    Args:
        baseline, candidate: an .onnx file, an export, a checkpoint, or folders of these, which are paired by name.
        budget: seconds for each pair, at most.
        margin: slower by up to this share is no regression.
        tolerance: slower by this share or more is no pass.
        threads: CPU threads inside an engine; 0 = one per core.

    Returns:
        ``verdict()``: ("pass" | "regression" | "inconclusive", why). ``document()`` has ratio, interval and all
        calls in milliseconds; ``write(path)`` keeps it, for ``kdbench regress --replay``.

    Raises:
        Missing, BadInput: no such artifact, one without a counterpart, or sides that compute different things.
        RunFailed: an artifact does not run here.
    """
    from kdbench.regress.artifact import Filter, find_artifacts, pair
    from kdbench.regress.blocks import Settings
    from kdbench.regress.gate import run_gate
    from kdbench.regress.rule import Rule

    if not 0 <= margin < tolerance:
        raise BadInput(f"tolerance: got {tolerance:g} with a margin of {margin:g}, expected more than the margin")
    sides = (find_artifacts(Path(baseline), Filter()), find_artifacts(Path(candidate), Filter()))
    pairs = pair(*sides, (str(baseline), str(candidate)))
    settings = Settings(threads or usable_cores(), "cpu", budget, seed=0, rule=Rule(margin, tolerance))
    return run_gate(pairs, settings, images=[], allow_different_outputs=False, keep=lambda recording: None)


@contextmanager
def open_predictor(
    artifact: PathLike, *, size: tuple[int, int] | None = None, device: str = "cpu"
) -> Iterator[Predictor]:
    """A model that is asked image by image; closed at the end of the ``with`` block.

    Args:
        artifact, size, device: as of ``load``.

    Yields:
        ``class_map(image)``: H x W x 3 uint8 RGB of any size → H x W uint8 class ids; and ``classes``, their names,
        and ``palette``, their colours.

    Raises:
        Missing, BadInput, BackendUnavailable: of ``load``, or a sidecar that does not name the classes.
    """
    from kdbench.backends.onnx_layout import Reading
    from kdbench.predict.images import open_file_predictor, predictor_of

    path = Path(artifact)
    if path.suffix == ".onnx":
        _require_cpu(path, device)
        with open_file_predictor(path, Reading(size=size)) as predictor:
            yield predictor
        return
    engine = load(path, size=size, device=device)
    try:
        yield predictor_of(engine, path, "kdbench train` or `kdbench export")
    finally:
        engine.close()


def predict_images(artifact: PathLike, images: PathLike | Sequence[PathLike], folder: PathLike) -> Predictions:
    """Write NAME-mask.png (class ids, the dataset's colours) and NAME-overlay.png for every image.

    Args:
        artifact: as of ``load``.
        images: image files, and folders of them.
        folder: where to; made when it is not there.

    Returns:
        ``written``: (image, mask file, overlay file) of each; ``problems`` and ``warnings``: a line each.

    Raises:
        Missing, BadInput, BackendUnavailable: of ``load``; a broken image is a problem in the result instead.
    """
    from kdbench.predict.images import predict_images as run

    with open_predictor(artifact) as predictor:
        return run(predictor, _paths(images), Path(folder))


def compare(
    runs: PathLike = "runs",
    *,
    dataset: str | None = None,
    methods: Sequence[str] | None = None,
    backends: Sequence[str] = ("torch", "onnx"),
    precisions: Sequence[str] = ("fp32",),
    rounds: int = 100,
) -> Comparison:
    """Score and time what ``kdbench train`` and ``kdbench export`` made: every method through every backend.

    Args:
        runs: the tree that train, export and compare share.
        dataset: whose runs; None = the one trained last.
        methods: None = those that were trained.
        backends: names of ``kdbench compare --backend``.
        precisions: names of ``kdbench compare --precision``.
        rounds: timed calls per row.

    Returns:
        ``rows``, each with ``status``, ``miou`` (a fraction), ``latency`` (milliseconds) and ``artifact``; and
        ``improvements`` over the baseline. ``write(path)`` makes the file of ``kdbench compare --json``.

    Raises:
        Missing: nothing was trained there. BadInput: an unknown name. What cannot run is a row with its reason.
    """
    from kdbench.backends import BACKENDS
    from kdbench.cli.options import choose, open_trained_dataset, other_splits, recipe_defaults
    from kdbench.comparison.compare import CompareOptions
    from kdbench.comparison.compare import compare as run
    from kdbench.formats import PRECISIONS
    from kdbench.methods.base import student_methods
    from kdbench.runs.tree import USUAL, RunTree

    tree = RunTree.find(Path(runs), dataset, USUAL)
    variants = tuple(tree.trained_variants()) or (None,)
    trees = [tree.of_variant(variant) for variant in variants]
    if methods is None:
        methods = [m for m in student_methods() if any(one.checkpoint(m).exists() for one in trees)]
    options = CompareOptions(
        variants=variants,
        methods=choose("methods", ",".join(methods), (*student_methods(), *tree.imports())),
        backends=choose("backends", ",".join(backends), BACKENDS.names()),
        precisions=choose("precisions", ",".join(precisions), PRECISIONS),
        output="mask", device="cpu", threads=usable_cores(), rounds=rounds, recipe_defaults=recipe_defaults(),
    )  # fmt: skip
    validation = open_trained_dataset(trees[0], None, options.methods[0])
    others = other_splits(trees[0], None, options.methods[0], test=False)
    return run(tree, validation, options, others)


def _paths(paths: PathLike | Sequence[PathLike]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
