"""Several networks as one: the mean of their logits, a better teacher than any of them alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.models.segmentation import SegmentationModel, Taps, upsample


class Ensemble(SegmentationModel):
    """The mean of the members' logits, on the finest member's grid; features are the first member's.

    A mean of logits is the geometric mean of the members' probabilities, normalised.

    Args:
        members: by architecture; the same may be there several times.
    """

    def __init__(self, members: list[tuple[str, SegmentationModel]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(model for _, model in members)
        self.tap_channels, self.input = members[0][1].tap_channels, members[0][1].input
        self.stages = {f"{i + 1}, {arch}": (f"members.{i}",) for i, (arch, _) in enumerate(members)}

    def taps(self, images: Tensor) -> Taps:
        taps: list[Taps] = [member.taps(images) for member in self.members]  # type: ignore[operator]
        finest = max((t.logits for t in taps), key=lambda logits: logits.shape[-1])
        same_grid = [t.logits if t.logits.shape == finest.shape else upsample(t.logits, finest) for t in taps]
        return Taps(torch.stack(same_grid).mean(0), taps[0].features)
