"""What the files of a split say about the split: problems, which make numbers wrong, and warnings, which may be meant.

Each kind of fault is one line, however many files have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kdbench.data.base import Color, ImageMaskPairs, SegmentationDataset
from kdbench.data.decoding import ColouredMask
from kdbench.data.faults import DESCRIBE, NAMED, UnknownValues, listed, named, short
from kdbench.data.label_map import hex_colour
from kdbench.data.labels import IGNORE
from kdbench.data.reading import Read

MUCH_IGNORED = 0.5
"""Share of masks with ignored pixels from which a class without any is taken for the ignored one."""


def problems_of(dataset: SegmentationDataset, reads: Sequence[Read], whole: bool) -> list[str]:
    """What makes a training fail, or its numbers wrong.

    Args:
        whole: ``reads`` are all of the split, not a sample of it.
    """
    unknown = [read for read in reads if isinstance(read.problem, UnknownValues)]
    coloured = [read for read in reads if isinstance(read.problem, ColouredMask)]
    others = [str(r.problem) for r in reads if r.problem and not isinstance(r.problem, UnknownValues | ColouredMask)]
    # The only mask of its kind says itself what is wrong with it.
    for faults in (unknown, coloured):
        if len(faults) == 1:
            others.append(str(faults[0].problem))
            faults.clear()
    lines = others[:NAMED]
    if len(others) > NAMED:
        lines.append(f"{dataset.split}: {len(others) - NAMED} more files cannot be read")
    if unknown:
        lines.append(_unknown_values(dataset, unknown, len(reads)))
    if coloured:
        lines.append(_coloured(dataset, coloured, len(reads)))
    return [
        *lines,
        *_too_little(dataset, reads),
        *_taken_for_ignored(dataset, reads, whole),
    ]


def warnings_of(dataset: SegmentationDataset, reads: Sequence[Read], whole: bool) -> list[str]:
    """What may be meant so."""
    split, lines = dataset.split, []
    readable = [read for read in reads if read.pixels is not None]
    if empty := [r for r in readable if r.pixels is not None and r.pixels[IGNORE] == r.pixels.sum()]:
        lines.append(
            f"{split}: {len(empty)} of {len(reads)} masks are ignored in every pixel and teach nothing: {_files(empty)}"
        )
    if turned := [read for read in readable if read.turned > 1]:
        lines.append(
            f"{split}: {len(turned)} of {len(reads)} images have an EXIF orientation ({turned[0].turned} in "
            f"'{turned[0].name}'), which is not applied: make sure that masks are drawn on the pixels as stored"
        )
    if bands := [read for read in readable if read.band]:
        lines.append(
            f"{split}: {len(bands)} of {len(reads)} images have a fourth band, which is dropped: {_files(bands)}"
        )
    absent = _absent(dataset, reads)
    if absent and whole and not _taken_for_ignored(dataset, reads, whole) and not _all_ignored(reads):
        lines.append(f"{split}: no pixel is of class " + listed(f"'{short(name)}'" for name in absent))
    return lines


def _files(reads: Sequence[Read]) -> str:
    return named([Path(read.name) for read in reads])


def _pixels(reads: Sequence[Read]) -> np.ndarray:
    return sum((read.pixels for read in reads if read.pixels is not None), np.zeros(256, dtype=np.int64))


def _all_ignored(reads: Sequence[Read]) -> bool:
    pixels = _pixels(reads)
    return bool(pixels.sum() == pixels[IGNORE])


def _absent(dataset: SegmentationDataset, reads: Sequence[Read]) -> list[str]:
    pixels = _pixels(reads)
    return [name for index, name in enumerate(dataset.classes) if pixels[index] == 0]


def _unknown_values(dataset: SegmentationDataset, reads: Sequence[Read], read: int) -> str:
    """One line of all masks with values that are no class, and what these look like."""
    faults = [read.problem for read in reads if isinstance(read.problem, UnknownValues)]
    counts = Counter(value for fault in faults for value in fault.unknown)
    seen = sorted({value for fault in faults for value in fault.seen}, key=str)
    shown = listed(f"{value} (in {count})" if len(counts) > 1 else value for value, count in counts.most_common())
    expected = dataset.labels.expected if isinstance(dataset, ImageMaskPairs) else "class ids"
    first = str(faults[0]).split(" holds ")[0]
    numbers = [value for value in seen if isinstance(value, int)]
    return (
        f"{dataset.split}: {len(faults)} of {read} masks hold {shown}, expected {expected} (first {first}): "
        f"{_meaning(numbers, list(counts), len(dataset.classes))}; {DESCRIBE}"
    )


def _meaning(seen: list[int], unknown: list[int | str], classes: int) -> str:
    """What values that are no class may mean, and what a dataset file says then.

    Args:
        seen: all values of masks that have such ones.
        unknown: such ones.
    """
    seen = sorted(seen)
    steps = np.diff(seen)
    if unknown == [classes] and 0 not in seen:
        return f"ids look 1-based: subtract 1, or give each class its value in a dataset file, from 1 to {classes}"
    if len(seen) > 1 and seen[0] == 0 and len(seen) <= classes + 1 and steps.min() >= 4 and seen[-1] > 2 * classes:
        return (
            f"{listed(seen)} look like grey levels: write 0 to {classes - 1}, or give each class its level in a "
            "dataset file"
        )
    fix = listed(unknown if len(unknown) < 9 else [*unknown[:8], "…"])
    if unknown == [classes]:
        return f"if that is void, add ignore = [{fix}] to a dataset file; if ids are 1-based, give each class its value"
    return f"if that is void, add ignore = [{fix}] to a dataset file; if not, list its classes"


def _coloured(dataset: SegmentationDataset, coloured: Sequence[Read], read: int) -> str:
    """One line of all masks that are coloured where ids are expected, with the colours and what to write."""
    pixels = Counter[str]()
    for one in coloured:
        pixels.update(one.colours)
    total = sum(pixels.values())
    shares = listed(f"{colour} {count / total:.1%}" for colour, count in pixels.most_common(4))
    more = f" and {len(pixels) - 4} more" if len(pixels) > 4 else ""
    example = pixels.most_common(1)[0][0] if pixels else "#804080"
    first = str(coloured[0].problem).split(" has ")[0]
    return (
        f"{dataset.split}: {len(coloured)} of {read} masks are coloured, expected class ids: {shares}{more} (first "
        f"{first}): name each class's colour in classes.txt, as '{short(dataset.classes[0])} {example}', or in a "
        f"dataset file; {DESCRIBE}"
    )


def palettes_differ(reads: Iterable[Read]) -> list[str]:
    """One line where palette masks, of one split or of several, do not share a palette.

    They are read by index, which is a class id only if it has the same colour everywhere. A program that turned colours
    into a palette file by file has numbered the colours anew in each.
    """
    first: dict[int, tuple[Color, Read]] = {}
    for read in reads:
        for index, colour in read.palette.items():
            before, where = first.setdefault(index, (colour, read))
            if before == colour or index == IGNORE:
                continue
            was, now = (hex_colour(r * 65536 + g * 256 + b) for r, g, b in (before, colour))
            return [
                f"masks have different palettes: value {index} is {was} in that of '{where.name}' and "
                f"{now} in that of '{read.name}', so that it may be two classes: name the classes' colours in "
                "classes.txt or a dataset file, to read by colour, or make the masks again with one palette"
            ]
    return []


def _too_little(dataset: SegmentationDataset, reads: Sequence[Read]) -> list[str]:
    """What a split lacks to be trained or scored on, though each of its files is fine."""
    lines = []
    if dataset.split == "train" and len(dataset) < 2:
        lines.append(f"train: {len(dataset)} image, expected at least 2: BatchNorm's statistics need more than one")
    pixels = _pixels(reads)
    if 0 < pixels.sum() == pixels[IGNORE]:
        lines.append(
            f"{dataset.split}: no mask has a labelled pixel, all are {IGNORE} (ignore): make the masks again with "
            "class ids"
        )
    return lines


def _taken_for_ignored(dataset: SegmentationDataset, reads: Sequence[Read], whole: bool) -> list[str]:
    """A class that no pixel trains, beside masks full of 255: 255 may be its value.

    In a sample rare classes are missing anyway, so that one counts where all labelled pixels are of one class.
    """
    pixels, absent = _pixels(reads), _absent(dataset, reads)
    holding = sum(1 for read in reads if read.pixels is not None and read.pixels[IGNORE])
    total = sum(1 for read in reads if read.pixels is not None)
    alone = len(absent) == len(dataset.classes) - 1
    if dataset.split != "train" or not absent or _all_ignored(reads) or holding < MUCH_IGNORED * total:
        return []
    if not alone and (not whole or len(absent) > 1 or dataset.classes[-1] != absent[0]):
        return []
    share = pixels[IGNORE] / pixels.sum()
    which = short(absent[-1])
    return [
        f"train: no pixel is of class '{which}', but {holding} of {total} masks hold 255 ({share:.1%} of all pixels), "
        f"which means ignore: if 255 is '{which}', write {len(dataset.classes) - 1} for it, or say \"{which}\" = 255 "
        f"under [classes] of a dataset file; {DESCRIBE}"
    ]
