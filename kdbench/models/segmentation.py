"""What student and teachers have in common: logits at the input's size, and taps for distillation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.models.network import LEVELS as LEVELS


class Taps(NamedTuple):
    """What distillation reads from a model.

    Attributes:
        logits: N x C x h x w float, before the final upsampling.
        features: level → N x K x h x w float, for each of ``LEVELS`` that the model has.
    """

    logits: Tensor
    features: dict[str, Tensor]


class Published(NamedTuple):
    """Weights that somebody published, to start from.

    Attributes:
        state: name → tensor, with the names that they were published with.
        origin: what they are called, for a sidecar.
        sha256: of the file that they were in.
        into: the module that they fill, as "encoder"; None = the network, as far as names and shapes agree.
    """

    state: dict[str, Tensor]
    origin: str
    sha256: str | None
    into: str | None


class SegmentationModel(nn.Module, ABC):
    """A network from N x 3 x H x W normalised images to N x C x H x W logits."""

    tap_channels: dict[str, int]
    """Channels of each of ``LEVELS`` that it has; all, in a network that is built in."""
    input: Input = IMAGENET
    """How its images are normalised, as its ``Architecture`` says."""
    stages: dict[str, tuple[str, ...]]
    """The parts that a person would name, in the order of the pass → names of the modules in them."""
    mask_stride: int = 1
    """A class is chosen once for so many rows and columns of the image, whose sides are multiples of it."""
    lowest: Tensor
    """Minus infinity. A buffer, because a CUDA graph cannot capture a pass that makes a tensor on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("lowest", torch.tensor(float("-inf")), persistent=False)

    @abstractmethod
    def taps(self, images: Tensor) -> Taps:
        """One pass that keeps the taps; costs no more than ``forward`` without the upsampling."""

    def logits(self, images: Tensor) -> Tensor:
        """N x C x h x w, before the final upsampling."""
        return self.taps(images).logits

    def published(self) -> dict[str, Callable[[], Published]]:
        """Weights that it can start from: name on the command line → a function that gets them.

        The function may download, and raises OSError where it cannot.
        """
        return {}

    def upstream_names(self) -> dict[str, str]:
        """Own name of a parameter or buffer → its name in the library whose weights fill it, where they differ.

        Prefixes need no word: ``trainers.weights`` finds them.
        """
        return {}

    def forward(self, images: Tensor) -> Tensor:
        return repeat_pixels(self.scores(images), self.mask_stride)

    def scores(self, images: Tensor) -> Tensor:
        """N x C x H/s x W/s logits that the mask's classes are chosen from, s = ``mask_stride``."""
        logits = self.logits(images)
        size = mask_size(images.shape[-2:], self.mask_stride)
        if logits.shape[-2:] == size:
            return logits
        # Changes nothing, and is an operator that ONNX Runtime lacks in its blocked layout: it leaves that layout here,
        # on the small map. Else it upsamples in it, to 16 channels, and reorders the full-size map: 3 of 17 ms.
        return resize(torch.maximum(logits, self.lowest), size)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly (half-pixel centres, no antialiasing: what exporters lower faithfully) to (H, W)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def upsample(maps: Tensor, like: Tensor) -> Tensor:
    """``resize`` to the H x W of ``like``."""
    return resize(maps, (like.shape[-2], like.shape[-1]))


def mask_size(size: Sequence[int], stride: int) -> tuple[int, int]:
    """(H, W) of what the classes of an image of ``size`` are chosen from."""
    return size[0] // stride, size[1] // stride


def repeat_pixels(maps: Tensor, factor: int) -> Tensor:
    """N x C x h x w float → N x C x H x W: each value ``factor`` x ``factor`` times.

    Floats, because TensorRT resizes nothing else; an Expand, the other way to write it, takes ONNX Runtime as long as
    an eighth of the student.
    """
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="nearest")


def raise_batchnorm_momentum(model: nn.Module) -> None:
    """Set every BatchNorm's momentum to 0.1.

    torchvision's MobileNetV3 sets 0.01: running statistics then lag by hundreds of steps, and short trainings score
    near chance.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
