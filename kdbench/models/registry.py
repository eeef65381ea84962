"""The architectures by name: building one, and loading a trained one from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import BadInput
from kdbench.models.efficientnet_lite import FpnEfficientNetLite2, StudentLite0
from kdbench.models.ensemble import Ensemble
from kdbench.models.segmentation import SegmentationModel
from kdbench.models.student import Student
from kdbench.models.teachers import FcnResNet50, FpnResNet18, LrasppMobileNetV3Large
from kdbench.runs.checkpoints import load_checkpoint

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
