"""The student where milliseconds count more than the last point: ReLU for hard-swish, and no squeeze-and-excitation.

Both keep 8 bits from paying: engines fuse a ReLU into the convolution before it and round once, around a hard-swish
and a channel's weight they go back to float. The class is chosen at half the image's size, which leaves a quarter of
the upsampling and of the argmax; those were a third of the student.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdbench.models.segmentation import Published
from kdbench.models.student import Student
from kdbench.torchvision_compat import torchvision


class StudentFast(Student):
    """``Student`` with plainer operators and half the mask's resolution.

    Args:
        classes: number of classes C.
    """

    mask_stride = 2

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        for name, module in list(self.named_modules()):
            if isinstance(module, nn.Hardswish):
                self.set_submodule(name, nn.ReLU(inplace=True))
            elif isinstance(module, torchvision.ops.SqueezeExcitation):
                self.set_submodule(name, nn.Identity())

    def published(self) -> dict[str, Callable[[], Published]]:
        """None: torchvision's weights are of an encoder with squeeze-and-excitation."""
        return {}
