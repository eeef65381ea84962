"""Adapters: the student's tap, projected to the teacher's channels for the feature loss.

They belong to the trainer: created before the optimizer and trained with the student, but never counted, saved with
the deployed checkpoint, or exported.
"""

from __future__ import annotations

from torch import nn


def make_adapters(
    student_channels: dict[str, int], teacher_channels: dict[str, int], levels: tuple[str, ...]
) -> nn.ModuleDict:
    """One 1 x 1 convolution without bias and a BatchNorm per level, student channels → teacher channels."""
    return nn.ModuleDict(
        {
            level: nn.Sequential(
                nn.Conv2d(student_channels[level], teacher_channels[level], 1, bias=False),
                nn.BatchNorm2d(teacher_channels[level]),
            )
            for level in levels
        }
    )
