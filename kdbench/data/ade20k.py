"""ADE20K's scene parsing, 150 classes (Zhou et al. 2017): images/training/ with annotations/training/, and validation.

Mask value 0 is "other objects" and ignored; value n is class n - 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.open import DATASETS, Layout

if TYPE_CHECKING:
    from kdbench.data.declared import DeclaredPairs

CLASSES = tuple(
    """wall|building|sky|floor|tree|ceiling|road|bed|windowpane|grass|cabinet|sidewalk|person|earth|door|table|mountain|
plant|curtain|chair|car|water|painting|sofa|shelf|house|sea|mirror|rug|field|armchair|seat|fence|desk|rock|wardrobe|
lamp|bathtub|railing|cushion|base|box|column|signboard|chest of drawers|counter|sand|sink|skyscraper|fireplace|
refrigerator|grandstand|path|stairs|runway|case|pool table|pillow|screen door|stairway|river|bridge|bookcase|blind|
coffee table|toilet|flower|book|hill|bench|countertop|stove|palm|kitchen island|computer|swivel chair|boat|bar|
arcade machine|hovel|bus|towel|light|truck|tower|chandelier|awning|streetlight|booth|television receiver|airplane|
dirt track|apparel|pole|land|bannister|escalator|ottoman|bottle|buffet|poster|stage|van|ship|fountain|conveyer belt|
canopy|washer|plaything|swimming pool|stool|barrel|basket|waterfall|tent|bag|minibike|cradle|oven|ball|food|step|tank|
trade name|microwave|pot|animal|bicycle|lake|dishwasher|screen|blanket|sculpture|hood|sconce|vase|traffic light|tray|
ashcan|fan|pier|crt screen|plate|monitor|bulletin board|shower|radiator|glass|clock|flag""".replace("\n", "").split("|")
)
FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(root: Path, split: str) -> DeclaredPairs:
    """Open a split.

    Raises:
        BadInput: the folders are not there, or do not pair up.
    """
    from kdbench.data.base import pair_by_stem
    from kdbench.data.declared import Declared, DeclaredPairs
    from kdbench.data.label_map import LabelMap
    from kdbench.data.labels import IGNORE
    from kdbench.data.palette import distinct_palette

    fix = "point --data-root at ADEChallengeData2016/, which holds images/training/ and annotations/training/"
    folder = FOLDERS[split]
    pairs = pair_by_stem(root / "images" / folder, root / "annotations" / folder, fix)
    labels = LabelMap(CLASSES, {0: IGNORE, **{index + 1: index for index in range(len(CLASSES))}})
    return DeclaredPairs("ade20k", split, CLASSES, distinct_palette(len(CLASSES)), pairs, Declared(labels))


DATASETS.add(Layout("ade20k", open_ade20k, holds="images/training and annotations/training, and validation's"))
