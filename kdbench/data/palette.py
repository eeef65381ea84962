"""Colours for classes whose dataset has none of its own: any two of them can be told apart over a photo."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdbench.data.base import Color

STEP = 17
"""Of a channel, between colours that may be taken."""
DARKEST, LIGHTEST = 0.45, 0.92
"""Oklab's lightness: a darker one is lost over a photo, a lighter one in the white line between classes."""
TAKEN = ((0, 0, 0), (255, 255, 255), (128, 128, 128))
"""The first class, the line between classes, and void."""


@lru_cache(maxsize=8)
def distinct_palette(count: int) -> tuple[Color, ...]:
    """``count`` colours, up to 255: black, then each the one that is farthest from all before it.

    Black leaves the photo as it is; the first class is the background more often than any other.
    """
    levels = np.arange(0, 256, STEP)
    choices = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    places = oklab(choices)
    bright = (places[:, 0] >= DARKEST) & (places[:, 0] <= LIGHTEST)
    choices, places = choices[bright], places[bright]
    away = np.linalg.norm(places[:, None] - oklab(np.array(TAKEN))[None], axis=2).min(axis=1)
    colors: list[Color] = [(0, 0, 0)]
    while len(colors) < count:
        farthest = int(away.argmax())
        red, green, blue = choices[farthest].tolist()
        colors.append((red, green, blue))
        away = np.minimum(away, np.linalg.norm(places - places[farthest], axis=1))
    return tuple(colors[:count])


def oklab(colors: NDArray[np.integer]) -> NDArray[np.float64]:
    """N x 3 sRGB (0 to 255) → N x 3 lightness, green to red, blue to yellow, in which distances are as seen.

    Björn Ottosson, "A perceptual color space for image processing", 2020.
    """
    encoded = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ CONES.T)
    return np.asarray(cones @ LAB.T)


CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
