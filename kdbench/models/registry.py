"""Building an architecture by its name, and loading a trained one from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdbench.data.normalisation import Input
from kdbench.errors import BadInput
from kdbench.models.architectures import members
from kdbench.models.ensemble import Ensemble
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.checkpoints import load_checkpoint


def build_model(arch: str, classes: int) -> SegmentationModel:
    """A freshly initialised model; its weights depend on torch's global seed.

    Args:
        arch: one of ``ARCHITECTURES``, or several joined by "+" for their ``Ensemble``.
    """
    built = [(member.name, member.build(classes)) for member in members(arch)]
    return Ensemble(built) if len(built) > 1 else built[0][1]


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
    model.input = Input.recorded(sidecar)  # that of its training, whatever the architecture declares by now
    return model.eval(), sidecar


def count_gflops(arch: str, classes: int, size: tuple[int, int]) -> float:
    """Floating-point operations of one image in 10⁹, counted by torch's FlopCounterMode (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(arch, classes).eval()(torch.empty(1, 3, *size))
    return counter.get_total_flops() / 1e9
