"""One pass over the files of a split: what each holds, or why it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.data.base import Color, ImageMaskPairs, SegmentationDataset
from kdbench.data.decoding import ColouredMask, dropped_band, exif_orientation, palette_in_use, read_colours
from kdbench.data.label_map import hex_colour
from kdbench.errors import BadInput
from kdbench.machine.cores import usable_cores
from kdbench.progress import progress_bar

THUMBNAIL = 8
"""Side of the grey picture by which near duplicates are told."""


@dataclass(frozen=True)
class Read:
    """One sample.

    Attributes:
        name: of the image's file, or of the sample where there is none.
        pixels: of each label value, 256 numbers; None where it cannot be read.
        size: "HEIGHTxWIDTH".
        thumbnail: the image in grey, 8 x 8 means, flattened.
        turned: EXIF orientation, 1 = upright.
        band: whether the image has a fourth band, which is dropped.
        palette: of a palette mask that is read by index, the colours of the indices in use.
        colours: of a mask that is wrongly coloured, pixels of each colour.
        problem: why it cannot be read.
    """

    name: str
    pixels: NDArray[np.int64] | None = None
    size: str = ""
    thumbnail: NDArray[np.float32] | None = None
    turned: int = 1
    band: bool = False
    palette: dict[int, Color] = field(default_factory=dict)
    colours: dict[str, int] = field(default_factory=dict)
    problem: BadInput | None = None


def read_split(dataset: SegmentationDataset, indices: Sequence[int]) -> list[Read]:
    """Read samples, several at a time, as training would; broken files are no error here."""
    return list(_reads(dataset, indices))


def _reads(dataset: SegmentationDataset, indices: Sequence[int]) -> Iterator[Read]:
    title, problems = f"check {dataset.name} {dataset.split}", 0
    with ThreadPoolExecutor(usable_cores()) as pool, progress_bar(title, len(indices)) as bar:
        for read in pool.map(lambda index: _read(dataset, index), indices):
            problems += read.problem is not None
            bar.advance(text=f"{problems} problems" if problems else "")
            yield read


def _read(dataset: SegmentationDataset, index: int) -> Read:
    files = dataset.pairs[index] if isinstance(dataset, ImageMaskPairs) else None
    name = str(files[0]) if files else ""
    by_index = isinstance(dataset, ImageMaskPairs) and not dataset.labels.by_colour
    palette = palette_in_use(files[1]) if files and by_index else {}
    try:
        sample = dataset[index]
    except BadInput as error:
        coloured = files is not None and isinstance(error, ColouredMask)
        return Read(name, palette=palette, colours=_colours(files[1]) if files and coloured else {}, problem=error)
    grey = Image.fromarray(sample.image).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return Read(
        name or sample.name,
        np.bincount(sample.label.ravel(), minlength=256),
        f"{sample.label.shape[0]}x{sample.label.shape[1]}",
        np.asarray(grey, dtype=np.float32).ravel(),
        exif_orientation(files[0]) if files else 1,
        dropped_band(files[0]) if files else False,
        palette,
    )


def _colours(mask: Path) -> dict[str, int]:
    values, counts = np.unique(read_colours(mask), return_counts=True)
    return {hex_colour(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
