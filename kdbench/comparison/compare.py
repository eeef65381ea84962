"""The comparison: every method through every backend, accuracy and latency of the same bytes.

A row that cannot run keeps its place and says why. Nothing is claimed of a method that its seeds do not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends import BACKENDS, artifact_of, load_backend, runs_checkpoints
from kdbench.comparison.evaluate import Evaluation, evaluate
from kdbench.comparison.fairness import notes_on
from kdbench.comparison.latency import LatencyCase, measure
from kdbench.comparison.results import Artifact, Comparison, Row, Status, Teacher
from kdbench.comparison.seed_statistics import improvement_over
from kdbench.data import SegmentationDataset
from kdbench.data.preprocessing import Size, resize_image
from kdbench.errors import (
    BackendUnavailable,
    BadInput,
    EngineRefused,
    KdbenchError,
    Missing,
    NoSuchPrecision,
    RunFailed,
)
from kdbench.formats import companions
from kdbench.machine.environment import environment
from kdbench.models.registry import count_gflops
from kdbench.progress import progress_bar
from kdbench.runs.files import sha256
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path

TIMED_IMAGES = 8


@dataclass(frozen=True)
class CompareOptions:
    """What to compare; see ``kdbench compare --help``.

    Attributes:
        recipe_defaults: a recipe's fields and their defaults: what was done before a field existed.
    """

    methods: tuple[str, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    output: str
    device: str
    threads: int
    rounds: int
    recipe_defaults: dict[str, Any]


@dataclass
class _Reference:
    """A method's checkpoints through PyTorch: seed → evaluation; the first is what exports are held against."""

    by_seed: dict[int, Evaluation] = field(default_factory=dict)
    sidecars: list[dict[str, Any]] = field(default_factory=list)
    error: KdbenchError | None = None


def compare(tree: RunTree, dataset: SegmentationDataset, options: CompareOptions) -> Comparison:
    """Evaluate and time all rows.

    Args:
        tree: where checkpoints and exports lie.
        dataset: the split to score on.
    """
    references = {method: _evaluate_checkpoints(tree, method, dataset, options) for method in options.methods}
    size = _common_size(references)
    rows = [
        _row(tree, (method, backend, precision), dataset, options, references[method])
        for method in options.methods
        for backend in options.backends
        for precision in BACKENDS[backend].rows(options.precisions)
    ]
    if size is not None:
        _add_latency(tree, rows, dataset, size, options)
    baseline = references.get("baseline")
    improvements = [
        improvement
        for method, reference in references.items()
        if method != "baseline" and baseline is not None
        if (improvement := improvement_over(baseline.by_seed, reference.by_seed, method)) is not None
    ]
    notes = []
    try:
        teacher = _teacher(tree, baseline)
    except KdbenchError as error:  # what was measured must not be lost to it
        teacher = None
        notes.append(f"the teacher is left out: {' '.join(str(error).split())}")
    trained = {method: found.sidecars[0] for method, found in references.items() if found.sidecars}
    return Comparison(
        environment=environment(),
        dataset={
            "name": dataset.name, "split": dataset.split, "images": len(dataset), "classes": list(dataset.classes),
            "size": list(size) if size else None,
        },
        timing={
            "call": "uint8 image → uint8 class map" if options.output == "mask" else "normalised image → logits",
            "batch": 1, "threads": options.threads, "rounds": options.rounds, "device": options.device,
            "tool": "pytest-benchmark, one process per backend",
        },
        rows=rows,
        improvements=improvements,
        teacher=teacher,
        training={method: _training(reference) for method, reference in references.items() if reference.sidecars},
        notes=[*notes, *notes_on(trained, improvements, teacher, options.recipe_defaults)],
    )  # fmt: skip


def _evaluate_checkpoints(
    tree: RunTree, method: str, dataset: SegmentationDataset, options: CompareOptions
) -> _Reference:
    reference = _Reference()
    try:
        paths = tree.seed_checkpoints(method)
        if not tree.checkpoint(method).exists():
            raise Missing(
                f"no checkpoint '{tree.checkpoint(method)}': make it with "
                f"`kdbench train --method {method} --dataset {tree.dataset}`"
            )
        for path in paths:
            command = f"kdbench train --method {method} --dataset {tree.dataset}"
            sidecar = read_training_sidecar(sidecar_path(path), command)
            if sidecar["classes"] != list(dataset.classes):
                raise BadInput(
                    f"'{path}' was trained on the classes {', '.join(sidecar['classes'])}; "
                    f"dataset '{dataset.name}' has {', '.join(dataset.classes)} now: "
                    f"put back its classes, or train again with `{command}`"
                )
            if sidecar["seed"] in reference.by_seed:
                raise BadInput(
                    f"'{path}' has the seed {sidecar['seed']}, which an earlier one of {method} has, expected each "
                    "seed once: remove the copy"
                )
            title = f"{method} seed {sidecar['seed']}, torch"
            reference.by_seed[sidecar["seed"]] = _evaluate("torch", path, dataset, options, title)
            reference.sidecars.append(sidecar)
    except KdbenchError as error:
        reference.error = error
    return reference


def _evaluate(
    backend_name: str, artifact: Path, dataset: SegmentationDataset, options: CompareOptions, title: str
) -> Evaluation:
    backend = load_backend(
        backend_name, artifact, output=options.output, device=options.device, threads=options.threads
    )
    try:
        with progress_bar(f"evaluate {title}", len(dataset)) as bar:
            return evaluate(backend, dataset, keep_predictions=True, on_image=bar.advance)
    finally:
        backend.close()


