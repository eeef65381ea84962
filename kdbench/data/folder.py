"""Your own data: images/<split>/ and masks/<split>/ with the same file names, and classes.txt with one class a line.

Masks are 8-bit single-channel images of class ids (line number in classes.txt, from 0), 255 = ignore."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput

if TYPE_CHECKING:
    from kdbench.data.base import ImageMaskPairs

_LAYOUT = "--data-root must hold images/train, images/val, masks/train, masks/val and classes.txt (one class a line)"


def open_folder(root: Path, split: str) -> ImageMaskPairs:
    """Open ``root``/images/<split>/ with ``root``/masks/<split>/.

    Raises:
        BadInput: the layout is not this one, or ``read_classes`` refuses classes.txt.
    """
    from kdbench.data.base import ImageMaskPairs, pair_by_stem, voc_palette

    classes = read_classes(root / "classes.txt")
    pairs = pair_by_stem(root / "images" / split, root / "masks" / split, _LAYOUT)
    return ImageMaskPairs("folder", split, classes, voc_palette(len(classes)), pairs)


def read_classes(listing: Path) -> list[str]:
    """Class names, one a line; empty lines may follow the last one.

    Raises:
        BadInput: the file is missing, not UTF-8, has an empty line between names, repeats a name, or has not 2 to 255.
    """
    if not listing.is_file():
        raise BadInput(f"'{listing}' does not exist: {_LAYOUT}")
    try:
        text = listing.read_text(encoding="utf-8-sig")  # Windows editors put a mark before the first name
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"'{listing}' cannot be read as UTF-8 text ({error}): save it as UTF-8") from error
    classes = [line.strip() for line in text.rstrip().splitlines()]
    if "" in classes:  # skipping it would shift every later id against the masks
        number = classes.index("") + 1
        raise BadInput(f"'{listing}' line {number} is empty, but line numbers are the class ids: name it or remove it")
    name, count = Counter(classes).most_common(1)[0] if classes else ("", 0)
    if count > 1:
        raise BadInput(f"'{listing}' lists '{name}' {count} times, expected once: rename or merge")
    if not 2 <= len(classes) <= 255:
        raise BadInput(
            f"'{listing}' lists {len(classes)} classes, expected 2 to 255, one a line: add the missing names "
            "(background counts as one) or merge classes"
        )
    return classes


DATASETS.add(
    Layout(
        "folder",
        open_folder,
        holds="images/train images/val masks/train masks/val with equal file names, and classes.txt with one class a "
        "line",
        recipe="folder",
    )
)
