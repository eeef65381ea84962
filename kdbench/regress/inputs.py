"""What both sides are fed: several real images, or seeded noise for a network that takes none; never constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.onnx_layout import possible_axes
from kdbench.data.base import read_image
from kdbench.data.normalisation import IMAGENET, Input
from kdbench.data.preprocessing import normalise, resize_image
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput

COUNT = 8


def make_inputs(
    shape: tuple[int, ...], dtype: str, images: list[Path], seed: int, wanted: Input = IMAGENET
) -> tuple[NDArray[np.generic], str]:
    """Inputs of one shape and dtype, one per entry, and what they are.

    Args:
        shape: of one input, batch first.
        images: files to take; empty = generated scenes.
        wanted: how floats are normalised.

    Raises:
        BadInput: a dtype that is no number.
    """
    batch = shape[0] if shape else 1
    layout = _image_layout(shape)
    if layout is None or dtype not in ("uint8", "float32", "float16"):
        if images:
            raise BadInput(f"--images: the input is {'x'.join(map(str, shape))} {dtype}, no RGB image: leave it out")
        return _noise(shape, dtype, seed), f"{COUNT} x noise of {'x'.join(map(str, shape))} {dtype}"
    scenes = Shapes("val")
    size = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    chosen = images[:: -(-len(images) // COUNT)] if images else []
    count = len(chosen) or COUNT
    found = [resize_image(read_image(chosen[i]) if chosen else scenes[i].image, size) for i in range(count)]
    stacked = np.stack([np.stack([found[(i + j) % count] for j in range(batch)]) for i in range(count)])
    what = f"{count} x {'of the images given' if chosen else 'generated scenes'}"
    if dtype == "uint8":
        return (stacked if layout == "NHWC" else np.moveaxis(stacked, -1, 2)), what
    normalised = np.stack([normalise(images_, wanted) for images_ in stacked]).astype(dtype)
    return (np.moveaxis(normalised, 2, -1) if layout == "NHWC" else normalised), what


def channels_of(output: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """Where the classes of logits are; None where that is not certain, or there are no two.

    Args:
        output: its shape, batch first.
        shape: of the image that it is of.
    """
    layout = _image_layout(shape)
    if layout is None or len(output) != 4:
        return None
    size = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    found = [axis for axis, _ in possible_axes(output, size) if axis is not None]
    return found[0] if len(found) == 1 and output[found[0]] > 1 else None


def _image_layout(shape: tuple[int, ...]) -> str | None:
    if len(shape) != 4:
        return None
    return "NCHW" if shape[1] == 3 else "NHWC" if shape[3] == 3 else None


def _noise(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[np.generic]:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.standard_normal((COUNT, *shape)).astype(kind)
    if kind.kind in "iub":
        return rng.integers(0, 2, (COUNT, *shape)).astype(kind)  # 0 and 1 are valid whatever an integer stands for
    raise BadInput(f"the input is of type {dtype}, expected numbers")


def compare_outputs(
    baseline: list[NDArray[np.generic]], candidate: list[NDArray[np.generic]], shape: tuple[int, ...] = ()
) -> tuple[bool, str]:
    """Whether both sides compute the same thing, and how near they are.

    Class ids, and logits by their largest class, must agree on 99.9% of pixels, which is what kdbench asks of an
    export in float32; anything else, and what may be logits of two layouts, to 1% of the baseline's spread.

    Args:
        shape: of the input, by whose height and width classes are found in an output.
    """
    shapes = {(a.shape, b.shape) for a, b in zip(baseline, candidate, strict=True) if a.shape != b.shape}
    if shapes:
        ours, theirs = ("x".join(map(str, shape)) for shape in next(iter(shapes)))
        return False, f"shapes differ: {ours} and {theirs}"
    first, second = np.stack(baseline), np.stack(candidate)
    if first.dtype.kind == "f" and not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False, "NaN or infinite numbers in the outputs"
    axis = channels_of(first.shape[1:], shape) if first.dtype.kind == "f" else None
    if axis is not None:
        first, second = first.argmax(axis + 1), second.argmax(axis + 1)
    if first.dtype.kind in "iub":
        share = float((first == second).mean())
        return share >= 0.999, f"the same class on {100 * share:.3f}% of pixels"
    spread = float(np.ptp(first)) or 1.0
    difference = float(np.abs(first.astype(np.float64) - second.astype(np.float64)).max()) / spread
    return difference <= 0.01, f"the largest difference is {100 * difference:.3g}% of the outputs' range"
