"""Generated scenes of materials: what ``kdbench demo`` trains on, deterministic by split and index.

A scene has patches of five materials on grey ground. Each material comes in finishes of their own hue and stripes, so
that a few labelled scenes show too little of them to learn a material from, and many scenes show enough: where labels
are few, there is something that a teacher can pass on. Shade and hue differ from patch to patch, exposure from scene to
scene.

A scene is drawn when it is asked for, from a generator of its own, so it is the same in any order and from any thread.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdbench.data.base import Sample, SegmentationDataset
from kdbench.data.palette import distinct_palette

CLASSES = ("ground", "brick", "wood", "cloth", "moss", "glass")
FINISHES = 3
SIZE = (96, 96)
COUNTS = {"train": 2000, "val": 100}

_SEED = {"train": 10, "val": 11}
_PERIODS = (3.0, 5.0, 8.0, 13.0)


class Materials(SegmentationDataset):
    """Scenes of 96 x 96 pixels with 6 to 10 patches."""

    photographs = False

    def __init__(self, split: str) -> None:
        super().__init__("materials", split, CLASSES, distinct_palette(len(CLASSES)))

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((_SEED[self.split], index))
        image = _surface(rng, rng.uniform(), 0.05, rng.uniform(0.3, 0.8), 8.0)
        label = np.zeros(SIZE, dtype=np.uint8)
        for _ in range(rng.integers(6, 11)):
            kind, finish = int(rng.integers(1, len(CLASSES))), int(rng.integers(FINISHES))
            number = (kind - 1) * FINISHES + finish
            # Neighbouring hues belong to different materials: multiples of the golden ratio spread over the circle.
            hue = number * 0.618034 + rng.normal(0, 0.012)
            paint = _surface(rng, hue % 1.0, rng.uniform(0.45, 0.75), rng.uniform(0.45, 0.85), _PERIODS[number % 4])
            inside = _patch(rng)
            image[inside], label[inside] = paint[inside], kind
        image += rng.normal(0, 0.03, image.shape).astype(np.float32)
        image *= np.float32(255 * rng.uniform(0.75, 1.15))  # exposure
        return Sample(f"{self.split}-{index:05d}", image.clip(0, 255).astype(np.uint8), label)


def _surface(
    rng: np.random.Generator, hue: float, saturation: float, value: float, period: float
) -> NDArray[np.float32]:
    """A field of one colour with stripes at a random angle: H x W x 3 in [0, 1] before clipping."""
    colour = np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period) + phase)
    return colour + 0.08 * wave.astype(np.float32)[..., None]


def _patch(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A randomly placed polygon: H x W, True inside."""
    height, width = SIZE
    canvas = Image.new("L", (width, height))
    x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 24)
    corners = int(rng.integers(3, 8))
    turns = np.sort(rng.uniform(0, 2 * math.pi, corners)) if corners > 4 else np.arange(corners) * 2 * math.pi / corners
    turns = turns + rng.uniform(0, 2 * math.pi)
    ImageDraw.Draw(canvas).polygon([(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns], fill=1)
    return np.asarray(canvas, dtype=np.bool_)
