"""Tiles: of each split a folder, in it NAME.png and, with class ids, NAME_mask.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput

if TYPE_CHECKING:
    from kdbench.data.base import SegmentationDataset

CLASSES = ("background", "disk", "ring", "square", "bar", "triangle", "star", "cross", "wire", "dot")


def open_tiles(root: Path, split: str) -> SegmentationDataset:
    from kdbench.data.base import ImageMaskPairs, voc_palette

    masks = sorted((root / split).glob("*_mask.png"))
    if not masks:
        raise BadInput(f"--data-root: '{root / split}' holds no *_mask.png: name the folder that holds train/ and val/")
    pairs = [(mask.with_name(mask.name.replace("_mask.png", ".png")), mask) for mask in masks]
    return ImageMaskPairs("tiles", split, CLASSES, voc_palette(len(CLASSES)), pairs)


DATASETS.add(Layout("tiles", open_tiles, holds="train/ and val/, in each NAME.png and NAME_mask.png"))
