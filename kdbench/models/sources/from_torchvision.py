"""torchvision's segmentation networks, for example ``torchvision:deeplabv3_mobilenet_v3_large``."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdbench.errors import BadInput
from kdbench.models.segmentation import raise_batchnorm_momentum
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
