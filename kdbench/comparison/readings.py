"""How a file's float input is normalised, found on labelled images where nobody says it.

Each usual reading is scored. One is taken only where it wins clearly: it must lead every other by ``LEAD`` of mIoU, and
on 97.5% of resamples of the images be ahead of it. Readings that give the same masks are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.onnx_file import OnnxFile
from kdbench.comparison.image_bootstrap import mious_of_draws
from kdbench.comparison.metrics import confusion_matrix, mean_iou
from kdbench.comparison.numbers import fraction
from kdbench.data import Sample
from kdbench.data.normalisation import MEAN, STD, Input, Triple
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.errors import BadInput

IMAGES = 16
"""Images that readings are scored on, at most."""
FEWEST = 4
"""Images below which none is taken."""
LEAD = 0.01
"""mIoU by which the best must lead."""
SAME = 0.999
"""Share of pixels with the same class from which on two readings are one."""
RESAMPLES, AHEAD = 2000, 0.975
ZERO, ONE, HALF = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
USUAL: tuple[tuple[str, Triple, Triple, int], ...] = (
    ("ImageNet's mean and deviation", MEAN, STD, 1),
    ("mean 0.5, deviation 0.5", HALF, HALF, 1),
    ("0 to 1", ZERO, ONE, 1),
    ("0 to 255", ZERO, ONE, 255),
)


@dataclass(frozen=True)
class Scored:
    """A reading and what it gives.

    Attributes:
        title: for people.
        input: what ``OnnxFile`` normalises by.
        confusions: images x C x C.
        predictions: class map of each image at the file's size.
    """

    title: str
    input: Input
    confusions: NDArray[np.int64]
    predictions: list[NDArray[np.uint8]]

    @property
    def miou(self) -> float:
        return mean_iou(self.confusions.sum(0))

    def flags(self) -> str:
        """The flags that choose it."""
        space = "--bgr" if self.input.turns_channels else "--rgb"
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.input.mean, self.input.std))
        return f"--mean {mean} --std {std} --range {self.input.range} {space}"

    def as_json(self) -> dict[str, Any]:
        return {"reading": self.title, "input": self.input.as_json(), "miou": self.miou}


def usual_readings(floats: bool, bgr: bool | None) -> list[tuple[str, Input]]:
    """What files mostly want.

    Args:
        floats: whether the input is normalised at all; else the channels' order alone is to be found.
        bgr: that order, where it is known.
    """
    readings = []
    for title, mean, std, scale in USUAL if floats else (("8-bit pixels", MEAN, STD, 1),):
        for space in ("RGB", "BGR") if bgr is None else ("BGR" if bgr else "RGB",):
            turn = -1 if space == "BGR" and floats else 1  # the same numbers for the same colours
            normal = Input((*mean[::turn],), (*std[::turn],), scale, space) if floats else Input(space=space)  # type: ignore[arg-type]
            readings.append((f"{title}, {space}", normal))
    return readings


def score_readings(
    file: OnnxFile, samples: Sequence[Sample], classes: int, readings: Sequence[tuple[str, Input]]
) -> list[Scored]:
    """Run the file on the images in every reading, best first; ``file`` is left in the last one tried.

    Args:
        samples: labelled images.
        classes: of the labels.
    """
    found = []
    images = [(resize_image(sample.image, file.size), sample.label) for sample in samples]
    for title, wanted in readings:
        file.input = wanted
        maps = [file.class_map(image) for image, _ in images]
        counts = [
            confusion_matrix(label, resize_label(mask, (label.shape[0], label.shape[1])), classes)
            for mask, (_, label) in zip(maps, images, strict=True)
        ]
        found.append(Scored(title, wanted, np.stack(counts), maps))
    return sorted(found, key=lambda scored: -scored.miou)  # stable: of equals the more usual


def choose_reading(scored: Sequence[Scored]) -> tuple[Scored | None, str]:
    """The reading that wins clearly, or None; and why, for people.

    Args:
        scored: best first.
    """
    best = scored[0]
    others = [other for other in scored[1:] if agreement(best, other) < SAME]
    if not others:
        return best, "every reading gives the same masks"
    images = len(best.predictions)
    if images < FEWEST:
        return None, f"{images} labelled images are too few to tell, expected at least {FEWEST}"
    lead = best.miou - others[0].miou
    share = min(share_ahead(best.confusions, other.confusions) for other in others)
    told = (
        f"mIoU {fraction(best.miou)} on {images} images, {fraction(lead)} ahead of '{others[0].title}', and ahead in "
        f"{100 * share:.1f}% of resamples of the images"
    )
    if lead < LEAD or share < AHEAD:
        return None, f"{told}: expected {fraction(LEAD)} and {100 * AHEAD:.1f}%"
    return best, told


def agreement(a: Scored, b: Scored) -> float:
    """Share of pixels with the same class."""
    same = sum(int((x == y).sum()) for x, y in zip(a.predictions, b.predictions, strict=True))
    return same / sum(x.size for x in a.predictions)


def share_ahead(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Share of resamples of the images, drawn alike for both, in which ``a`` has the higher mIoU.

    In a draw of images without any label neither has.

    Args:
        a, b: images x C x C counts of the same images.
    """
    drawn = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    draws = np.stack([np.bincount(row, minlength=len(a)) for row in drawn])
    return float(np.mean(mious_of_draws(a, draws) > mious_of_draws(b, draws)))


def undecided(path: str, scored: Sequence[Scored], why: str) -> BadInput:
    """The error that asks for flags; the table of readings is shown before it."""
    return BadInput(
        f"'{path}' does not say how images are normalised, and no reading wins clearly ({why}): "
        f"choose one of the table with flags, as {scored[0].flags()}"
    )
