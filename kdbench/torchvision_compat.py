"""Import torchvision beside a torch build that its compiled operators do not load with.

torchvision's PyPI wheel is built for the CUDA torch. Beside a CPU-only torch its extension is not loaded, and the
import then dies because ``torchvision::nms`` has no schema. kdbench needs only the Python parts (models, datasets), so
two schemas without a kernel are enough. Always ``from kdbench.torchvision_compat import torchvision``.
"""

from __future__ import annotations

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
