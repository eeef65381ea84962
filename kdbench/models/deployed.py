"""The form in which a network is deployed: wrapped with the output that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.errors import BadInput
from kdbench.models.segmentation import SegmentationModel, mask_size, repeat_pixels
from kdbench.models.upsampled_argmax import upsampled_argmax

OUTPUTS = ("logits", "mask")


class LogitsModel(nn.Module):
    """N x 3 x H x W float32, normalised → N x C x H x W float32 logits, whatever the network computes in."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model
        self.dtype = next(model.parameters()).dtype

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.to(self.dtype)).float()


class MaskModel(nn.Module):
    """N x H x W x 3 uint8 RGB → N x H x W uint8 class ids: normalisation and argmax are part of the network.

    Args:
        model: the network; its parameters' dtype is what it computes in.
        elementwise: upsample and choose the class by ``upsampled_argmax``, for engines that fuse it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SegmentationModel, elementwise: bool = False) -> None:
        super().__init__()
        self.model = model
        self.elementwise = elementwise
        self.dtype = next(model.parameters()).dtype
        self.turns_channels = model.input.turns_channels
        self.register_buffer("mean", model.input.scale * torch.tensor(model.input.mean).view(1, 3, 1, 1))
        self.register_buffer("std", model.input.scale * torch.tensor(model.input.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # TensorRT refuses a Transpose of uint8, so the cast comes first.
        x = image.to(self.mean.dtype).permute(0, 3, 1, 2)
        if self.turns_channels:
            x = x.flip(1)
        x = (x - self.mean) / self.std
        x = x.to(self.dtype)
        if self.elementwise:
            classes = upsampled_argmax(self.model.logits(x), mask_size(x.shape[2:], self.model.mask_stride))
        else:
            classes = self.model.scores(x).argmax(1)
        if self.model.mask_stride > 1:
            classes = repeat_pixels(classes[:, None].to(self.mean.dtype), self.model.mask_stride)[:, 0]
        return classes.to(torch.uint8)


def deployable(model: SegmentationModel, output: str, *, elementwise: bool = False) -> nn.Module:
    """Wrap ``model`` so that it returns ``output`` ("logits" or "mask"); see ``MaskModel`` for ``elementwise``."""
    if output not in OUTPUTS:
        raise BadInput(f"--output: got '{output}', expected one of {', '.join(OUTPUTS)}")
    return (MaskModel(model, elementwise) if output == "mask" else LogitsModel(model)).eval()
