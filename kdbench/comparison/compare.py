"""The comparison: every method through every backend, accuracy and latency of the same bytes.

A row that cannot run keeps its place and says why. Nothing is claimed of a method that its seeds do not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends import BACKENDS, artifact_of, runs_checkpoints
from kdbench.comparison.evaluate import Evaluation
from kdbench.comparison.fairness import notes_on
from kdbench.comparison.image_bootstrap import miou_interval, miou_loss
from kdbench.comparison.latency import throttled_notes
from kdbench.comparison.new_scenes import (
    VALIDATION_ALONE,
    OtherSplits,
    add_to_rows,
    improvements_elsewhere,
    other_scores,
    problems_of,
    uneven_notes,
)
from kdbench.comparison.references import Reference, Run, evaluate_artifact, evaluate_reference, require_one_size
from kdbench.comparison.results import Artifact, Comparison, Row, Status, Teacher
from kdbench.comparison.seed_statistics import improvement_over
from kdbench.comparison.timed_rows import add_latency, add_throughput, batch_notes
from kdbench.data import SegmentationDataset
from kdbench.errors import (
    BackendUnavailable,
    EngineRefused,
    KdbenchError,
    Missing,
    NoSuchPrecision,
    RunFailed,
    as_bug,
)
from kdbench.formats import companions
from kdbench.machine.apart import LIMIT_S
from kdbench.machine.environment import environment
from kdbench.models.network import Network
from kdbench.runs.files import sha256
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path


@dataclass(frozen=True)
class CompareOptions:
    """What to compare; see ``kdbench compare --help``.

    Attributes:
        methods: of the usual training; of a variant, those of them that were trained.
        recipe_defaults: a recipe's fields and their defaults: what was done before a field existed.
        variants: to compare beside each other; None among them is the usual training.
        limit_s: seconds that an imported file may take to score, and any artifact to time.
        batches: sizes that images per second are measured at; 1 is always measured.
    """

    methods: tuple[str, ...]
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    output: str
    device: str
    threads: int
    rounds: int
    recipe_defaults: dict[str, Any]
    variants: tuple[str | None, ...] = (None,)
    limit_s: float = LIMIT_S
    batches: tuple[int, ...] = (1,)


def compare(
    tree: RunTree, dataset: SegmentationDataset, options: CompareOptions, others: OtherSplits = VALIDATION_ALONE
) -> Comparison:
    """Evaluate and time all rows.

    Args:
        tree: where checkpoints and exports lie.
        dataset: the split to score on.
        others: what PyTorch's rows are scored on besides.
    """
    runs = _runs(tree, options)
    references = {run.name: evaluate_reference(run, dataset, options) for run in runs}
    elsewhere = {
        run.name: scores
        for run in runs
        if not run.tree.is_import(run.method) and (scores := other_scores(run, dataset, others, options))
    }
    for variant in options.variants:
        require_one_size([references[run.name] for run in runs if run.tree.variant == variant])
    rows = [
        _row(run, (backend, precision), dataset, options, references[run.name])
        for run in runs
        for backend in options.backends
        for precision in BACKENDS[backend].rows(options.precisions)
    ]
    means = {name: fmean(e.miou for e in r.by_seed.values()) for name, r in references.items() if r.by_seed}
    add_to_rows(rows, means, elsewhere)
    sizes = {name: size for name, reference in references.items() if (size := reference.size) is not None}
    size = next(iter(sizes.values()), None)
    add_latency(tree, rows, dataset, sizes, options)
    add_throughput(tree, rows, dataset, sizes, options)
    first = tree.of_variant(options.variants[0])
    improvements = [
        improvement
        for run in runs
        if run.method != "baseline" and (base := references.get(run.tree.run("baseline"))) is not None
        if (improvement := improvement_over(
            base.by_seed, references[run.name].by_seed, run.method, run.tree.variant)) is not None
    ]  # fmt: skip
    improvements += improvements_elsewhere(runs, elsewhere)
    notes = [*problems_of(elsewhere), *uneven_notes(elsewhere)]
    try:
        teacher = _teacher(first, references.get(first.run("baseline")))
    except KdbenchError as error:  # what was measured must not be lost to it
        teacher = None
        notes.append(f"the teacher is left out: {' '.join(str(error).split())}")
    trained = {name: found.sidecars for name, found in references.items() if found.sidecars}
    folds = {
        fold: sidecars
        for its in elsewhere.values()
        for scores in its.values()
        for fold, sidecars in scores.folds.items()
    }
    return Comparison(
        environment=environment(),
        dataset={
            "name": dataset.name, "split": dataset.split, "images": len(dataset), "classes": list(dataset.classes),
            "size": list(size) if size else None,
            **({} if others.test is None else {"test_images": len(others.test)}),
        },
        timing={
            "call": "uint8 image → uint8 class map" if options.output == "mask" else "normalised image → logits",
            "batch": 1, "threads": options.threads, "rounds": options.rounds, "device": options.device,
            "tool": "pytest-benchmark, one process per backend",
        },
        rows=rows,
        improvements=improvements,
        teacher=teacher,
        training={name: _training(reference) for name, reference in references.items() if reference.sidecars},
        notes=[
            *notes, *throttled_notes(rows), *batch_notes(rows),
            *notes_on(trained, folds, improvements, teacher, options.recipe_defaults),
        ],
    )  # fmt: skip


def _runs(tree: RunTree, options: CompareOptions) -> list[Run]:
    imported = [method for method in options.methods if tree.is_import(method)]
    trained = [method for method in options.methods if method not in imported]
    every = [Run(tree.of_variant(variant), method) for variant in options.variants for method in trained]
    kept = [run for run in every if run.tree.variant is None or run.tree.checkpoint(run.method).exists()]
    return kept + [Run(tree.of_variant(None), method) for method in imported]


def _row(
    run: Run,
    through: tuple[str, str],
    dataset: SegmentationDataset,
    options: CompareOptions,
    reference: Reference,
) -> Row:
    """Score one row.

    Args:
        through: backend and precision.
    """
    backend, precision = through
    row = Row(
        method=run.method, variant=run.tree.variant, backend=backend, precision=precision, output=options.output,
        status="ok", **reference.about_row(),
    )  # fmt: skip
    path = artifact_of(run.tree, run.method, backend, precision, options.output)
    try:
        if (why_not := BACKENDS[backend].why_not(precision)) is not None:
            raise NoSuchPrecision(why_not)
        if reference.imported is not None and runs_checkpoints(backend):
            raise NoSuchPrecision(f"{run.method} was imported as an ONNX file: there is no checkpoint to load")
        expected = reference.expected
        if (backend, precision) == reference.through:
            result = expected
        else:
            title = f"{run.name}, {backend} {precision}"
            foreign = run.tree.is_import(run.method)
            result = evaluate_artifact(backend, path, dataset, options, title, apart=foreign)
        require_same_size(expected, result, row.reference_row)
        row.miou = result.miou
        row.miou_ci95 = miou_interval(result.confusions)
        row.miou_loss = miou_loss(expected.confusions, result.confusions, row.reference_row)
        row.iou_per_class = [None if math.isnan(v) else float(v) for v in result.iou_per_class]
        row.agreement_with_torch = pixel_agreement(expected.predictions, result.predictions)
        row.engine = result.engine
    except KdbenchError as error:
        row.status, row.reason = _status(error, backend, path), " ".join(str(error).split())
    except Exception as error:  # a bug keeps its traceback, and costs no other row its numbers
        row.status, row.reason = "failed", as_bug(error)
    if path.is_file():
        row.artifact = Artifact(
            path=path.relative_to(run.tree.root).as_posix(),
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


def require_same_size(expected: Evaluation, got: Evaluation, reference: str) -> None:
    """Raise RunFailed where an export has another input than what it is compared with, and so another task."""
    sizes = ["x".join(map(str, found.predictions[0].shape)) for found in (expected, got)]
    if sizes[0] != sizes[1]:
        raise RunFailed(
            f"the export takes {sizes[1]}, {reference} was scored at {sizes[0]}, the size of training, expected one "
            "size in a table: export again without --size"
        )


def pixel_agreement(expected: list[NDArray[np.uint8]], got: list[NDArray[np.uint8]]) -> float:
    """Share of pixels with the same class over all images."""
    same = sum(int((a == b).sum()) for a, b in zip(expected, got, strict=True))
    return same / sum(a.size for a in expected)


def _teacher(tree: RunTree, baseline: Reference | None) -> Teacher | None:
    """The teacher and its lead over the baseline's mean over all seeds; no lead without a baseline that was scored."""
    path = sidecar_path(tree.checkpoint("teacher"))
    if not path.exists():
        return None
    sidecar = read_training_sidecar(path, f"kdbench train --method teacher --dataset {tree.dataset}")
    miou, scores = sidecar["miou"], [] if baseline is None else [e.miou for e in baseline.by_seed.values()]
    return Teacher(
        arch=Network.recorded(sidecar).label,
        params=sidecar["params"],
        miou=miou,
        lead=miou - fmean(scores) if scores else None,
    )


def _training(reference: Reference) -> dict[str, Any]:
    first = reference.sidecars[0]
    return {
        "seeds": [s["seed"] for s in reference.sidecars],
        "miou_by_seed": [e.miou for e in reference.by_seed.values()],
        "iou_per_class": mean_iou_per_class(list(reference.by_seed.values())),
        "size": first["size"],
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
