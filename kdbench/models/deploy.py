"""From a checkpoint to the module that is deployed: build, load, and wrap with the output that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.artifacts import load_checkpoint
from kdbench.data.preprocessing import MEAN, STD
from kdbench.errors import BadInput
from kdbench.models.efficientnet_lite import FpnEfficientNetLite2, StudentLite0
from kdbench.models.ensemble import Ensemble
from kdbench.models.segmentation import SegmentationModel
from kdbench.models.student import Student
from kdbench.models.teachers import FcnResNet50, FpnResNet18, LrasppMobileNetV3Large
from kdbench.models.upsampled_argmax import upsampled_argmax

OUTPUTS = ("logits", "mask")
ARCHITECTURES: dict[str, Callable[[int], SegmentationModel]] = {
    "student": Student,
    "fcn_resnet50": FcnResNet50,
    "fpn_resnet18": FpnResNet18,
    "lraspp_mobilenet_v3_large": LrasppMobileNetV3Large,
    "fpn_efficientnet_lite2": FpnEfficientNetLite2,
    "student_lite0": StudentLite0,
}
STUDENTS = ("student", "student_lite0")
"""Architectures that are made to be deployed; the others teach."""


def build_model(arch: str, classes: int) -> SegmentationModel:
    """A freshly initialised model; its weights depend on torch's global seed.

    Args:
        arch: one of ``ARCHITECTURES``, or several joined by "+" for their ``Ensemble``.
    """
    members = []
    for name in arch.split("+"):
        if name not in ARCHITECTURES:
            raise BadInput(f"architecture: got '{arch}', expected one of {', '.join(ARCHITECTURES)}, or several with +")
        members.append((name, ARCHITECTURES[name](classes)))
    return Ensemble(members) if len(members) > 1 else members[0][1]


def load_model(checkpoint: Path, made_by: str) -> tuple[SegmentationModel, dict[str, Any]]:
    """Read a trained model, in eval mode on the CPU, and its sidecar.

    Args:
        checkpoint: a .safetensors file that ``kdbench train`` wrote.
        made_by: the command that makes it, for errors.
    """
    state, sidecar = load_checkpoint(checkpoint, made_by)
    model = build_model(sidecar["arch"], len(sidecar["classes"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"checkpoint '{checkpoint}' does not fit the architecture {sidecar['arch']} of this kdbench: "
            f"make it again with `{made_by}`"
        ) from error
    return model.eval(), sidecar


def count_gflops(arch: str, classes: int, size: tuple[int, int]) -> float:
    """Floating-point operations of one image in 10⁹, counted by torch's FlopCounterMode (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(arch, classes).eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 1e9


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
        self.register_buffer("mean", 255.0 * torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # TensorRT refuses a Transpose of uint8, so the cast comes first.
        x = (image.to(self.mean.dtype).permute(0, 3, 1, 2) - self.mean) / self.std
        x = x.to(self.dtype)
        if self.elementwise:
            return upsampled_argmax(self.model.taps(x).logits, (x.shape[2], x.shape[3])).to(torch.uint8)
        return self.model(x).argmax(1).to(torch.uint8)


def deployable(model: SegmentationModel, output: str, *, elementwise: bool = False) -> nn.Module:
    """Wrap ``model`` so that it returns ``output`` ("logits" or "mask"); see ``MaskModel`` for ``elementwise``."""
    if output not in OUTPUTS:
        raise BadInput(f"--output: got '{output}', expected one of {', '.join(OUTPUTS)}")
    return (MaskModel(model, elementwise) if output == "mask" else LogitsModel(model)).eval()
