"""A feature pyramid (Kirillov et al. 2019) over an encoder of four strides, merged at stride 4."""

from __future__ import annotations

from torch import Tensor, nn

from kdbench.models.segmentation import SegmentationModel, Taps, upsample
from kdbench.models.student import conv_bn

FINEST = 32
"""Channels at stride 4, where a channel costs most."""


class FeaturePyramid(SegmentationModel):
    """What networks with this decoder share; a subclass builds its encoder first, then calls ``add_pyramid``."""

    def add_pyramid(self, channels: tuple[int, int, int, int], width: int, classes: int) -> None:
        """Make the decoder.

        Args:
            channels: of the encoder's maps at stride 4, 8, 16 and 32.
            width: channels of the pyramid at stride 8 to 32.
        """
        low, mid, high, top = channels
        self.tap_channels = {"low": low, "mid": mid, "high": high}
        self.lateral8, self.lateral16, self.lateral32 = (conv_bn(c, width) for c in (mid, high, top))
        self.lateral4 = conv_bn(low, FINEST)
        self.reduce8 = conv_bn(width, FINEST)
        self.fuse16, self.fuse8 = conv_bn(width, width, 3), conv_bn(width, width, 3)
        self.fuse4 = conv_bn(FINEST, FINEST, 3)
        self.classifier = nn.Conv2d(FINEST, classes, 1)

    def pyramid(self, low: Tensor, mid: Tensor, high: Tensor, top: Tensor) -> Taps:
        """Logits at stride 4 from the encoder's maps, and those maps as taps."""
        fused16 = self.fuse16(self.lateral16(high) + upsample(self.lateral32(top), high))
        fused8 = self.fuse8(self.lateral8(mid) + upsample(fused16, mid))
        fused4 = self.fuse4(self.lateral4(low) + upsample(self.reduce8(fused8), low))
        return Taps(self.classifier(fused4), {"low": low, "mid": mid, "high": high})


PYRAMID_STAGES = {
    "pyramid, stride 16": ("lateral32", "lateral16", "fuse16"),
    "pyramid, stride 8": ("lateral8", "fuse8"),
    "pyramid, stride 4": ("reduce8", "lateral4", "fuse4"),
    "classifier": ("classifier",),
}
"""The decoder's part of ``stages``."""
