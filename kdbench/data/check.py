"""Is the data what training expects? Every file of a split is read once and every problem listed, not just the first.

    train, val = open_dataset("folder", "train", root), open_dataset("folder", "val", root)
    for report in (check_dataset(train), check_dataset(val)):
        for table in report_tables(report):
            console.print(table)
    problems = overlap(train, val)

A problem stops training or makes a number wrong (a broken file, an unknown mask value, an image in both splits); a
warning may be meant so (a class without pixels).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.markup import escape
from rich.table import Table

from kdbench.data.base import IMAGE_SUFFIXES, ImageMaskPairs, SegmentationDataset, exif_orientation
from kdbench.data.labels import IGNORE
from kdbench.errors import BadInput
from kdbench.progress import progress_bar

_SIZES_SHOWN = 10
"""VOC's images have hundreds of sizes; the most frequent ones tell enough."""


@dataclass(frozen=True)
class DatasetReport:
    """What a split holds.

    Attributes:
        images: how many the split lists, unreadable ones included.
        sizes: images per "HEIGHTxWIDTH", most frequent first.
        pixel_share: per class, of all pixels; with ``ignored_share`` it adds up to 1 (all 0 when nothing is readable).
        problems: one line each, naming the file.
        warnings: one line each.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    images: int
    sizes: dict[str, int]
    pixel_share: tuple[float, ...]
    ignored_share: float
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """One sample: pixels per label value, its size and its oddities; or why it cannot be read."""

    pixels: NDArray[np.int64] | None = None
    size: str = ""
    warnings: tuple[str, ...] = ()
    problem: str = ""


def check_dataset(dataset: SegmentationDataset) -> DatasetReport:
    """Read every sample of a split, several at a time, as training would.

    Broken files are listed in the report; only what is no fault of the data raises.
    """
    pixels = np.zeros(256, dtype=np.int64)
    sizes: Counter[str] = Counter()
    problems, warnings = [], list[str]()
    title = f"check {dataset.name} {dataset.split}"
    with ThreadPoolExecutor() as pool, progress_bar(title, len(dataset)) as bar:
        for read in pool.map(lambda index: _read(dataset, index), range(len(dataset))):
            if read.pixels is None:
                problems.append(read.problem)
            else:
                pixels += read.pixels
                sizes[read.size] += 1
                warnings += read.warnings
            bar.advance(text=f"{len(problems)} problems" if problems else "")
    if isinstance(dataset, ImageMaskPairs):
        warnings += _palette_warnings(dataset)
    problems += _too_little(dataset, pixels)
    warnings += _class_warnings(dataset, pixels)
    shares = pixels / max(1, pixels.sum())
    return DatasetReport(
        dataset=dataset.name,
        split=dataset.split,
        classes=dataset.classes,
        images=len(dataset),
        sizes=dict(sizes.most_common()),
        pixel_share=tuple(shares[: len(dataset.classes)].tolist()),
        ignored_share=float(shares[IGNORE]),
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _read(dataset: SegmentationDataset, index: int) -> _Read:
    try:
        sample = dataset[index]
    except BadInput as error:
        return _Read(problem=str(error))
    pixels = np.bincount(sample.label.ravel(), minlength=256)
    warnings = []
    if pixels[IGNORE] == sample.label.size:
        warnings.append(f"{dataset.split} mask of '{sample.name}' is ignored in every pixel: it teaches nothing")
    if isinstance(dataset, ImageMaskPairs) and (turned := exif_orientation(dataset.pairs[index][0])) > 1:
        warnings.append(
            f"image '{dataset.pairs[index][0]}' has EXIF orientation {turned}, which is not applied: "
            "make sure that its mask is drawn on the pixels as stored"
        )
    return _Read(pixels, f"{sample.label.shape[0]}x{sample.label.shape[1]}", tuple(warnings))


def _too_little(dataset: SegmentationDataset, pixels: NDArray[np.int64]) -> list[str]:
    """What a split lacks to be trained or scored on, though each of its files is fine."""
    lines = []
    if dataset.split == "train" and len(dataset) < 2:
        lines.append(f"train: {len(dataset)} image, expected at least 2: BatchNorm's statistics need more than one")
    if 0 < pixels.sum() == pixels[IGNORE]:
        lines.append(
            f"{dataset.split}: no mask has a labelled pixel, all are {IGNORE} (ignore): make the masks again with "
            "class ids"
        )
    return lines


def _class_warnings(dataset: SegmentationDataset, pixels: NDArray[np.int64]) -> list[str]:
    """Classes that no pixel shows, with the usual reason where the counts point at it."""
    absent = [name for index, name in enumerate(dataset.classes) if pixels[index] == 0]
    if not absent or pixels.sum() == pixels[IGNORE]:
        return []
    hint = ""
    if len(dataset.classes) == 2 and pixels[IGNORE]:
        hint = "; masks of 0 and 255 are read as class 0 and ignore: write 1 for the second class"
    return [f"{dataset.split}: no pixel is of class '{name}'{hint}" for name in absent]


def _palette_warnings(dataset: ImageMaskPairs) -> list[str]:
    """Palette masks are read by index, which is a class id only if all of them share one palette.

    A program that turned colours into a palette file by file has numbered the colours anew in each.
    """
    first: tuple[Path, list[int]] | None = None
    for path in (mask for _, mask in dataset.pairs if mask.suffix.lower() in IMAGE_SUFFIXES):
        try:
            with Image.open(path) as image:
                palette = image.getpalette() if image.mode == "P" else None
        except Exception:  # broken, and already among the problems
            continue
        if palette is None:
            continue
        first = first or (path, palette)
        shared = min(len(palette), len(first[1]), 3 * len(dataset.classes))  # files may store only the colours in use
        if palette[:shared] != first[1][:shared]:
            return [
                f"masks '{first[0]}' and '{path}' have different palettes, so that the same index may be two "
                "classes: make them again with one palette, or as greyscale class ids"
            ]
    return []


def overlap(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Images that both splits hold, one line per finding; empty for datasets that are not made of files.

    Byte-for-byte copies are listed one by one. Images that only share their name are one line together: they may be
    different images numbered alike, or the same image encoded anew.
    """
    if not isinstance(train, ImageMaskPairs) or not isinstance(val, ImageMaskPairs):
        return []
    train_files = [image for image, _ in train.pairs if image.is_file()]
    val_files = [image for image, _ in val.pairs if image.is_file()]
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in train_files:
        by_size[path.stat().st_size].append(path)
    lines, copied = [], set[str]()
    # Only files of a size that occurs in both splits can be copies, so few are read in full.
    candidates = [path for path in val_files if path.stat().st_size in by_size]
    sizes = {path.stat().st_size for path in candidates}
    known = {_digest(path): path for size in sizes for path in by_size[size]}
    for path in candidates:
        twin = known.get(_digest(path))
        if twin is not None:
            copied.add(path.stem)
            lines.append(f"val image '{path}' is byte for byte the train image '{twin}': remove it from one split")
    stems = {path.stem: path for path in train_files}
    alike = [path for path in val_files if path.stem in stems and path.stem not in copied]
    if alike:
        lines.append(
            f"val image '{alike[0]}' has the name of the train image '{stems[alike[0].stem]}' ({len(alike)} such "
            "names): remove it from one split, or rename it if it is another image"
        )
    return lines


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def report_tables(report: DatasetReport) -> list[Table]:
    """The report for the screen: pixels per class, then images per size."""
    shares = Table(title=f"{report.dataset} {report.split}: {report.images} images", title_justify="left")
    shares.add_column("Id", justify="right")
    shares.add_column("Class")
    shares.add_column("Pixels", justify="right")
    for index, (name, share) in enumerate(zip(report.classes, report.pixel_share, strict=True)):
        shares.add_row(str(index), escape(name), f"{share:.2%}")
    shares.add_row(str(IGNORE), "ignored", f"{report.ignored_share:.2%}", style="dim")
    sizes = Table("Size", "Images", title_justify="left")
    for size, count in list(report.sizes.items())[:_SIZES_SHOWN]:
        sizes.add_row(size, str(count))
    rest = list(report.sizes.values())[_SIZES_SHOWN:]
    if rest:
        sizes.add_row(f"{len(rest)} other sizes", str(sum(rest)))
    return [shares, sizes]
