"""Which layers 8 bits hurt: each convolution alone is rounded to int8 in PyTorch, and the logits are compared.

A simulation of what the quantisers do (int8 weights per output channel, 8-bit activations per tensor with percentile
ranges), so that one ranking with PyTorch's names serves every engine. It takes one forward pass per convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdbench.data.preprocessing import normalise
from kdbench.models.segmentation import SegmentationModel

PERCENTILE = 0.9999


@dataclass(frozen=True)
class LayerError:
    """What rounding one layer to 8 bits does.

    Attributes:
        layer: name of the convolution in the model.
        logit_error: ‖z' − z‖ / ‖z‖ of the logits before upsampling.
        changed: share of positions of the logits' grid that get another class.
    """

    layer: str
    logit_error: float
    changed: float


@torch.inference_mode()
def layer_errors(model: SegmentationModel, images: Sequence[NDArray[np.uint8]]) -> list[LayerError]:
    """The error of each convolution, worst first.

    Args:
        model: in eval mode, float32; unchanged afterwards.
        images: H x W x 3 uint8, all of one size.
    """
    batch = torch.from_numpy(normalise(np.stack(images), model.input))
    expected = model.taps(batch).logits
    errors = []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        weight = layer.weight.data
        hook = layer.register_forward_pre_hook(_round_input)
        layer.weight.data = round_weight(weight)
        try:
            got = model.taps(batch).logits
        finally:
            layer.weight.data = weight
            hook.remove()
        difference = (got - expected).norm() / expected.norm()
        changed = (got.argmax(1) != expected.argmax(1)).float().mean()
        errors.append(LayerError(name, float(difference), float(changed)))
    return sorted(errors, key=lambda error: -error.logit_error)


def round_weight(weight: Tensor) -> Tensor:
    """Symmetric int8 per output channel (first dimension): −127 … 127 times the channel's largest magnitude / 127."""
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def round_activation(values: Tensor) -> Tensor:
    """Asymmetric 8 bits for the whole tensor between the percentiles 0.01 and 99.99; zero stays exact."""
    flat = values.flatten()
    count = flat.numel()
    low = flat.kthvalue(max(1, round((1 - PERCENTILE) * count))).values.clamp(max=0)
    high = flat.kthvalue(max(1, round(PERCENTILE * count))).values.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return ((values / scale + zero).round().clamp(0, 255) - zero) * scale


def _round_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
    return (round_activation(inputs[0]),)
