"""Procedural scenes: a dataset that needs no download, deterministic by split and index.

Ten classes of drawn objects on a textured background. Colour and texture only hint at the class (their distributions
overlap), so shape and size decide; objects occlude each other, and two classes are thin or small, which is what a
student with a coarse output loses first.

A scene is drawn when it is asked for, from a generator of its own, so it is the same in any order and from any thread.
Objects are textured inside their bounding box only, in float32: about a millisecond and a half a scene.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdbench.data.base import Sample, SegmentationDataset
from kdbench.data.palette import distinct_palette

CLASSES = ("background", "disk", "ring", "square", "bar", "triangle", "star", "cross", "wire", "dot")
SIZE = (128, 128)
COUNTS = {"train": 2000, "val": 200}

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom excluded."""

_SEED = {"train": 0, "val": 1}
_STEPS = np.arange(max(SIZE), dtype=np.float64)
_NOISE_SCALE = np.float32(0.03 / np.sqrt((256**2 - 1) / 12))
"""Brings uniform bytes, whose standard deviation is √((256² − 1) / 12), to a standard deviation of 0.03."""


class Shapes(SegmentationDataset):
    """Scenes of 128 x 128 pixels with 6 to 12 objects."""

    photographs = False

    def __init__(self, split: str) -> None:
        super().__init__("shapes", split, CLASSES, distinct_palette(len(CLASSES)))

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        height, width = SIZE
        rng = np.random.default_rng((_SEED[self.split], index))
        image = _texture(rng, rng.uniform(), contrast=0.5, box=(0, 0, width, height))
        label = np.zeros(SIZE, dtype=np.uint8)
        for kind in rng.integers(1, len(CLASSES), size=rng.integers(6, 13)).tolist():
            canvas = _silhouette(rng, CLASSES[kind])
            # A class has its own hue, but a third of the objects ignore it and the rest spread into their neighbours.
            hue = rng.uniform() if rng.uniform() < 0.33 else kind / len(CLASSES) + rng.normal(0, 0.08)
            box = canvas.getbbox()
            if box is None:  # a sliver at the border that covers no pixel centre
                continue
            left, top, right, bottom = box
            inside = np.asarray(canvas.crop(box), dtype=np.bool_)
            paint = _texture(rng, hue % 1.0, contrast=0.25, box=box)
            np.copyto(image[top:bottom, left:right], paint, where=inside[..., None])
            np.copyto(label[top:bottom, left:right], np.uint8(kind), where=inside)
        noise = np.frombuffer(rng.bytes(image.size), dtype=np.uint8).reshape(image.shape)
        image += (noise - np.float32(127.5)) * _NOISE_SCALE
        image *= np.float32(255 * rng.uniform(0.7, 1.2))  # exposure
        return Sample(f"{self.split}-{index:05d}", image.clip(0, 255).astype(np.uint8), label)


def _texture(rng: np.random.Generator, hue: float, contrast: float, box: Box) -> NDArray[np.float32]:
    """A colour field with blotches at one scale and stripes at one angle.

    Returns:
        The part of the scene's field inside ``box``, h x w x 3 in [0, 1] before clipping.
    """
    left, top, right, bottom = box
    base = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.9)), dtype=np.float32)
    cells = (4, 8, 16, 32)[rng.integers(4)]
    # Blotches are a coarse grid of noise over the whole scene, of which only the part under the box is enlarged.
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    x, y = cells / SIZE[1], cells / SIZE[0]
    source = (left * x, top * y, right * x, bottom * y)
    shade = np.array(grid.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source))
    shade *= np.float32(0.25 * contrast)
    # sin(u + v) = sin u · cos v + cos u · sin v: sines of one row and one column instead of one per pixel. They are
    # taken in float64 and rounded, so that differences in the last bit between numpy builds do not reach the pixels.
    angle, period = rng.uniform(0, math.pi), rng.uniform(4, 24)
    strength = contrast * rng.uniform(0, 0.3)
    u = _STEPS[top:bottom, None] * (math.sin(angle) * 2 * math.pi / period)
    v = _STEPS[left:right] * (math.cos(angle) * 2 * math.pi / period)
    shade += (strength * np.sin(u)).astype(np.float32) * np.cos(v).astype(np.float32)
    shade += (strength * np.cos(u)).astype(np.float32) * np.sin(v).astype(np.float32)
    return shade[..., None] + base


def _silhouette(rng: np.random.Generator, kind: str) -> Image.Image:
    """One randomly placed object as a scene-sized bitmap, 1 inside."""
    height, width = SIZE
    canvas = Image.new("L", (width, height))
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
    return canvas
