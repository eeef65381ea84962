"""A loaded network on a device, with the memory that it reads from and writes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.data.preprocessing import Size


@dataclass
class Engine:
    """A loaded network with buffers of its own.

    Attributes:
        images: N x H x W x 3 uint8, where the network reads.
        masks: N x H x W uint8, where it writes.
        enqueue: puts one pass on the current stream.
        about: versions and settings, for the record.
        keeps: what ``enqueue`` works on without holding it.
        whole: puts both copies and the pass between them on the current stream at once; None where each is put there.
        sent, received: pinned memory that ``whole`` copies from and to.
    """

    images: Tensor
    masks: Tensor
    enqueue: Callable[[], Any]
    about: dict[str, Any]
    keeps: Any = None
    whole: Callable[[], Any] | None = None
    sent: Tensor | None = None
    received: Tensor | None = None


def buffers(batch: int, size: Size, device: str) -> tuple[Tensor, Tensor]:
    images = torch.zeros((batch, *size, 3), dtype=torch.uint8, device=device)
    return images, torch.empty((batch, *size), dtype=torch.uint8, device=device)
