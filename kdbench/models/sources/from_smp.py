"""segmentation_models_pytorch's architectures, for example ``smp:FPN(encoder_name="timm-mobilenetv3_small_100")``."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdbench.data.normalisation import IMAGENET, Input, triple


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
