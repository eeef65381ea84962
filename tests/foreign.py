"""Networks as other libraries make them: linear layers, attention, nearest and align_corners resizes, full-size logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.models.architectures import ARCHITECTURES, Architecture
from kdbench.models.segmentation import LEVELS, SegmentationModel, Taps


class Foreign(SegmentationModel):
    """A network that says nothing of taps, and overrides ``logits``."""

    def __init__(self) -> None:
        super().__init__()
        self.tap_channels = dict.fromkeys(LEVELS, 1)
        self.stages = {}

    def taps(self, images: Tensor) -> Taps:
        return Taps(self.logits(images), {})


class Mixed(Foreign):
    """One of everything; its logits have the image's size, its last layer is a Linear."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.down = nn.Conv2d(16, 16, 2, 2)
        self.nearest = nn.Upsample(scale_factor=2, mode="nearest")
        self.grow = nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Linear(16, classes)
        self.corners = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def logits(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        count, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = tokens + self.mlp(tokens)
        x = tokens.transpose(1, 2).reshape(count, channels, height, width)
        x = self.grow(x + self.nearest(self.down(x)))
        return self.corners(self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


MIXED_LAYERS = [
    "stem", "attention.in_proj", "attention.out_proj", "mlp.0", "mlp.2", "down", "grow", "head",
]  # fmt: skip


class Positions(Foreign):
    """Adds a float32 tensor that ``forward`` makes, and a buffer, in front of a convolution and a norm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, classes, 1)
        self.norm = nn.GroupNorm(2, 16)
        self.register_buffer("shift", torch.linspace(-1, 1, 16).view(1, 16, 1, 1))

    def logits(self, images: Tensor) -> Tensor:
        x = self.stem(images) + self.shift
        columns = torch.linspace(-1, 1, x.shape[3])
        return self.head(self.norm(x + columns).relu() + columns)


class NoBessel(Foreign):
    """In half precision it calls an operator that ONNX lacks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, classes, 1)

    def logits(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu()
        if x.dtype == torch.float16:
            x = torch.special.bessel_j0(x.float()).half()
        return self.head(x)


class Wrapped(Foreign):
    """A network of another library.

    Args:
        read: from what it returns to the logits.
    """

    def __init__(self, network: nn.Module, read=lambda result: result) -> None:
        super().__init__()
        self.network, self.read = network, read

    def logits(self, images: Tensor) -> Tensor:
        return self.read(self.network(images))


def unet(classes: int) -> Wrapped:
    import segmentation_models_pytorch

    return Wrapped(segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, classes=classes))


def segformer(classes: int) -> Wrapped:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))
    return Wrapped(network, lambda result: result.logits)


NETWORKS = {"mixed": Mixed, "positions": Positions, "no_bessel": NoBessel, "unet": unet, "segformer": segformer}


def declare() -> None:
    """Make them architectures of kdbench, as a plugin does."""
    for name, network in NETWORKS.items():
        ARCHITECTURES.add(Architecture(name, network, ("student",)))
