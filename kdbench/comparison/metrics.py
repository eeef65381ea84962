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
    pairs = label[valid].astype(np.int32) * classes + prediction[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union per class; NaN for a class absent from both label and prediction.

    Args:
        confusion: … x C x C counts; leading dimensions (bootstrap samples) are kept.
    """
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion.sum(-2) - intersection
    return np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in label or prediction; NaN when none does."""
    per_class = iou_per_class(confusion)
    return float(np.nanmean(per_class)) if not np.isnan(per_class).all() else float("nan")
