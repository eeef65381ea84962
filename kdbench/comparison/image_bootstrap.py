"""How far accuracy depends on which images a split happens to have: a bootstrap over images.

The resamples of two models of the same images are the same draws, so that their difference is paired: what one hard
image does to both of them cancels out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdbench.comparison.metrics import mean_iou
from kdbench.comparison.results import MiouLoss

RESAMPLES = 1000


def resampled_mious(confusions: NDArray[np.int64], resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """mIoU of the split with its images drawn again, with replacement; the same draws for every model.

    Args:
        confusions: images x C x C counts, row = label.
    """
    images = len(confusions)
    return mious_of_draws(
        confusions, np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=resamples)
    )


def mious_of_draws(confusions: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """mIoU of the images of each draw.

    Args:
        confusions: images x C x C counts, row = label.
        draws: draws x images, how often each image was drawn.

    Returns:
        One mIoU per draw; NaN of one in which no class has a labelled pixel.
    """
    # IoU needs no more of a confusion matrix than these sums; as floats they are exact, and multiply faster.
    diagonal = np.diagonal(confusions, axis1=1, axis2=2)
    right, labelled, predicted = (
        draws.astype(np.float64) @ counts.astype(np.float64)
        for counts in (diagonal, confusions.sum(2), confusions.sum(1))
    )
    seen = labelled > 0
    iou = np.divide(right, labelled + predicted - right, out=np.zeros_like(right), where=seen)
    classes = seen.sum(1)
    return np.divide(iou.sum(1), classes, out=np.full(len(draws), np.nan), where=classes > 0)


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95% of resamples; None where none of them is a number."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def miou_interval(confusions: NDArray[np.int64]) -> tuple[float, float] | None:
    """95% interval of mIoU over images; None of fewer than two images, which say nothing of others."""
    return interval(resampled_mious(confusions)) if len(confusions) > 1 else None


def miou_loss(reference: NDArray[np.int64], candidate: NDArray[np.int64], of: str) -> MiouLoss:
    """What a row loses against its method's float32 row.

    Args:
        reference, candidate: images x C x C confusion matrices of the same images.
        of: names the reference.
    """
    loss = mean_iou(reference.sum(0)) - mean_iou(candidate.sum(0))
    paired = interval(resampled_mious(reference) - resampled_mious(candidate)) if len(reference) > 1 else None
    return MiouLoss(of=of, loss=loss, ci95=paired)
