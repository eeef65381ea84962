"""Class maps as pictures: palette masks, blends over the image, and the legend that names the colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kdbench.data.base import Color

OPACITY = 0.5
"""Share of the class colour in the blend."""
LINE = (255, 255, 255)
"""Colour between two classes."""


def palette_image(class_map: NDArray[np.uint8], palette: Sequence[Color]) -> Image.Image:
    """An H x W class map as a palette image: pixel values are the class ids, colours are the dataset's."""
    image = Image.fromarray(class_map)
    image.putpalette([channel for color in palette for channel in color])
    return image


def blend(image: NDArray[np.uint8], class_map: NDArray[np.uint8], palette: Sequence[Color]) -> NDArray[np.uint8]:
    """An image half in the colours of its classes, with a line where two of them meet.

    A class whose colour is black, as the background's often is, leaves the image as it is.

    Args:
        image: H x W x 3 uint8.
        class_map: H x W class ids.

    Returns:
        H x W x 3 uint8.
    """
    colors = np.asarray(palette, dtype=np.uint8)[class_map]
    mixed = np.array(Image.blend(Image.fromarray(image), Image.fromarray(colors), OPACITY))
    uncoloured = ~colors.any(axis=2)
    mixed[uncoloured] = image[uncoloured]
    mixed[outlines(class_map)] = LINE
    return mixed


def outlines(class_map: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """H x W class ids → True where the pixel to the right or below has another class."""
    lines = np.zeros(class_map.shape, dtype=np.bool_)
    lines[:, :-1] = class_map[:, :-1] != class_map[:, 1:]
    lines[:-1] |= class_map[:-1] != class_map[1:]
    return lines


def shares(class_map: NDArray[np.uint8], classes: Sequence[str]) -> dict[int, str]:
    """Class id → "name 12.3%" for every class that occurs, largest first."""
    counts = np.bincount(class_map.ravel(), minlength=len(classes))
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {index: f"{classes[index]} {counts[index] / class_map.size:.1%}" for index in present}


def with_legend(picture: NDArray[np.uint8], entries: dict[int, str], palette: Sequence[Color]) -> NDArray[np.uint8]:
    """Put a legend below a picture, where it hides nothing of it.

    Args:
        picture: H x W x 3 uint8.
        entries: class id → text, in order.
        palette: a colour per class id.

    Returns:
        (H + legend) x max(W, longest entry) x 3 uint8; both even, as video encoders want them.
    """
    height, width = picture.shape[:2]
    size = max(12, round(min(height, width) / 32))
    font = ImageFont.load_default(size)
    gap, line = size // 2, size + size // 2
    widths = {index: 3 * gap + size + round(font.getlength(text)) for index, text in entries.items()}
    total = max(width, gap + max(widths.values()))
    total += total % 2
    places, x, y = {}, gap, gap
    for index in entries:
        if x > gap and x + widths[index] > total:
            x, y = gap, y + line
        places[index] = (x, y)
        x += widths[index]
    bottom = y + line
    bottom += (height + bottom) % 2
    canvas = Image.new("RGB", (total, height + bottom), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (left, top) in places.items():
        top += height
        draw.rectangle((left, top, left + size, top + size), fill=tuple(palette[index]), outline="black")
        draw.text((left + size + gap, top + size / 2), entries[index], fill="black", font=font, anchor="lm")
    return np.asarray(canvas)
