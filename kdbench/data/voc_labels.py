"""The label files of VOC 2012 and of the Semantic Boundaries Dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.base import ImageMaskPairs
from kdbench.errors import BadInput


class VocPairs(ImageMaskPairs):
    """VOC's palette PNG masks (index = class, 255 = void), and SBD's MATLAB files beside them."""

    def read_mask(self, path: Path) -> NDArray[np.integer]:
        if path.suffix != ".mat":
            return super().read_mask(path)
        from scipy.io import loadmat

        try:
            label = np.asarray(loadmat(path)["GTcls"][0]["Segmentation"][0])
        except Exception as error:  # on damaged files scipy raises its own types, zlib's and six of Python's
            raise BadInput(f"SBD label '{path}' cannot be read ({error}): extract it again") from error
        if label.ndim != 2 or label.dtype != np.uint8:
            raise BadInput(
                f"SBD label '{path}' has shape {label.shape} and type {label.dtype}, expected height x width of uint8: "
                "extract it again"
            )
        return label
