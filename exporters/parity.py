"""Proof that an export is still the same model, in segmentation terms: the share of pixels with the same class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.data.preprocessing import resize_image
from kdbench.errors import BadInput, RunFailed

AGREEMENT = {"fp32": 0.999}
"""Least share of pixels, by precision, that must have PyTorch's class."""


@dataclass(frozen=True)
class Parity:
    """An export against PyTorch on real images.

    Attributes:
        images: how many were compared.
        pixel_agreement: share of pixels with the same class, 0 to 1.
        max_logit_difference: largest absolute difference of a logit; None for a mask.
        finite: whether every output of both was finite.
    """

    images: int
    pixel_agreement: float
    max_logit_difference: float | None
    finite: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_outputs(reference: Backend, candidate: Backend, images: Sequence[NDArray[np.uint8]]) -> Parity:
    """Run both on the same images.

    Args:
        reference, candidate: engines of the same size and output.
        images: H x W x 3 uint8 at any size.
    """
    if not images:
        raise BadInput("parity: got no image, expected at least one real image to compare on")
    same = pixels = 0
    difference, finite = 0.0, True
    for image in images:
        batch = reference.prepare(resize_image(image, reference.size))
        expected, got = reference.infer(batch), candidate.infer(batch)
        if expected.dtype != np.uint8:
            finite = finite and bool(np.isfinite(expected).all() and np.isfinite(got).all())
            if finite:
                difference = max(difference, float(np.abs(expected - got).max()))
            expected, got = expected.argmax(1), got.argmax(1)
        same += int((expected == got).sum())
        pixels += expected.size
    is_mask = reference.output == "mask"
    # A difference that is NaN or infinite would not be JSON; ``finite`` tells of it.
    return Parity(len(images), same / pixels, None if is_mask or not finite else difference, finite)


def require_parity(parity: Parity, precision: str, what: str) -> None:
    """Raise RunFailed with one sentence when an export drifted further than its precision may."""
    if not parity.finite:
        raise RunFailed(f"{what}: outputs hold NaN or infinity, expected finite ones: the export was not kept")
    if parity.pixel_agreement < AGREEMENT[precision]:
        raise RunFailed(
            f"{what}: {100 * parity.pixel_agreement:.3f}% of pixels have PyTorch's class on {parity.images} images, "
            f"expected at least {100 * AGREEMENT[precision]:.1f}% for {precision}: the export was not kept"
        )
