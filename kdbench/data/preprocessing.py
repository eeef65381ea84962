"""The one preprocessing of training, evaluation and every backend.

An image is resized once, by ``resize_image``, to the size that the model takes; after that it is normalised as
the network wants it, inside the network for ``mask`` exports and by ``normalise`` for ``logits`` exports. Labels are
never resized for evaluation: predictions are brought to the label's own resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput

Size = tuple[int, int]
"""(height, width) in pixels."""

MAX_SIDE = 16384
"""Pixels of a side beyond which a size is taken for a slip of the keyboard."""


def parse_size(text: str) -> Size:
    """Read ``HxW``, as in ``512x512``.

    Raises:
        BadInput: not two integers of at least 32 (the encoder's stride) and at most ``MAX_SIDE``.
    """
    parts = text.lower().split("x")
    if len(parts) == 2 and all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        height, width = int(parts[0]), int(parts[1])
        if min(height, width) >= 32 and max(height, width) <= MAX_SIDE:
            return height, width
    raise BadInput(f"--size: got '{text}', expected HEIGHTxWIDTH of 32 to {MAX_SIDE} each, for example 512x512")


def resize_image(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize H x W x 3 uint8 to ``size``, bilinear with antialiasing (Pillow's; it releases the interpreter lock)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_label(label: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an H x W class map to ``size`` by nearest neighbour."""
    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))


def normalise(images: NDArray[np.uint8], wanted: Input = IMAGENET) -> NDArray[np.float32]:
    """N x H x W x 3 uint8 → N x 3 x H x W float32, normalised: the input of a ``logits`` model."""
    mean, std = np.array(wanted.mean, dtype=np.float32), np.array(wanted.std, dtype=np.float32)
    scale, shift = 1.0 / (wanted.scale * std), mean / std
    ordered = images[..., ::-1] if wanted.turns_channels else images
    return np.ascontiguousarray((ordered * scale - shift).transpose(0, 3, 1, 2), dtype=np.float32)
