"""CamVid, 11 classes at 360 x 480, in the SegNet layout: train/ trainannot/ val/ valannot/ (Brostow et al. 2009;
Badrinarayanan et al. 2017). Mask value 11 is "unlabelled" and ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.open import DATASETS, Layout

if TYPE_CHECKING:
    from kdbench.data.base import ImageMaskPairs

VOID = 11
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


def open_camvid(root: Path, split: str) -> ImageMaskPairs:
    """Open ``root``/<split>/ with ``root``/<split>annot/.

    Raises:
        BadInput: the folders are not there (the message says where they are when one level is off), or do not pair up.
    """
    from kdbench.data.base import pair_by_stem
    from kdbench.data.declared import DRIVE, Declared, DeclaredPairs
    from kdbench.data.label_map import LabelMap

    fix = "point --data-root at the CamVid folder that holds train/, trainannot/, val/ and valannot/"
    near = [folder for folder in (root.parent, *sorted(root.glob("*/"))) if (folder / f"{split}annot").is_dir()]
    if near:
        fix += f", which '{near[0]}' does"
    pairs = pair_by_stem(root / split, root / f"{split}annot", fix)
    declared = Declared(LabelMap.of_ids(CLASSES, (VOID,)), re.compile(DRIVE))
    return DeclaredPairs("camvid", split, CLASSES, PALETTE, pairs, declared)


DATASETS.add(
    Layout(
        "camvid",
        open_camvid,
        holds="train/ trainannot/ val/ valannot/, the 11-class layout at 360 x 480",
        recipe="camvid",
        reported=("test",),
    )
)
