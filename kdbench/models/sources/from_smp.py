"""segmentation_models_pytorch's architectures, for example ``smp:FPN(encoder_name="timm-mobilenetv3_small_100")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kdbench.data.normalisation import IMAGENET, Input, triple
from kdbench.models import published as names
from kdbench.models.segmentation import Published


def build(name: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """The architecture ``name`` for RGB images, with fresh weights. Source: https://smp.readthedocs.io"""
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.create_model(name, encoder_weights=None, in_channels=3, classes=classes, **kwargs)
    return network


def wanted_input(name: str, kwargs: dict[str, Any]) -> Input:
    """How timm's encoders (``tu-…``) want images; of others smp would ask the network, and ImageNet's are assumed."""
    import timm

    encoder = kwargs.get("encoder_name", "")
    known = timm.models.get_pretrained_cfg(encoder[3:]) if str(encoder).startswith("tu-") else None
    return IMAGENET if known is None else Input(triple(known.mean, "mean"), triple(known.std, "std"))


def published(name: str, kwargs: dict[str, Any]) -> dict[str, Callable[[], Published]]:
    """The encoder's ImageNet weights, as smp publishes them."""
    import segmentation_models_pytorch as smp

    encoder = str(kwargs.get("encoder_name", "resnet34"))  # smp's own default

    def read() -> Published:
        try:
            filled = smp.encoders.get_encoder(encoder, weights="imagenet")
        except Exception as error:  # the hub's client has errors of its own, by its version
            raise OSError(f"smp's {encoder}: {' '.join(str(error).split()):.200}") from error
        return Published(filled.state_dict(), f"smp's {encoder}, imagenet", None, into="encoder")

    return {names.IMAGENET: read}
