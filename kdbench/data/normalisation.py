"""How a network wants its images: range, channel order, mean and standard deviation, in smp's words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kdbench.errors import BadInput

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet channel statistics of RGB in [0, 1], those of torchvision's weights."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Input:
    """(x − mean) / std of pixels from 0 to ``range``, channels in the order ``space``: what a network takes.

    Attributes:
        mean, std: of each channel, in the order of ``space``, on the scale of ``range``.
        range: 1 or 255, the value of a white pixel before normalisation.
        space: "RGB" or "BGR".
    """

    mean: Triple = MEAN
    std: Triple = STD
    range: int = 1
    space: str = "RGB"

    @property
    def scale(self) -> float:
        """``mean`` and ``std`` times this are on the scale of 8-bit pixels."""
        return 255.0 / self.range

    @property
    def turns_channels(self) -> bool:
        """Whether RGB pixels are turned to BGR."""
        return self.space == "BGR"

    def as_json(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std), "range": self.range, "space": self.space}

    def fields(self) -> dict[str, Any]:
        """What a sidecar says: {"input": {"mean", "std", "range", "space"}}, or nothing for ImageNet's."""
        return {} if self == IMAGENET else {"input": self.as_json()}

    @staticmethod
    def recorded(sidecar: dict[str, Any]) -> Input:
        """The input of the network that a sidecar describes."""
        about = sidecar.get("input")
        return IMAGENET if about is None else Input.read(about, "the sidecar's input")

    @staticmethod
    def read(about: dict[str, Any], item: str) -> Input:
        """From a table with any of ``mean, std, range, space``; what it lacks is ImageNet's.

        Args:
            item: what the table is, for errors.

        Raises:
            BadInput: another key, or a value that cannot be.
        """
        if not isinstance(about, dict) or (odd := sorted(set(about) - set(Input.__dataclass_fields__))):
            got = f"'{odd[0]}'" if isinstance(about, dict) else f"{about!r:.80}"
            raise BadInput(f"{item}: got {got}, expected any of {', '.join(Input.__dataclass_fields__)}")
        found = dict(about)
        for key in ("mean", "std"):
            if key in found:
                found[key] = triple(found[key], f"{item}: {key}")
        made = Input(**found)
        if made.range not in (1, 255) or made.space not in ("RGB", "BGR"):
            raise BadInput(f"{item}: got range {made.range}, space {made.space}, expected 1 or 255, and RGB or BGR")
        if min(made.std) <= 0:
            raise BadInput(f"{item}: got std {list(made.std)}, expected three numbers above 0")
        return made


def triple(values: Any, item: str) -> Triple:
    """One number for each channel; a single number stands for all three.

    Raises:
        BadInput: not that.
    """
    values = [values] * 3 if isinstance(values, int | float) else values
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise BadInput(f"{item}: got {values!r:.80}, expected three numbers, one for each channel")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise BadInput(f"{item}: got {values!r:.80}, expected three numbers, one for each channel")
    return float(values[0]), float(values[1]), float(values[2])


IMAGENET = Input()
