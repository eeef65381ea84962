"""``kdbench data describe``: what a folder of images and masks holds, as a dataset file to start from.

What cannot be seen in files (names of classes, which value is void) is guessed, and each guess is said.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdbench.data.dataset_file import DatasetFile
from kdbench.data.declared import Declared
from kdbench.data.decoding import ColouredMask, image_size, palette_in_use, read_colours, read_mask
from kdbench.data.faults import listed
from kdbench.data.find_pairs import Match, matches, split_named, spread, template
from kdbench.data.findings import palettes_differ
from kdbench.data.folder import read_classes
from kdbench.data.label_map import hex_colour
from kdbench.data.reading import Read
from kdbench.errors import BadInput

MOST_READ = 400
"""Masks that are read for their values."""
_GROUPS = (r"^([^_]+)_", r"^(.+)[_-][^_-]+$")
_STEPS = 4
"""Distance of values from which they are taken for levels of grey, each a class."""


@dataclass
class Described:
    """What was found.

    Attributes:
        images, masks: as a dataset file has them.
        split: likewise.
        pixels: of each value or colour in the masks that were read.
        unmasked: images without a mask.
        notes: what a person should know, one line each.
    """

    root: Path
    images: str
    masks: str
    stem: str | None
    split: dict[str, float | str]
    counts: dict[str, int]
    unmasked: list[Path]
    group: str | None = None
    groups: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    pixels: dict[int | str, int] = field(default_factory=dict)
    masks_read: int = 0
    classes: dict[str, list[int | str]] = field(default_factory=dict)
    ignore: list[int | str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def describe(root: Path, group: str | None = None) -> Described:
    """Look at a folder.

    Args:
        group: a pattern that finds recordings, as a dataset file has it; None = one that is seen in names.

    Raises:
        BadInput: it is none, no images with masks are found in it, or the pattern finds no recording.
    """
    if not root.is_dir():
        raise BadInput(f"kdbench data describe: '{root}' is no folder: name the one that holds images and masks")
    found = matches(root)
    if not found:
        holds = listed(sorted(path.name + "/" * path.is_dir() for path in root.iterdir()))
        raise BadInput(
            f"kdbench data describe: '{root}' (it holds {holds or 'nothing'}) has no masks whose names agree with "
            'images\': write the file by hand as docs/train-on-your-data.md shows, labels = "coco", "yolo" or '
            '"labelme" for polygons'
        )
    described = _paths(root, found)
    every = [path for match in found for path in match.images.files.values()]
    for path in spread(every, MOST_READ):
        size = "x".join(map(str, image_size(path)))
        described.sizes[size] = described.sizes.get(size, 0) + 1
    if group is None:
        _group(described, every)
    else:
        _asked_group(described, every, group)
    _values(described, [match.masks.files[stem] for match in found for stem in match.stems])
    _classes(described)
    if described.unmasked:
        first = next(iter(described.classes))
        described.notes.append(
            f"{len(described.unmasked)} images have no mask ({listed(path.name for path in described.unmasked)}): the "
            f"file says that they show '{first}' alone (unmasked); take that line out if they are not labelled yet"
        )
    return described


def _paths(root: Path, found: list[Match]) -> Described:
    """The images' glob, the masks' template, and the splits."""
    words = {split_named(word): word for match in found if (word := match.images.split_word) is not None}
    by_folder = "train" in words and ("val" in words or "test" in words)
    folders = [(match.images, match.masks) for match in found]

    def parts(family_folder: str, told: tuple[str, ...]) -> tuple[str, ...]:
        return told if by_folder else tuple(part for part in family_folder.split("/") if part)

    base, deeper = template(parts(images.folder, images.parts) for images, _ in folders)
    mask_base, masks_deeper = template(parts(masks.folder, masks.parts) for _, masks in folders)
    one, other = folders[0]
    images = f"{base}{'**/' if deeper else ''}*{one.ending}{one.suffix}"
    masks = f"{mask_base}{'{folder}/' if masks_deeper else ''}{{stem}}{other.ending}{other.suffix}"
    split: dict[str, float | str] = {}
    notes = []
    if by_folder and "val" not in words:
        split = {"train": words["train"], "val": words["test"]}
        notes.append(f"no folder is called val: '{words['test']}' is taken for it")
    elif by_folder:
        split = {name: word for name, word in words.items() if name != word or name == "test"}
    else:
        split = {"val": 0.2, "seed": 0}
        notes.append("no folders are called train and val: a fifth of the images is taken for val")
    counts: dict[str, int] = Counter()
    for match in found:
        word = match.images.split_word if by_folder else None
        counts[split_named(word) if word else "all"] += len(match.images.files)
    alone = [path for match in found for stem, path in match.images.files.items() if stem not in match.masks.files]
    lost = [path for match in found for stem, path in match.masks.files.items() if stem not in match.images.files]
    if lost:
        notes.append(f"{len(lost)} masks have no image: {listed(path.name for path in lost)}")
    stem = f"^(.*){re.escape(one.ending)}$" if one.ending else None
    return Described(root, images, masks, stem, split, dict(counts), alone, notes=notes)


def _group(described: Described, images: list[Path]) -> None:
    """A pattern that gathers several images each in several groups, as recordings do."""
    for pattern in _GROUPS:
        found = Counter(match[1] for path in images if (match := re.search(pattern, path.name)))
        if len(found) > 1 and sum(found.values()) == len(images) and len(images) >= 3 * len(found):
            described.group, described.groups = pattern, len(found)
            return


def _asked_group(described: Described, images: list[Path], pattern: str) -> None:
    """Recordings by a person's own pattern, and which images it finds none for."""
    try:
        DatasetFile.one_pair_of_brackets(pattern)
    except ValueError as error:
        raise BadInput(f"--group: got '{pattern}', {error}") from error
    declared = Declared(None, re.compile(pattern), described.root)
    groups = {path: declared.group_of(path) for path in images}
    alone = [declared.relative(path) for path, found in groups.items() if found is None]
    if len(alone) == len(images):
        raise BadInput(
            f"--group: '{pattern}' finds a recording in none of {len(images)} names ({listed(alone)}): mend the pattern"
        )
    described.group, described.groups = pattern, len({found for found in groups.values() if found is not None})
    if alone:
        described.notes.append(f"group finds no recording for {len(alone)} images: {listed(alone)}")


