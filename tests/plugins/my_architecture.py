"""A student of six convolutions: three strides, merged at stride 4."""

from __future__ import annotations

from torch import Tensor, nn

from kdbench.data.normalisation import Input
from kdbench.models.architectures import ARCHITECTURES, Architecture
from kdbench.models.segmentation import SegmentationModel, Taps, upsample
from kdbench.models.student import conv_bn


class Tiny(SegmentationModel):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.tap_channels = {"low": 16, "mid": 24, "high": 32}
        self.stages = {"encoder": ("low", "mid", "high"), "decoder": ("from_mid", "from_high", "classifier")}
        self.low = nn.Sequential(conv_bn(3, 8, 3, stride=2), conv_bn(8, 16, 3, stride=2))
        self.mid, self.high = conv_bn(16, 24, 3, stride=2), conv_bn(24, 32, 3, stride=2)
        self.from_mid, self.from_high = nn.Conv2d(24, 16, 1), nn.Conv2d(32, 16, 1)
        self.classifier = nn.Conv2d(16, classes, 1)

    def taps(self, images: Tensor) -> Taps:
        low = self.low(images)
        mid = self.mid(low)
        high = self.high(mid)
        merged = low + upsample(self.from_mid(mid), low) + upsample(self.from_high(high), low)
        return Taps(self.classifier(merged), {"low": low, "mid": mid, "high": high})


HALVES = Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ARCHITECTURES.add(Architecture("tiny", Tiny, ("student", "teacher"), input=HALVES, multiple_of=16))
