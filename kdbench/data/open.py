"""Open a dataset by its name on the command line."""

from __future__ import annotations

from pathlib import Path

from kdbench.data.base import SegmentationDataset
from kdbench.errors import BadInput

DATASETS = ("shapes", "camvid", "voc2012", "folder")
SPLITS = ("train", "val")


def open_dataset(
    name: str, split: str, root: Path | None = None, *, sbd: bool = False, download: bool = False
) -> SegmentationDataset:
    """Open one split of a dataset.

    Args:
        name: one of ``DATASETS``.
        split: "train" or "val".
        root: the dataset's folder; ``shapes`` needs none.
        sbd: ``voc2012`` only: train on the 10,582 images that the Semantic Boundaries Dataset adds to.
        download: ``voc2012`` only: fetch into ``root`` what is not there yet.

    Raises:
        BadInput: an unknown name or split, no root, or a root that does not hold the dataset.
        RunFailed: a failed download.
    """
    if name not in DATASETS:
        raise BadInput(f"--dataset: got '{name}', expected one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise BadInput(f"split: got '{split}', expected one of {', '.join(SPLITS)}")
    if (sbd or download) and name != "voc2012":
        raise BadInput(f"--sbd and --download go with --dataset voc2012, got '{name}'")
    if name == "shapes":
        from kdbench.data.shapes import Shapes

        return Shapes(split)
    if root is None:
        raise BadInput(f"--data-root: needed for --dataset {name}, the folder that holds it")
    if name == "camvid":
        from kdbench.data.camvid import open_camvid

        return open_camvid(root, split)
    if name == "voc2012":
        from kdbench.data.voc2012 import open_voc2012

        return open_voc2012(root, split, sbd=sbd, download=download)
    from kdbench.data.folder import open_folder

    return open_folder(root, split)