def _values(described: Described, masks: list[Path]) -> None:
    """Pixels of each value, or of each colour where masks are coloured or palettes differ."""
    chosen = spread(masks, MOST_READ)
    palettes = [Read(str(path), palette=colours) for path in chosen if (colours := palette_in_use(path))]
    by_colour = bool(palettes_differ(palettes))
    if by_colour:
        described.notes.append("palettes differ from mask to mask, so that masks are read by colour")
    try:
        counted = _count(chosen, by_colour)
    except ColouredMask:
        counted = _count(chosen, by_colour=True)
    described.pixels, described.masks_read = counted, len(chosen)
    if len(chosen) < len(masks):
        described.notes.append(f"{len(chosen)} of {len(masks)} masks were read: others may hold more values")


def _count(masks: list[Path], by_colour: bool) -> dict[int | str, int]:
    pixels: Counter[int] = Counter()
    for path in masks:
        values, counts = np.unique(read_colours(path) if by_colour else read_mask(path), return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return {hex_colour(value) if by_colour else value: count for value, count in sorted(pixels.items())}


def _classes(described: Described) -> None:
    """Names and values of classes: those of classes.txt where it is there, guessed from the values otherwise."""
    values = list(described.pixels)
    names: dict[str, int | None] = {}
    listing = described.root / "classes.txt"
    if listing.is_file():
        names = read_classes(listing)
    if names and None not in names.values():
        described.classes = {name: [hex_colour(colour)] for name, colour in names.items() if colour is not None}
        described.ignore = [value for value in values if [value] not in described.classes.values()]
        return
    numbers = [value for value in values if isinstance(value, int)]
    if not numbers:
        described.ignore = ["#ffffff"] if "#ffffff" in values and len(values) > 2 else []
        kept = [value for value in values if value not in described.ignore]
        described.classes = {f"colour_{str(value)[1:]}": [value] for value in kept}
        known = f", where classes.txt has {listed(names)}" if names else ""
        described.notes.append(f"which colour is which class cannot be seen: name them under [classes]{known}")
        return
    if names:
        described.notes.append(f"names are those of '{listing}'")
    inside = [value for value in numbers if value < len(names)]
    levels = len(numbers) > 1 and min(np.diff(numbers)) >= _STEPS and numbers[0] == 0
    if levels and len(numbers) in (len(names), *([] if names else range(2, 12))):
        order = list(names) or [f"class_{value}" for value in numbers]
        described.classes = {name: [value] for name, value in zip(order, numbers, strict=True)}
        described.notes.append(f"values {listed(numbers)} look like grey levels: each is taken for a class")
        return
    if names:
        described.classes = {name: [index] for index, name in enumerate(names)}
        described.ignore = [value for value in numbers if value not in inside]
    else:
        void = [255] if 255 in numbers and len(numbers) > 2 else []
        described.ignore = list(void)
        described.classes = {f"class_{value}": [value] for value in numbers if value not in void}
        described.notes.append("names of classes cannot be seen: put them right under [classes]")
    if described.ignore:
        described.notes.append(f"{listed(described.ignore)} taken for void (ignore)")
