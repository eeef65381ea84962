"""PASCAL VOC 2012 segmentation through torchvision, with the Semantic Boundaries Dataset's extra labels on request.

``--sbd`` gives the 10,582 training images of the literature (Hariharan et al. 2011; Chen et al. 2015): VOC's 1,464 and
every SBD image that is not among VOC's 1,449 validation images; VOC's own label wins where both have one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.base import ImageMaskPairs, voc_palette
from kdbench.errors import BadInput
from kdbench.torchvision_compat import torchvision

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VocPairs(ImageMaskPairs):
    """VOC's PNG masks, and SBD's MATLAB files beside them."""

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        if path.suffix != ".mat":
            return super().read_mask(path)
        from scipy.io import loadmat

        try:
            return loadmat(path)["GTcls"][0]["Segmentation"][0].astype(np.uint8)
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise BadInput(f"SBD label '{path}' cannot be read ({error}): extract it again") from error


def open_voc2012(root: Path, split: str, *, sbd: bool = False, download: bool = False) -> VocPairs:
    """Open VOC 2012 under ``root`` (VOCdevkit/VOC2012/), and SBD under ``root``/sbd/ when asked for.

    Raises:
        BadInput: the data is not there and ``download`` is off, or the download failed.
    """
    voc = _torchvision_dataset("VOCSegmentation", root, image_set=split, year="2012", download=download)
    pairs = [(Path(image), Path(mask)) for image, mask in zip(voc.images, voc.masks, strict=True)]
    if sbd and split == "train":
        pairs += _sbd_pairs(root, known={image.stem for image, _ in pairs}, download=download)
    return VocPairs("voc2012", split, CLASSES, voc_palette(len(CLASSES)), pairs)


def _sbd_pairs(root: Path, known: set[str], download: bool) -> list[tuple[Path, Path]]:
    """SBD's train and val images that are neither in ``known`` nor in VOC 2012's validation set."""
    validation = _torchvision_dataset("VOCSegmentation", root, image_set="val", year="2012", download=False)
    excluded = known | {Path(image).stem for image in validation.images}
    pairs = []
    for part in ("train", "val"):
        # SBDataset refuses to extract into a folder that exists, so only the first part may download.
        fetch = download and part == "train" and not (root / "sbd" / "img").exists()
        sbd = _torchvision_dataset("SBDataset", root / "sbd", image_set=part, mode="segmentation", download=fetch)
        pairs += [(Path(image), Path(mask)) for image, mask in zip(sbd.images, sbd.masks, strict=True)]
    return sorted(pair for pair in pairs if pair[0].stem not in excluded)


def _torchvision_dataset(kind: str, root: Path, **options: object):  # type: ignore[no-untyped-def]
    try:
        return getattr(torchvision.datasets, kind)(str(root), **options)
    except (RuntimeError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"--data-root '{root}' does not hold {kind} ({first_line}): add --download, "
            "or extract the archives there by hand"
        ) from error
