"""torchvision's segmentation networks, for example ``torchvision:deeplabv3_mobilenet_v3_large``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kdbench.errors import BadInput
from kdbench.models.published import from_torchvision
from kdbench.models.segmentation import Published, raise_batchnorm_momentum
from kdbench.torchvision_compat import torchvision


def build(name: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """The network ``name`` with fresh weights, without auxiliary head unless ``aux_loss`` asks for it.

    BatchNorm's momentum is 0.1 in all, as in the built-in networks: see ``raise_batchnorm_momentum``.
    """
    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name not in known:
        raise BadInput(f"torchvision:{name:.80}: expected one of {', '.join(known)}")
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=classes, **kwargs
    )
    raise_batchnorm_momentum(network)
    return network


def published(name: str, kwargs: dict[str, Any]) -> dict[str, Callable[[], Published]]:
    """torchvision's weights of the whole network, and of its backbone, which is called so in all of them."""
    whole = from_torchvision(torchvision.models.get_model_weights(name), None)
    backbone = next((known for prefix, known in BACKBONES.items() if prefix in name), None)
    if backbone is None:
        return whole
    return {**from_torchvision(torchvision.models.get_model_weights(backbone), "backbone"), **whole}


BACKBONES = {"mobilenet_v3_large": "mobilenet_v3_large", "resnet50": "resnet50", "resnet101": "resnet101"}
"""Part of a network's name → torchvision's name of its backbone."""
