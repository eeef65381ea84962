"""A float16 copy of a network that also runs where its own code makes float32 tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.models.segmentation import SegmentationModel


def half_copy(model: SegmentationModel) -> SegmentationModel:
    """A copy with float16 weights and buffers, whose layers take float32 tensors too.

    A position or a mask that ``forward`` makes is float32, and so is what it is added to: the next layer would refuse
    that. The layers turn such inputs to float16; inputs that are float16 already are passed as they are, so that the
    traced graph of a network without float32 tensors is the same.
    """
    found = copy.deepcopy(model).half()
    for module in found.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.dtype == torch.float16]
        if own:
            module.register_forward_pre_hook(_to_half, with_kwargs=True)
    return found


def _to_half(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    return tuple(_half(value) for value in inputs), {name: _half(value) for name, value in named.items()}


def _half(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
