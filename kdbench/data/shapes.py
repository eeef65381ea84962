"""Procedural scenes: a dataset that needs no download, deterministic by split and index.

Ten classes of drawn objects on a textured background. Colour and texture only hint at the class (their distributions
overlap), so shape and size decide; objects occlude each other, and two classes are thin or small, which is what a
student with a coarse output loses first.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdbench.data.base import Sample, SegmentationDataset, voc_palette

CLASSES = ("background", "disk", "ring", "square", "bar", "triangle", "star", "cross", "wire", "dot")
SIZE = (128, 128)
COUNTS = {"train": 2000, "val": 200}
_SEED = {"train": 0, "val": 1}


class Shapes(SegmentationDataset):
    """Scenes of 128 x 128 pixels with 6 to 12 objects."""

    def __init__(self, split: str) -> None:
        super().__init__("shapes", split, CLASSES, voc_palette(len(CLASSES)))

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((_SEED[self.split], index))
        image = _texture(rng, hue=rng.uniform(), contrast=0.5)
        label = np.zeros(SIZE, dtype=np.uint8)
        for kind in rng.permutation(rng.integers(1, len(CLASSES), size=rng.integers(6, 13))):
            inside = _silhouette(rng, CLASSES[kind])
            # A class has its own hue, but a third of the objects ignore it and the rest spread into their neighbours.
            hue = rng.uniform() if rng.uniform() < 0.33 else kind / len(CLASSES) + rng.normal(0, 0.08)
            paint = _texture(rng, hue % 1.0, contrast=0.25)
            image[inside] = paint[inside]
            label[inside] = kind
        image += rng.normal(0, 0.03, image.shape)
        image *= rng.uniform(0.7, 1.2)  # exposure
        return Sample(f"{self.split}-{index:05d}", (image.clip(0, 1) * 255).astype(np.uint8), label)


def _texture(rng: np.random.Generator, hue: float, contrast: float) -> NDArray[np.float64]:
    """A colour field with blotches at one scale and stripes at one angle, H x W x 3 in [0, 1] before clipping."""
    height, width = SIZE
    base = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.9)))
    cells = int(rng.choice([4, 8, 16, 32]))
    noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    blotches = np.asarray(noise.resize((width, height), Image.Resampling.BILINEAR))
    angle, period = rng.uniform(0, math.pi), rng.uniform(4, 24)
    rows, columns = np.mgrid[:height, :width]
    stripes = np.sin((rows * math.sin(angle) + columns * math.cos(angle)) * (2 * math.pi / period))
    shade = contrast * (0.25 * blotches + rng.uniform(0, 0.3) * stripes)
    return base + shade[..., None]


def _silhouette(rng: np.random.Generator, kind: str) -> NDArray[np.bool_]:
    """The pixels of one randomly placed object, H x W."""
    height, width = SIZE
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    radius, turn = rng.uniform(9, 22), rng.uniform(0, 2 * math.pi)

    def polygon(corners: list[tuple[float, float]]) -> None:
        """Draw a polygon given in units of the radius, turned and moved into place."""
        cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
        draw.polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners], fill=1)

    def circle(r: float, fill: int) -> None:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    if kind == "disk":
        circle(radius, 1)
    elif kind == "ring":
        circle(radius, 1)
        circle(radius * rng.uniform(0.45, 0.7), 0)
    elif kind == "square":
        polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif kind == "bar":
        polygon([(-1.6, -0.3), (1.6, -0.3), (1.6, 0.3), (-1.6, 0.3)])
    elif kind == "triangle":
        polygon([(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    elif kind == "star":
        points = [(1.0 if i % 2 == 0 else 0.42, i * math.pi / 5) for i in range(10)]
        polygon([(r * math.cos(a), r * math.sin(a)) for r, a in points])
    elif kind == "cross":
        polygon([(-1, -0.28), (1, -0.28), (1, 0.28), (-1, 0.28)])
        polygon([(-0.28, -1), (0.28, -1), (0.28, 1), (-0.28, 1)])
    elif kind == "wire":
        dx, dy = math.cos(turn) * 60, math.sin(turn) * 60
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=1, width=2)
    else:
        circle(rng.uniform(2.0, 4.0), 1)
    return np.asarray(canvas)
