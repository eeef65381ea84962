"""How an ONNX file from elsewhere is read: what a person says of it, and what its output's shape says.

A shape alone does not say where the channels are: N x C x h x w and N x h x w x C are told apart by the input's height
and width, which the grid of an output is a fraction of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput

COARSEST = 64
"""Strides that a grid is looked for at."""
LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Reading:
    """What a person says of a file that does not say it itself; None = not said.

    Attributes:
        size: (H, W) for a graph that leaves them open.
        mean, std: of a float input's channels, in the order that the network takes them, on the scale of ``range``.
        range: 1 or 255, the value of a white pixel before normalisation; None with a mean above 1 = 255.
        bgr: whether the network takes BGR.
        output: the name of the output to use; None = the first.
        layout: of a float output: "NCHW" or "NHWC".
        threshold: of a one-channel output: above it is class 1.
        classes: of the labels, which may tell two layouts apart.
        only_output: refuse several outputs rather than use the first.
    """

    size: Size | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    range: int | None = None
    bgr: bool | None = None
    output: str | None = None
    layout: str | None = None
    threshold: float | None = None
    classes: int | None = None
    only_output: bool = False

    @property
    def normalises(self) -> bool:
        """Whether it says how floats are normalised."""
        return self.mean is not None or self.std is not None or self.range is not None

    def input(self, own: dict[str, Any], item: str) -> Input:
        """What is said, over what the file says itself, over ImageNet's.

        Args:
            own: the file's own table, or {}.
            item: what that table is, for errors.

        Raises:
            BadInput: a value that cannot be.
        """
        space = {} if self.bgr is None else {"space": "BGR" if self.bgr else "RGB"}
        if not self.normalises:
            known = Input.read(own, item)
            if space.get("space", known.space) == known.space:
                return known
            # The same numbers for the same colours.
            return replace(known, mean=known.mean[::-1], std=known.std[::-1], space=space["space"])
        told = {key: list(values) for key, values in (("mean", self.mean), ("std", self.std)) if values is not None}
        if not told:  # a range alone
            return Input.read({"mean": 0, "std": 1, "range": self.range, **space}, "--range")
        above = max(abs(value) for values in told.values() for value in values) > 1
        top = self.range or (255 if above else 1)
        if top != 1 and (lacking := [key for key in ("mean", "std") if key not in {**own, **told}]):
            raise BadInput(
                f"--{next(iter(told))}: got it alone, for pixels of 0 to {top}, expected --{lacking[0]} as well: "
                f"ImageNet's is of 0 to 1; where there is none it is {'0,0,0' if lacking == ['mean'] else '1,1,1'}"
            )
        return Input.read({**own, **told, "range": top, **space}, "--mean, --std")


NOTHING_SAID = Reading()


@dataclass(frozen=True)
class Output:
    """One output of a file.

    Attributes:
        name: in the graph.
        dtype: NumPy's name of its type.
        shape: for one image.
        form: "logits" (or probabilities), "ids", or "binary": one channel that is above a threshold in class 1.
        axis: of the channels; None where there is none.
        grid: (h, w).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: Literal["logits", "ids", "binary"]
    axis: int | None
    grid: Size

    @property
    def channels(self) -> int:
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def classes(self) -> int | None:
        """How many classes there are; None of class ids, whose number nothing says."""
        return {"logits": self.channels, "binary": 2, "ids": None}[self.form]

    @property
    def layout(self) -> str | None:
        """ "NCHW", "NHWC", or None without channels."""
        return None if self.axis is None else LAYOUTS[self.axis == 3]


def read_output(result: Any, name: str, path: str, size: Size, reading: Reading) -> Output:
    """What an array that a file returned for one image means.

    Args:
        result: NumPy array.
        name: of the output.
        path: of the file, for errors.
        size: (H, W) of the input.

    Raises:
        BadInput: it is no segmentation, or its layout is not certain.
    """
    what = f"'{path}': output '{name}' is {result.dtype} {list(result.shape)}"
    integer = result.dtype.kind in "iub"
    found = possible_axes(result.shape, size)
    if integer:
        whole = [(axis, grid) for axis, grid in found if axis is None or result.shape[axis] == 1]
        if whole and whole[0][1] != size:
            raise BadInput(f"{what}, expected class ids at the input's size {size[0]}x{size[1]}")
        found = whole
    elif reading.layout is not None:
        found = [(axis, grid) for axis, grid in found if axis == LAYOUTS.index(reading.layout) * 2 + 1]
    if len(found) > 1 and reading.classes is not None:
        found = [pair for pair in found if result.shape[pair[0] or 0] == reading.classes] or found
    if len(found) > 1:
        read = " or ".join(f"{result.shape[axis or 0]} classes on {grid[0]}x{grid[1]}" for axis, grid in found)
        raise BadInput(f"{what}, which may be {read}: give --output-layout NCHW or NHWC")
    shape = tuple(int(side) for side in result.shape)
    if len(shape) == 3 and shape[0] != 1:  # C x H x W of no batch, and no mask of one image
        found = []
    if found and (found[0][1][0] * found[0][1][1] > 1):
        axis, grid = found[0]
        channels = 1 if axis is None else shape[axis]
        if integer:
            return Output(name, str(result.dtype), shape, "ids", axis, grid)
        return Output(name, str(result.dtype), shape, "binary" if channels == 1 else "logits", axis, grid)
    raise BadInput(
        f"{what}, expected logits N x C x h x w with at least 2 classes, or N x h x w x C, one channel of a binary "
        "segmentation, or whole-number class ids N x H x W: this is no segmentation that kdbench can compare"
    )


def possible_axes(shape: Sequence[int], size: Size) -> list[tuple[int | None, Size]]:
    """Where the channels of an output for one image may be: (axis, grid) of each that the input's size allows.

    A grid that has the very proportions of the input comes before one that has them but for rounding.
    """
    if len(shape) == 3:
        places: list[tuple[int | None, Size]] = [(None, (shape[1], shape[2]))]
    elif len(shape) == 4:
        places = [(1, (shape[2], shape[3])), (3, (shape[1], shape[2]))]
    else:
        return []
    exact = [(axis, grid) for axis, grid in places if grid[0] * size[1] == grid[1] * size[0]]
    return exact or [(axis, grid) for axis, grid in places if _rounded(grid, size)]


def _rounded(grid: Size, size: Size) -> bool:
    """Whether some stride gives the grid, both sides rounded up or both down."""
    height, width = size
    strides = range(2, COARSEST + 1)
    return any(grid in ((height // s, width // s), (-(-height // s), -(-width // s))) for s in strides)


def default_threshold(results: Sequence[Any], probabilities: bool) -> tuple[float, str]:
    """The threshold of a one-channel output that nobody gave, and why.

    Args:
        results: what it returned for some images.
        probabilities: whether the graph is known to end in a sigmoid.
    """
    inside = all(float(np.min(result)) >= 0 and float(np.max(result)) <= 1 for result in results)
    if probabilities or inside:
        return 0.5, "probabilities, so that above 0.5 is class 1"
    return 0.0, "logits, so that above 0 is class 1"
