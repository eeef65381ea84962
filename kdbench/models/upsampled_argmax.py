"""The class map of bilinearly upsampled logits, written with elementwise operators.

Same result as ``upsample(logits).argmax(1)``, other cost: OpenVINO runs a Resize to the full size and an ArgMax over
channels (its TopK) as two passes over C x H x W floats, which took longer than the rest of the student; elementwise
operators it fuses. ONNX Runtime does not fuse them and is faster with Resize and ArgMax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upsampled_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """N x C x h x w logits → N x H x W class ids as float; equal logits give the lower id, as argmax does.

    Args:
        size: (H, W); logits that have it already are not resized. Where W is a multiple of w, the horizontal
            interpolation is written out and never stored at full size; else it is a Resize.
    """
    height, width = size
    classes, columns = logits.shape[1], logits.shape[3]
    if width % columns or logits.shape[2:] == size:
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return first_maximum([logits[:, c] for c in range(classes)])
    rows = F.interpolate(logits, size=(height, columns), mode="bilinear", align_corners=False)
    here = rows[..., None]
    left = torch.cat([rows[..., :1], rows[..., :-1]], 3)[..., None]
    right = torch.cat([rows[..., 1:], rows[..., -1:]], 3)[..., None]
    weights = half_pixel_weights(width // columns, logits.device)
    from_left, from_here, from_right = (weight.to(logits.dtype) for weight in weights)
    maps = [
        left[:, c] * from_left + here[:, c] * from_here + right[:, c] * from_right for c in range(classes)
    ]  # N x H x w x factor each
    return first_maximum(maps).reshape(-1, height, width)


def half_pixel_weights(factor: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the left, own and right column for each of the ``factor`` pixels that a column becomes.

    Half-pixel centres: pixel p of a column lies (p + 0.5) / factor − 0.5 from its centre. They are made on ``device``:
    a CUDA graph cannot capture a copy from the CPU.
    """
    offset = (torch.arange(factor, dtype=torch.float32, device=device) + 0.5) / factor - 0.5
    return (-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)


def first_maximum(maps: list[Tensor]) -> Tensor:
    """Index of the largest of C maps of one shape, the first among equals, as a map of their dtype."""
    best, index = maps[0], torch.zeros_like(maps[0])
    for c, candidate in enumerate(maps[1:], start=1):
        index = torch.where(candidate > best, float(c), index)
        best = torch.maximum(best, candidate)
    return index
