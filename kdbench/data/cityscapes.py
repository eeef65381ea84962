"""Cityscapes, 19 classes (Cordts et al. 2016): leftImg8bit/<split>/<city>/ with gtFine/<split>/<city>/.

Masks are the ids that the dataset ships (``*_gtFine_labelIds.png``), or the train ids that its scripts make of them
(``*_gtFine_labelTrainIds.png``), which are taken where they are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput

if TYPE_CHECKING:
    from kdbench.data.declared import DeclaredPairs

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Of each class, in ``*_labelIds.png``; other ids up to 33 are ignored, and so is 255, a licence plate's -1."""
_HOLDS = "leftImg8bit/train, leftImg8bit/val, gtFine/train and gtFine/val, each with a folder for every city"


def open_cityscapes(root: Path, split: str) -> DeclaredPairs:
    """Open a split.

    Raises:
        BadInput: the folders are not there, or an image has no mask.
    """
    from kdbench.data.declared import Declared, DeclaredPairs
    from kdbench.data.faults import named, raise_or_collect
    from kdbench.data.label_map import LabelMap
    from kdbench.data.labels import IGNORE

    ending = "_leftImg8bit"
    images = sorted((root / "leftImg8bit" / split).glob(f"*/*{ending}.png"))
    if not images:
        raise BadInput(f"--data-root: '{root}' has no leftImg8bit/{split}/CITY/*{ending}.png, expected {_HOLDS}")
    masks = root / "gtFine" / split
    trained = next(masks.glob("*/*_gtFine_labelTrainIds.png"), None) is not None
    kind = "labelTrainIds" if trained else "labelIds"
    every = [(i, masks / i.parent.name / f"{i.stem.removesuffix(ending)}_gtFine_{kind}.png") for i in images]
    if alone := [image for image, mask in every if not mask.is_file()]:
        raise_or_collect([f"{split}: {len(alone)} images have no *_gtFine_{kind}.png in '{masks}': {named(alone)}"])
    meaning = dict.fromkeys(range(34), IGNORE) | {value: index for index, value in enumerate(IDS)}
    labels = LabelMap.of_ids(CLASSES) if trained else LabelMap(CLASSES, meaning)
    pairs = [pair for pair in every if pair[0] not in alone]
    return DeclaredPairs("cityscapes", split, CLASSES, PALETTE, pairs, Declared(labels, root=root))


DATASETS.add(Layout("cityscapes", open_cityscapes, holds="leftImg8bit/ and gtFine/"))
