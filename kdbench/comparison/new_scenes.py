"""Scores beside the validation split's: on recordings that were held out, fold by fold, and on a test split."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.comparison.evaluate import Evaluation
from kdbench.comparison.metrics import mean_iou
from kdbench.comparison.references import Run, Through, evaluate_reference
from kdbench.comparison.results import GroupScore, Improvement, Row, Split
from kdbench.comparison.seed_statistics import improvement_over
from kdbench.data import SegmentationDataset
from kdbench.data.held_out import hold_out
from kdbench.errors import KdbenchError, as_bug
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import sidecar_path

Key = tuple[str, int]
"""The recording that a training held out, "" of none, and its seed."""


@dataclass(frozen=True)
class OtherSplits:
    """What trainings are scored on besides validation.

    Attributes:
        train: beside which validation's recordings are held out; needed where there are folds.
        test: the test split, where it was asked for.
    """

    train: SegmentationDataset | None = None
    test: SegmentationDataset | None = None


VALIDATION_ALONE = OtherSplits()
SHOWN = 3
"""Trainings that a note names."""


@dataclass
class Scores:
    """Of one run on one split.

    Attributes:
        by_key: recording held out and seed → evaluation, pooled over the split's images.
        groups: the recording of each image, by key; None where that is not known.
        folds: name of a fold's run → sidecars of its seeds.
        problems: why something is missing.
    """

    by_key: dict[Key, Evaluation] = field(default_factory=dict)
    groups: dict[Key, list[str | None]] = field(default_factory=dict)
    folds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def miou(self) -> float:
        """Mean over folds of the mean over seeds."""
        folds = {group for group, _ in self.by_key}
        return fmean(fmean(e.miou for (its, _), e in self.by_key.items() if its == group) for group in sorted(folds))

    def by_group(self) -> dict[str, float]:
        """Recording → mIoU on its images, mean over trainings; empty where recordings are not known.

        A recording without a labelled pixel is left out.
        """
        found: dict[str, list[float]] = {}
        for key, evaluation in self.by_key.items():
            for group, confusions in counts_by_group(evaluation, self.groups[key]).items():
                if not math.isnan(miou := mean_iou(confusions)):
                    found.setdefault(group, []).append(miou)
        return {group: fmean(values) for group, values in sorted(found.items())}


def counts_by_group(evaluation: Evaluation, groups: list[str | None]) -> dict[str, NDArray[np.int64]]:
    """Recording → C x C counts of its images."""
    return {
        group: evaluation.confusions[[its == group for its in groups]].sum(0)
        for group in sorted({group for group in groups if group is not None})
    }


def groups_in(dataset: SegmentationDataset) -> list[str | None]:
    return [dataset.group_of(index) for index in range(len(dataset))]


def other_scores(
    run: Run, validation: SegmentationDataset, others: OtherSplits, options: Through
) -> dict[Split, Scores]:
    """Every seed of a run on the test split, and its folds each on the recording that it held out.

    Whatever goes wrong is told in ``Scores.problems``.
    """
    found: dict[Split, Scores] = {}
    if others.train is not None and (folds := fold_runs(run)):
        scores = found.setdefault("new_scenes", Scores())
        for fold in folds:
            try:
                sidecar = read_training_sidecar(sidecar_path(fold.tree.checkpoint(fold.method)), fold.command)
                _, held = hold_out(others.train, validation, sidecar["hold_out"])
                add(scores, fold, held, sidecar["hold_out"], options)
            except KdbenchError as error:
                scores.problems.append(f"{fold.name}: {' '.join(str(error).split())}")
            except Exception as error:  # a bug keeps its traceback, and costs no row its numbers
                scores.problems.append(f"{fold.name}: {as_bug(error)}")
    if others.test is not None and run.tree.checkpoint(run.method).exists():
        add(found.setdefault("test", Scores()), run, others.test, "", options)
    return {split: scores for split, scores in found.items() if scores.by_key or scores.problems}


def fold_runs(run: Run) -> list[Run]:
    """The folds of a run that were trained."""
    folds = [Run(tree, run.method) for tree in run.tree.folds()]
    return [fold for fold in folds if fold.tree.checkpoint(fold.method).exists()]


def add(scores: Scores, run: Run, dataset: SegmentationDataset, group: str, options: Through) -> None:
    reference = evaluate_reference(run, dataset, options)
    if reference.error is not None:
        scores.problems.append(f"{run.name}: {' '.join(str(reference.error).split())}")
    if group and reference.sidecars:
        scores.folds[run.name] = reference.sidecars
    for seed, evaluation in reference.by_seed.items():
        if math.isnan(evaluation.miou):
            scores.problems.append(
                f"{run.name}: no pixel of '{group or dataset.split}' has a label, so it has no score"
            )
            return
        evaluation.predictions = []  # only counts are needed, and predictions take memory
        scores.by_key[group, seed] = evaluation
        scores.groups[group, seed] = groups_in(dataset)


def add_to_rows(rows: list[Row], means: dict[str, float], others: dict[str, dict[Split, Scores]]) -> None:
    """Give PyTorch's rows their scores by split.

    Args:
        means: run → mIoU on validation, mean over seeds.
        others: run → split → scores.
    """
    for row in rows:
        scores = {split: found.miou for split, found in others.get(row.run, {}).items() if found.by_key}
        if scores and (row.backend, row.precision) == ("torch", "fp32"):
            row.miou_by_split = {**({"val": means[row.run]} if row.run in means else {}), **scores}


def improvements_elsewhere(runs: list[Run], others: dict[str, dict[Split, Scores]]) -> list[Improvement]:
    """Each method's gain over the baseline of its variant on every other split, paired by fold and seed."""
    gains = []
    for split in ("new_scenes", "test"):
        for run in runs:
            base = others.get(run.tree.run("baseline"), {}).get(split)
            ours = others.get(run.name, {}).get(split)
            if run.method == "baseline" or base is None or ours is None:
                continue
            gain = improvement_over(base.by_key, ours.by_key, run.method, run.tree.variant)
            if gain is None:
                continue
            shared = base.by_key.keys() & ours.by_key.keys()
            folds = Counter(group for group, _ in shared)
            gains.append(
                gain.model_copy(
                    update={
                        "on": split, "seeds": min(folds.values()), "folds": None if split == "test" else len(folds),
                        "miou_by_group": group_scores(base, ours, shared) or None,
                    }
                )
            )  # fmt: skip
    return gains


