"""Which layers 8 bits hurt: each layer alone is rounded to int8 in PyTorch, and the logits are compared.

One ranking with PyTorch's names serves every engine: int8 weights per output channel, 8-bit activations per tensor with
percentile ranges. Weights have 8 bits here, as TensorRT has them; on processors they have one bit less (``quantise``).
It takes one forward pass per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from exporters.quantise import SHARE_INSIDE
from kdbench.data.preprocessing import normalise
from kdbench.models.layers import layer_weights
from kdbench.models.segmentation import SegmentationModel


@dataclass(frozen=True)
class LayerError:
    """What rounding one layer to 8 bits does.

    Attributes:
        layer: name of the convolution or linear layer, as of ``layer_weights``.
        logit_error: ‖z' − z‖ / ‖z‖ of the logits before upsampling.
        changed: share of positions of the logits' grid that get another class.
    """

    layer: str
    logit_error: float
    changed: float


@torch.inference_mode()
def layer_errors(model: SegmentationModel, images: Sequence[NDArray[np.uint8]]) -> list[LayerError]:
    """The error of each convolution and linear layer that the logits come through, worst first.

    Args:
        model: in eval mode, float32; unchanged afterwards.
        images: H x W x 3 uint8, all of one size.
    """
    batch = torch.from_numpy(normalise(np.stack(images), model.input))
    transposed = {name for name, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which is one operator, with its layers inside
    errors = []
    try:
        expected = model.logits(batch)
        for name, parameter in layer_weights(model).items():
            weight = parameter.data
            parameter.data = round_weight(weight, channel=int(name in transposed))
            try:
                with _RoundedInput(parameter.data) as rounded:
                    got = model.logits(batch)
            finally:
                parameter.data = weight
            if rounded.met:
                difference = (got - expected).norm() / expected.norm()
                changed = (got.argmax(1) != expected.argmax(1)).float().mean()
                errors.append(LayerError(name, float(difference), float(changed)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return sorted(errors, key=lambda error: -error.logit_error)


INPUT_OF = {
    "conv1d": 0, "conv2d": 0, "conv_transpose1d": 0, "conv_transpose2d": 0, "convolution": 0, "linear": 0, "matmul": 0,
    "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1,
}  # fmt: skip
"""PyTorch's operators that multiply by a weight → which argument the other factor is."""


class _RoundedInput(TorchDispatchMode):
    """Rounds whatever is multiplied by one weight.

    A layer is found by its weight's memory, not by a call of its module: attention multiplies by the weights of modules
    that it never calls.

    Attributes:
        met: whether anything was multiplied by it.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._memory, self.met = weight.untyped_storage().data_ptr(), False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        which = INPUT_OF.get(function.overloadpacket.__name__)
        if which is not None and any(
            isinstance(value, Tensor) and value.untyped_storage().data_ptr() == self._memory for value in args
        ):
            self.met = True
            args = (*args[:which], round_activation(args[which]), *args[which + 1 :])
        return function(*args, **(kwargs or {}))


def round_weight(weight: Tensor, channel: int = 0) -> Tensor:
    """Symmetric int8 per output channel: −127 … 127 times the channel's largest magnitude / 127.

    Args:
        channel: the dimension of the output channels: 1 in transposed convolutions.
    """
    others = [dimension for dimension in range(weight.ndim) if dimension != channel]
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def round_activation(values: Tensor) -> Tensor:
    """Asymmetric 8 bits for the whole tensor between the percentiles 0.01 and 99.99; zero stays exact."""
    flat = values.flatten()
    count = flat.numel()
    low = flat.kthvalue(max(1, round((1 - SHARE_INSIDE) * count))).values.clamp(max=0)
    high = flat.kthvalue(max(1, round(SHARE_INSIDE * count))).values.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = (-low / scale).round()
    return ((values / scale + zero).round().clamp(0, 255) - zero) * scale
