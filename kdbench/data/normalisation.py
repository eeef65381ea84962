"""How a network wants its images normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet channel statistics of RGB in [0, 1], those of torchvision's weights."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Input:
    """(x − mean) / std of RGB in [0, 1]: what a network takes.

    Pixels from 0 to 255 as they are: mean 0 and std 1/255. A network that wants BGR turns its channels itself.
    """

    mean: Triple = MEAN
    std: Triple = STD

    def fields(self) -> dict[str, Any]:
        """What a sidecar says: {"input": {"mean", "std"}}, or nothing for ImageNet's."""
        return {} if self == IMAGENET else {"input": {"mean": list(self.mean), "std": list(self.std)}}

    @staticmethod
    def recorded(sidecar: dict[str, Any]) -> Input:
        """The input of the network that a sidecar describes."""
        about = sidecar.get("input")
        return IMAGENET if about is None else Input(tuple(about["mean"]), tuple(about["std"]))


IMAGENET = Input()