def group_scores(baseline: Scores, method: Scores, shared: set[Key]) -> dict[str, GroupScore]:
    """By recording, over the trainings that both have."""
    theirs, ours = (
        Scores({key: scores.by_key[key] for key in shared}, scores.groups).by_group() for scores in (baseline, method)
    )
    return {group: GroupScore(miou=ours[group], delta_miou=ours[group] - theirs[group]) for group in ours}


def uneven_notes(others: dict[str, dict[Split, Scores]]) -> list[str]:
    """Runs whose mean on new scenes is over other folds and seeds than that of another method of the same variant."""
    keys = {run: set(found["new_scenes"].by_key) for run, found in others.items() if "new_scenes" in found}
    notes = []
    for run, own in keys.items():
        variant = run.rpartition("/")[0]
        every = set().union(*(its for other, its in keys.items() if other.rpartition("/")[0] == variant))
        if lacking := sorted(every - own):
            listed = ", ".join(f"{group} seed {seed}" for group, seed in lacking[:SHOWN])
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            notes.append(
                f"{run}: its mean on new scenes lacks {listed}{more}, which another method has: compare the paired "
                "differences, or train with --folds and the same --seeds --resume"
            )
    return notes


def problems_of(others: dict[str, dict[Split, Scores]]) -> list[str]:
    """What is missing and why, for the notes."""
    return [problem for splits in others.values() for scores in splits.values() for problem in scores.problems]
