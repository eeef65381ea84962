"""Whether two engines are still the same model, in segmentation terms, on real images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.comparison.evaluate import class_maps
from kdbench.comparison.metrics import confusion_matrix, count_pairs, iou_per_class, mean_iou, overlap_per_class
from kdbench.comparison.numbers import fraction
from kdbench.data import Sample
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.errors import BadInput

AGREEMENT = {"fp32": 0.999, "fp16": 0.995}
"""Least share of pixels, by precision, that must have the reference's class."""
INT8_LOSS = 0.01
"""mIoU that int8 may lose. Agreement says little there: rounding moves borders, in both directions."""
LOGIT_SHARE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.25}
"""Largest difference of a logit, as a share of the reference's range, where masks hold one class and cannot tell."""
CLASS_LOSS = 0.02
"""A class that loses more IoU is marked: a small mean change can hide one broken class."""


@dataclass(frozen=True)
class Parity:
    """An export against a reference on the same images.

    Attributes:
        classes: names of the classes.
        confusion_reference, confusion_candidate: C x C counts against the labels, at the labels' resolution.
        confusion_between: C x C counts, reference's class by candidate's, at the engines' size.
        images: how many were compared.
        max_logit_difference: largest absolute difference of a logit; None where only masks are known.
        finite: whether every output of both was finite.
        logit_range: highest minus lowest logit of the reference; None with ``max_logit_difference``.
    """

    classes: tuple[str, ...]
    confusion_reference: NDArray[np.int64]
    confusion_candidate: NDArray[np.int64]
    confusion_between: NDArray[np.int64]
    images: int
    max_logit_difference: float | None
    finite: bool = True
    logit_range: float | None = None

    @property
    def classes_seen(self) -> int:
        """How many classes the reference's masks hold. With one alone, any constant mask of it agrees."""
        return int(self.confusion_between.any(axis=1).sum())

    @property
    def pixel_agreement(self) -> float:
        """Share of pixels with the same class, 0 to 1."""
        return float(self.confusion_between.trace() / max(1, self.confusion_between.sum()))

    @property
    def labelled(self) -> bool:
        return bool(self.confusion_reference.sum())

    @property
    def miou_reference(self) -> float | None:
        return mean_iou(self.confusion_reference) if self.labelled else None

    @property
    def miou_candidate(self) -> float | None:
        return mean_iou(self.confusion_candidate) if self.labelled else None

    def class_changes(self) -> list[float]:
        """IoU against the labels, candidate minus reference; NaN where no label has the class."""
        return (iou_per_class(self.confusion_candidate) - iou_per_class(self.confusion_reference)).tolist()

    def as_json(self) -> dict[str, Any]:
        def numbers(values: Any) -> list[float | None]:
            return [None if math.isnan(v) else float(v) for v in values]

        return {
            "images": self.images,
            "pixel_agreement": self.pixel_agreement,
            "class_agreement": numbers(overlap_per_class(self.confusion_between)),
            "miou_reference": self.miou_reference,
            "miou_candidate": self.miou_candidate,
            "iou_reference": numbers(iou_per_class(self.confusion_reference)),
            "iou_candidate": numbers(iou_per_class(self.confusion_candidate)),
            "worse_classes": [
                name for name, change in zip(self.classes, self.class_changes(), strict=True) if change < -CLASS_LOSS
            ],
            "classes_seen": self.classes_seen,
            "max_logit_difference": self.max_logit_difference,
            "logit_range": self.logit_range,
            "finite": self.finite,
        }


def compare_outputs(
    reference: Backend, candidate: Backend, samples: Sequence[Sample], classes: Sequence[str]
) -> Parity:
    """Run both on the same images, resized as everywhere in kdbench.

    Args:
        reference, candidate: engines; where their sizes differ the candidate's class map is resized, and logits are
            compared only where both return them in one shape.
        samples: real images; labels of 255 alone count nowhere.
        classes: what the class ids mean.
    """
    if not len(samples):
        raise BadInput("parity: got no image, expected at least one real image to compare on")
    count = len(classes)
    against_labels = [np.zeros((count, count), dtype=np.int64) for _ in range(2)]
    between = np.zeros((count, count), dtype=np.int64)
    both_logits = reference.output == candidate.output == "logits"
    difference: float | None = None
    low, high = math.inf, -math.inf
    for index in range(len(samples)):
        sample = samples[index]
        outputs = [
            backend.infer(backend.prepare(resize_image(sample.image, backend.size)))
            for backend in (reference, candidate)
        ]
        if not all(np.isfinite(output).all() for output in outputs):
            # A difference that is NaN or infinite would not be JSON; ``finite`` tells of it.
            return Parity(tuple(classes), against_labels[0], against_labels[1], between, index + 1, None, False)
        if both_logits and outputs[0].shape == outputs[1].shape:
            difference = max(difference or 0.0, float(np.abs(outputs[0] - outputs[1]).max()))
            low, high = min(low, float(outputs[0].min())), max(high, float(outputs[0].max()))
        maps = [class_maps(output, sample.label.shape, f"image '{sample.name}'") for output in outputs]
        for which in (0, 1):
            against_labels[which] += confusion_matrix(sample.label, maps[which][0], count)
        candidate_map = maps[1][1]
        if candidate_map.shape != maps[0][1].shape:
            candidate_map = resize_label(candidate_map, reference.size)
        # In a mask of 0 and 255, 255 is a class as any other: it means "ignore" in labels alone.
        between += count_pairs(maps[0][1], candidate_map, count)
    return Parity(
        tuple(classes), against_labels[0], against_labels[1], between, len(samples), difference,
        logit_range=None if difference is None else high - low,
    )  # fmt: skip


def drift(parity: Parity, precision: str, reference: str = "PyTorch") -> str | None:
    """What is wrong when an export drifted further than its precision may, or None.

    Args:
        precision: "fp32", "fp16" or "int8": whose tolerance holds.
        reference: names what it was compared with.
    """
    if not parity.finite:
        return "outputs hold NaN or infinity, expected finite ones"
    if precision in AGREEMENT and parity.pixel_agreement < AGREEMENT[precision]:
        return (
            f"{100 * parity.pixel_agreement:.3f}% of pixels have {reference}'s class on {parity.images} images, "
            f"expected at least {100 * AGREEMENT[precision]:.1f}% for {precision}"
        )
    before, after = parity.miou_reference, parity.miou_candidate
    if precision == "int8" and before is not None and after is not None and before - after > INT8_LOSS:
        return (
            f"mIoU {fraction(after)} on {parity.images} images, {reference} has {fraction(before)}, expected to lose "
            f"at most {fraction(INT8_LOSS)}"
        )
    if parity.classes_seen == 1 and parity.max_logit_difference is not None and precision in LOGIT_SHARE:
        limit = LOGIT_SHARE[precision] * (parity.logit_range or 0.0)
        if parity.max_logit_difference > limit:
            return (
                f"{reference} has one class everywhere on {parity.images} images, which proves nothing, and logits "
                f"differ by up to {parity.max_logit_difference:.3g}, expected at most {limit:.3g} for {precision}"
            )
    return None
