"""What losses are built of: means over the pixels that count, of the whole batch whatever processes share it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.labels import IGNORE
from kdbench.models.segmentation import upsample


class _Total(torch.autograd.Function):
    """Sum over processes. Every process goes on to compute the same loss, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Total.forward(ctx, gradients[0])


def total(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, differentiable."""
    return values if not dist.is_initialized() or dist.get_world_size() == 1 else _Total.apply(values)


def resize(maps: Tensor, like: Tensor) -> Tensor:
    return maps if maps.shape[-2:] == like.shape[-2:] else upsample(maps, like)


def valid_mask(labels: Tensor, like: Tensor) -> Tensor:
    """N x h x w bool on the grid of ``like``: the nearest label is not 255."""
    small = F.interpolate(labels[:, None].float(), size=like.shape[-2:], mode="nearest-exact")
    return small[:, 0] != IGNORE


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of all processes; 0 without one. Both N x h x w."""
    # where, not multiplication: an infinite value under the mask must not become NaN
    return total(torch.where(valid, values, 0.0).sum()) / total(valid.sum()).clamp(min=1)
