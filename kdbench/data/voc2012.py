"""PASCAL VOC 2012 segmentation through torchvision, with the Semantic Boundaries Dataset's extra labels on request.

``--sbd`` gives the 10,582 training images of the literature (Hariharan et al. 2011; Chen et al. 2015): VOC's 1,464 and
every SBD image that is not among VOC's 1,449 validation images; VOC's own label wins where both have one.
"""

from __future__ import annotations

import http.client
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from kdbench.data.voc_labels import VocPairs

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

Pairs = list[tuple[Path, Path]]

_NAME = {"VOCSegmentation": "VOC 2012", "SBDataset": "SBD"}
_LAYOUT = {
    "VOCSegmentation": "VOCdevkit/VOC2012/ with ImageSets/Segmentation/, JPEGImages/ and SegmentationClass/",
    "SBDataset": "img/, cls/, train.txt and val.txt (benchmark_RELEASE/dataset/ in its archive)",
}
_SBD_PARTS = ("cls", "img", "inst", "train.txt", "val.txt")


def open_voc2012(root: Path, split: str, *, sbd: bool = False, download: bool = False) -> VocPairs:
    """Open VOC 2012 under ``root`` (VOCdevkit/VOC2012/), and SBD under ``root``/sbd/ when asked for.

    Args:
        sbd: only the train split has more images with it.
        download: fetch what is missing or incomplete; what is complete is left alone.

    Raises:
        BadInput: the data is missing or incomplete and ``download`` is off, or an incomplete SBD is in the way.
        RunFailed: the download failed.
    """
    from kdbench.data.base import voc_palette
    from kdbench.data.voc_labels import VocPairs

    pairs = _pairs("VOCSegmentation", root, download, image_set=split, year="2012")
    if sbd and split == "train":
        validation = _pairs("VOCSegmentation", root, download, image_set="val", year="2012")
        excluded = {image.stem for image, _ in pairs + validation}
        # SBD's own train and val parts cut across VOC's splits, so take both and leave out what VOC has.
        sbd_root = root / "sbd"
        both = [_pairs("SBDataset", sbd_root, download, image_set=p, mode="segmentation") for p in ("train", "val")]
        pairs += sorted(pair for pair in both[0] + both[1] if pair[0].stem not in excluded)
    return VocPairs("voc2012", split, CLASSES, voc_palette(len(CLASSES)), pairs)


def _pairs(kind: str, root: Path, download: bool, **options: str) -> Pairs:
    """Image and label files of one split of a torchvision dataset, downloaded first if that is wanted and needed.

    torchvision's own ``download=True`` extracts 2 GB anew at every call, hence "needed".
    """
    try:
        return _listed(kind, root, **options)
    except BadInput:
        if not download:
            raise
    dataset = getattr(_torchvision_datasets(), kind)
    if kind == "SBDataset":
        # It moves these out of the extracted archive, and fails half-way when one of them is there already.
        present = [part for part in _SBD_PARTS if (root / part).exists()]
        if present:
            raise BadInput(
                f"--download: '{root}' holds an incomplete SBD ({', '.join(present)}), expected none of "
                f"{', '.join(_SBD_PARTS)}: remove these (benchmark.tgz may stay) and run again"
            )
    try:
        dataset(str(root), download=True, **options)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError) as error:
        raise RunFailed(
            f"--download: fetching {_NAME[kind]} into '{root}' failed ({_first_line(error)}): try again, or fetch "
            f"{_archive_url(kind)} by hand and extract it so that the folder holds {_LAYOUT[kind]}"
        ) from error
    return _listed(kind, root, **options)


def _listed(kind: str, root: Path, **options: str) -> Pairs:
    """Image and label files of one split, all of them present."""
    try:
        dataset = getattr(_torchvision_datasets(), kind)(str(root), download=False, **options)
    except (OSError, RuntimeError) as error:  # the list of the split is missing; the whole folder is
        raise BadInput(
            f"--data-root: '{root}' does not hold {_NAME[kind]}'s {options['image_set']} split, expected "
            f"{_LAYOUT[kind]}: add --download, or extract {_archive_url(kind)} so"
        ) from error
    pairs = [(Path(image), Path(mask)) for image, mask in zip(dataset.images, dataset.masks, strict=True)]
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing or not pairs:
        lacks = f"'{missing[0]}' ({len(missing)} such files)" if missing else "any image in its list"
        raise BadInput(
            f"--data-root: {_NAME[kind]}'s {options['image_set']} split in '{root}' lacks {lacks}: "
            f"add --download, or extract {_archive_url(kind)} again"
        )
    return pairs


def _torchvision_datasets() -> Any:
    from kdbench.torchvision_compat import torchvision

    return torchvision.datasets


def _archive_url(kind: str) -> str:
    if kind == "SBDataset":
        return str(_torchvision_datasets().SBDataset.url)
    return str(_torchvision_datasets().voc.DATASET_YEAR_DICT["2012"]["url"])


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


DATASETS.add(
    Layout("voc2012", open_voc2012, holds="VOCdevkit/VOC2012/", recipe="voc", options=("sbd", "download"))
)  # fmt: skip