def _common_size(references: dict[str, _Reference]) -> Size | None:
    sizes = {tuple(sidecar["size"]) for reference in references.values() for sidecar in reference.sidecars}
    if len(sizes) > 1:
        raise RunFailed(f"methods were trained at different sizes {sorted(sizes)}: train them with the same --size")
    return next(iter(sizes)) if sizes else None


def _row(
    tree: RunTree,
    of: tuple[str, str, str],
    dataset: SegmentationDataset,
    options: CompareOptions,
    reference: _Reference,
) -> Row:
    """Score one row.

    Args:
        of: method, backend and precision.
    """
    method, backend, precision = of
    row = Row(method=method, backend=backend, precision=precision, output=options.output, status="ok")
    path = artifact_of(tree, method, backend, precision, options.output)
    if reference.sidecars:
        first = reference.sidecars[0]
        row.params = first["params"]
        row.gflops = count_gflops(first["arch"], len(first["classes"]), (first["size"][0], first["size"][1]))
    try:
        if (why_not := BACKENDS[backend].why_not(precision)) is not None:
            raise NoSuchPrecision(why_not)
        if reference.error is not None:
            raise reference.error
        expected = next(iter(reference.by_seed.values()))
        if backend == "torch":
            result = expected
        else:
            result = _evaluate(backend, path, dataset, options, f"{method}, {backend} {precision}")
        row.miou = result.miou
        row.iou_per_class = [None if math.isnan(v) else float(v) for v in result.iou_per_class]
        row.agreement_with_torch = pixel_agreement(expected.predictions, result.predictions)
        row.engine = result.engine
    except KdbenchError as error:
        row.status, row.reason = _status(error, backend, path), " ".join(str(error).split())
    if path.is_file():
        row.artifact = Artifact(
            path=path.relative_to(tree.root).as_posix(),
            sha256=sha256(path),
            bytes=sum(file.stat().st_size for file in (path, *companions(path))),
        )
    return row


def _status(error: KdbenchError, backend: str, artifact: Path) -> Status:
    if isinstance(error, NoSuchPrecision):
        return "unsupported"
    if isinstance(error, BackendUnavailable) and not isinstance(error, EngineRefused):
        # PyTorch's backends load the checkpoint: nothing was built for them.
        return "built" if artifact.exists() and not runs_checkpoints(backend) else "unavailable"
    return "unavailable" if isinstance(error, Missing | EngineRefused) else "failed"


def pixel_agreement(expected: list[NDArray[np.uint8]], got: list[NDArray[np.uint8]]) -> float:
    """Share of pixels with the same class over all images."""
    same = sum(int((a == b).sum()) for a, b in zip(expected, got, strict=True))
    return same / sum(a.size for a in expected)


def _add_latency(
    tree: RunTree, rows: list[Row], dataset: SegmentationDataset, size: Size, options: CompareOptions
) -> None:
    images = [resize_image(dataset[i].image, size) for i in range(min(TIMED_IMAGES, len(dataset)))]
    runnable = [row for row in rows if row.status == "ok"]
    backends = list(dict.fromkeys(row.backend for row in runnable))
    with progress_bar("latency", len(runnable)) as bar:
        for backend in backends:
            group = {f"{row.method}-{row.precision}": row for row in runnable if row.backend == backend}
            cases = [
                LatencyCase(name, backend, str(artifact_of(tree, row.method, backend, row.precision, row.output)),
                            row.output, size if runs_checkpoints(backend) else None)
                for name, row in group.items()
            ]  # fmt: skip
            try:
                measured = measure(
                    cases, images, device=options.device, threads=options.threads, rounds=options.rounds,
                    keep_json=tree.latency(backend),
                )  # fmt: skip
                for name, row in group.items():
                    row.latency = measured[name]
            except RunFailed as error:
                for row in group.values():
                    row.status, row.reason = "failed", str(error)
            bar.advance(len(group), backend)


def _teacher(tree: RunTree, baseline: _Reference | None) -> Teacher | None:
    """The teacher and its lead over the baseline's mean over all seeds; no lead without a baseline that was scored."""
    path = sidecar_path(tree.checkpoint("teacher"))
    if not path.exists():
        return None
    sidecar = read_training_sidecar(path, f"kdbench train --method teacher --dataset {tree.dataset}")
    miou, scores = sidecar["miou"], [] if baseline is None else [e.miou for e in baseline.by_seed.values()]
    return Teacher(
        arch=sidecar["arch"], params=sidecar["params"], miou=miou, lead=miou - fmean(scores) if scores else None
    )


def _training(reference: _Reference) -> dict[str, Any]:
    first = reference.sidecars[0]
    return {
        "seeds": [s["seed"] for s in reference.sidecars],
        "miou_by_seed": [e.miou for e in reference.by_seed.values()],
        "iou_per_class": mean_iou_per_class(list(reference.by_seed.values())),
        "epochs": first["epoch"],
        "steps": first["steps"],
        "train_images": first["train_images"],
        "train_seconds": [s["train_seconds"] for s in reference.sidecars],
        "revision": first["environment"]["git"]["revision"],
        "command": first["environment"]["command"],
        "recipe": first["recipe"],
    }


def mean_iou_per_class(evaluations: list[Evaluation]) -> list[float | None]:
    """Each class's IoU, mean over trainings; None where the labels lack it."""
    means = np.mean([evaluation.iou_per_class for evaluation in evaluations], axis=0)
    return [None if math.isnan(value) else float(value) for value in means]
