"""Your own data: images/<split>/ and masks/<split>/ with the same file names, and classes.txt with one class a line.

Masks are 8-bit single-channel images of class ids (line number in classes.txt, from 0), 255 = ignore."""

from __future__ import annotations

from pathlib import Path

from kdbench.data.base import ImageMaskPairs, pair_by_stem, voc_palette
from kdbench.errors import BadInput


def open_folder(root: Path, split: str) -> ImageMaskPairs:
    """Open ``root``/images/<split>/ with ``root``/masks/<split>/.

    Raises:
        BadInput: the layout is not this one, classes.txt is empty, repeats a name, or lists more than 255 classes.
    """
    listing = root / "classes.txt"
    fix = "--data-root must hold images/train, images/val, masks/train, masks/val and classes.txt (one class a line)"
    if not listing.is_file():
        raise BadInput(f"'{listing}' does not exist: {fix}")
    classes = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not 2 <= len(classes) <= 255 or len(set(classes)) != len(classes):
        raise BadInput(f"'{listing}' lists {len(classes)} classes, expected 2 to 255 different names, one a line")
    pairs = pair_by_stem(root / "images" / split, root / "masks" / split, fix)
    return ImageMaskPairs("folder", split, classes, voc_palette(len(classes)), pairs)
