"""The student: MobileNetV3-Small (Howard et al. 2019) with a light decoder, 2.81 M parameters.

The parameters sit where they are cheap. The encoder is not dilated; the dense convolutions work at stride 64, where a
512 x 512 image has 8 x 8 positions, and give the context; two narrow fusions at stride 16 and 8 bring back detail.
The logits at stride 8 are upsampled to stride 4, where one convolution of the encoder's first features corrects them:
thin classes (pole, sign symbol) need it, and C channels are cheaper to upsample than a decoder's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kdbench.models.published import from_torchvision
from kdbench.models.segmentation import Published, SegmentationModel, Taps, raise_batchnorm_momentum, upsample
from kdbench.torchvision_compat import torchvision

CONTEXT, FUSE16, FUSE8, DETAIL4 = 280, 128, 48, 32
"""Widths of the decoder at stride 64 and 32, at stride 16, at stride 8, and of the correction at stride 4."""


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Student(SegmentationModel):
    """MobileNetV3-Small encoder, context at stride 64, fusion at 16 and 8, logits at stride 4.

    Args:
        classes: number of classes C.
    """

    tap_channels = {"low": 16, "mid": 24, "high": 48}  # noqa: RUF012
    stages = {  # noqa: RUF012
        "encoder, stride 4": ("encoder.0", "encoder.1"),
        "encoder, stride 8": ("encoder.2", "encoder.3"),
        "encoder, stride 16": ("encoder.4", "encoder.5", "encoder.6", "encoder.7", "encoder.8"),
        "encoder, stride 32": ("encoder.9", "encoder.10", "encoder.11", "encoder.12"),
        "context, stride 64": ("project", "context", "merge"),
        "fusion, stride 16": ("lateral16", "reduce16", "fuse16"),
        "fusion, stride 8": ("lateral8", "reduce8", "fuse8"),
        "classifier, stride 8": ("classifier",),
        "correction, stride 4": ("detail4",),
    }

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = torchvision.models.mobilenet_v3_small(weights=None).features
        self.project = conv_bn(576, CONTEXT)
        self.context = nn.Sequential(conv_bn(CONTEXT, CONTEXT, 3, stride=2), conv_bn(CONTEXT, CONTEXT, 3))
        self.merge = conv_bn(CONTEXT, CONTEXT)
        self.lateral16, self.reduce16 = conv_bn(48, FUSE16), conv_bn(CONTEXT, FUSE16)
        self.fuse16 = conv_bn(FUSE16, FUSE16, 3)
        self.lateral8, self.reduce8 = conv_bn(24, FUSE8), conv_bn(FUSE16, FUSE8)
        self.fuse8 = conv_bn(FUSE8, FUSE8, 3)
        self.classifier = nn.Conv2d(FUSE8, classes, 1)
        self.detail4 = nn.Sequential(conv_bn(16, DETAIL4, 3), nn.Conv2d(DETAIL4, classes, 1, bias=False))
        raise_batchnorm_momentum(self)

    def taps(self, images: Tensor) -> Taps:
        stride4 = self.encoder[:2](images)
        stride8 = self.encoder[2:4](stride4)
        stride16 = self.encoder[4:9](stride8)
        stride32 = self.project(self.encoder[9:](stride16))
        context = self.merge(stride32 + upsample(self.context(stride32), stride32))
        fused16 = self.fuse16(self.lateral16(stride16) + upsample(self.reduce16(context), stride16))
        fused8 = self.fuse8(self.lateral8(stride8) + upsample(self.reduce8(fused16), stride8))
        logits = upsample(self.classifier(fused8), stride4) + self.detail4(stride4)
        return Taps(logits, {"low": stride4, "mid": stride8, "high": stride16})

    def published(self) -> dict[str, Callable[[], Published]]:
        return from_torchvision(torchvision.models.MobileNet_V3_Small_Weights, into="encoder")
