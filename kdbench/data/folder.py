"""Your own data: images/<split>/ and masks/<split>/ with the same file names, and classes.txt with one class a line.

Masks are images of class ids (line number in classes.txt, from 0), 255 = ignore; or of the colours that classes.txt
gives, white = ignore unless it is one of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.labels import MOST_CLASSES
from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput
from kdbench.runs.files import read_text

if TYPE_CHECKING:
    from kdbench.data.base import ImageMaskPairs

_LAYOUT = "--data-root must hold images/train, images/val, masks/train, masks/val and classes.txt (one class a line)"


def open_folder(root: Path, split: str) -> ImageMaskPairs:
    """Open ``root``/images/<split>/ with ``root``/masks/<split>/.

    Raises:
        BadInput: the layout is not this one, or ``read_classes`` refuses classes.txt.
    """
    from kdbench.data.base import ImageMaskPairs, pair_by_stem
    from kdbench.data.declared import Declared, DeclaredPairs
    from kdbench.data.label_map import LabelMap, channels
    from kdbench.data.palette import distinct_palette

    classes = read_classes(root / "classes.txt")
    pairs = pair_by_stem(root / "images" / split, root / "masks" / split, layout_at(root))
    names = list(classes)
    if None in classes.values():
        return ImageMaskPairs("folder", split, names, distinct_palette(len(names)), pairs)
    colours = [colour for colour in classes.values() if colour is not None]
    labels = LabelMap(names, {colour: index for index, colour in enumerate(colours)}, by_colour=True)
    return DeclaredPairs("folder", split, names, [channels(colour) for colour in colours], pairs, Declared(labels))


def layout_at(root: Path) -> str:
    """What the layout is, and what ``root`` holds instead."""
    from kdbench.data.faults import DESCRIBE, listed

    if not root.is_dir():
        return _LAYOUT
    found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
    return f"{_LAYOUT}; '{root}' holds {listed(found) or 'nothing'}: for another layout, {DESCRIBE}"


def read_classes(listing: Path) -> dict[str, int | None]:
    """Class names, one a line, and their colours where each has one; empty lines may follow the last one.

    A colour stands at the end of its line: "road 128 64 128", "road #804080" or "road,#804080".

    Raises:
        BadInput: the file is missing, not UTF-8, has an empty line between names, repeats a name or a colour, has
            colours for some names alone, or has not 2 to 254 names.
    """
    if not listing.is_file():
        raise BadInput(f"'{listing}' does not exist: {layout_at(listing.parent)}")
    try:
        text = read_text(listing, "name the classes, one a line")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"'{listing}' cannot be read as UTF-8 text ({error}): save it as UTF-8") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:  # skipping it would shift every later id against the masks
        number = lines.index("") + 1
        raise BadInput(f"'{listing}' line {number} is empty, but line numbers are the class ids: name it or remove it")
    split = [_name_and_colour(line) for line in lines]
    bare = [name for name, colour in split if colour is None]
    if 0 < len(bare) < len(split):
        # "level 1 2 3" may be a name: of such lines only a file full of them is one of colours.
        if any("#" in line for line in lines):
            raise BadInput(f"'{listing}' gives '{bare[0]:.80}' no colour, but other classes have one: add it")
        split = [(line, None) for line in lines]
    for values, what in (([name for name, _ in split], "lists"), ([c for _, c in split if c is not None], "gives")):
        value, count = Counter(values).most_common(1)[0] if values else ("", 0)
        if count > 1:
            shown = value if isinstance(value, str) else f"#{value:06x}"
            raise BadInput(f"'{listing}' {what} '{shown:.80}' {count} times, expected once: rename or merge")
    if not 2 <= len(split) <= MOST_CLASSES:
        raise BadInput(
            f"'{listing}' lists {len(split)} classes, expected 2 to {MOST_CLASSES}, one a line: add the missing names "
            "(background counts as one) or merge classes"
        )
    return dict(split)


def _name_and_colour(line: str) -> tuple[str, int | None]:
    from kdbench.data.label_map import parse_colour

    for found in (re.fullmatch(r"(.*\S)[\s,]+(#\S+)", line), re.fullmatch(r"(.*\S)" + r"[\s,]+(\d+)" * 3, line)):
        if found and (colour := parse_colour(" ".join(found.groups()[1:]))) is not None:
            return found[1].rstrip(" ,"), colour
    return line, None


DATASETS.add(
    Layout(
        "folder",
        open_folder,
        holds="images/train images/val masks/train masks/val with equal file names, and classes.txt with one class a "
        "line",
        recipe="folder",
        reported=("test",),
    )
)
