"""Segmentation accuracy: one confusion matrix over a whole split, and what is read off it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdbench.data.labels import IGNORE
from kdbench.errors import BadInput


def confusion_matrix(label: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count pixels by (label, prediction), ignoring pixels labelled 255.

    Args:
        label: H x W, values 0 … classes-1 or 255.
        prediction: H x W, values 0 … classes-1.
        classes: number of classes C.

    Returns:
        C x C counts, row = label, column = prediction.

    Raises:
        BadInput: a prediction outside the classes, which would be counted in a wrong cell.
    """
    if prediction.max(initial=0) >= classes:
        raise BadInput(
            f"prediction: got class {prediction.max()}, expected 0 to {classes - 1}: "
            "the model was trained for another set of classes than the dataset's"
        )
    valid = label != IGNORE
    return count_pairs(label[valid], prediction[valid], classes)


def count_pairs(first: NDArray[np.uint8], second: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """C x C counts of two class maps of one shape, row = first, column = second; every pixel counts.

    Args:
        first, second: values 0 … classes-1, of which 255 may be one.
    """
    pairs = first.ravel().astype(np.int32) * classes + second.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def overlap_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of two class maps, class by class; NaN for a class that is in neither.

    Args:
        confusion: … x C x C counts; leading dimensions (bootstrap samples) are kept.
    """
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - intersection
    return np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)


def iou_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union with the labels, class by class; NaN for a class without a labelled pixel.

    Whatever predicted, the same classes count: a stray pixel of a class that no label has would otherwise be a zero in
    one model's mean and not in another's. It still counts against the class whose pixel it took.

    Args:
        confusion: … x C x C counts, row = label; leading dimensions (bootstrap samples) are kept.
    """
    return np.where(confusion.sum(-1) > 0, overlap_per_class(confusion), np.nan)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in the labels; NaN when none does."""
    per_class = iou_per_class(confusion)
    return float(np.nanmean(per_class)) if not np.isnan(per_class).all() else float("nan")
