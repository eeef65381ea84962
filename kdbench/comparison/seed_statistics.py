"""Whether a method is better than the baseline, and what its seeds allow to be claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdbench.comparison.evaluate import Evaluation
from kdbench.comparison.image_bootstrap import resampled_mious
from kdbench.comparison.results import ErrorOver, Improvement, Verdict

Key = TypeVar("Key", int, tuple[str, int])
"""A seed, or the recording that was held out and a seed."""


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent values; None of a single one, whose spread is unknown."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def independent(by_key: Mapping[Key, float]) -> list[float]:
    """Values that do not depend on each other: each seed's, or, of several folds, each fold's mean over its seeds.

    Trainings of one fold share the recording that is held out, and its teacher: more seeds are no more recordings.
    """
    folds: dict[str, list[float]] = {}
    for key, value in by_key.items():
        folds.setdefault(key[0] if isinstance(key, tuple) else "", []).append(value)
    return [fmean(values) for values in folds.values()] if len(folds) > 1 else list(by_key.values())


def verdict_of(differences: Sequence[float]) -> Verdict:
    """A gain or a loss where 3 paired differences or more have a mean beyond 2 standard errors, else none shown."""
    error = standard_error(differences) if len(differences) >= 3 else None
    if error is None or abs(fmean(differences)) <= 2 * error:
        return "no gain shown"
    return "gain" if fmean(differences) > 0 else "loss"


def improvement_over(
    baseline: dict[Key, Evaluation], method: dict[Key, Evaluation], name: str, variant: str | None = None
) -> Improvement | None:
    """Paired difference of mIoU by seed, of a method and the baseline of its variant; None when they share no seed.

    Over at least 3 pairs the standard error is that of the paired differences. With fewer, the spread over seeds is
    unknown: the standard error is then a paired bootstrap over the images of the first pair, and nothing is claimed.
    Where recordings were held out, pairs are of the same fold and seed. Of several, the standard error is that of the
    folds' mean differences; of fewer than 3 nothing is claimed of recordings.
    """
    keys = sorted(baseline.keys() & method.keys())
    if not keys:
        return None
    deltas = independent({key: method[key].miou - baseline[key].miou for key in keys})
    over: ErrorOver
    folds = {key[0] if isinstance(key, tuple) else "" for key in keys} - {""}
    if len(folds) > 1:
        over, error = "folds", standard_error(deltas) or 0.0
    elif len(deltas) >= 3:
        over, error = "seeds", standard_error(deltas) or 0.0
    else:
        over, error = "images", bootstrap_standard_error(baseline[keys[0]].confusions, method[keys[0]].confusions)
    return Improvement(
        method=name,
        variant=variant,
        delta_miou=fmean(deltas),
        standard_error=error,
        standard_error_over=over,
        seeds=len(keys),
        baseline_miou=fmean(independent({key: baseline[key].miou for key in keys})),
        verdict="no gain shown" if 0 < len(folds) < 3 else verdict_of(deltas),
    )


def bootstrap_standard_error(baseline: NDArray[np.int64], method: NDArray[np.int64], resamples: int = 1000) -> float:
    """Standard error of a difference of mIoU when the same images are drawn again for both (paired bootstrap).

    A draw of images without any label has no mIoU and is left out.

    Args:
        baseline, method: images x C x C confusion matrices of the same images.
    """
    drawn = resampled_mious(method, resamples) - resampled_mious(baseline, resamples)
    differences = drawn[~np.isnan(drawn)]
    return float(np.std(differences, ddof=1)) if differences.size > 1 else 0.0
