"""Is the data what training expects? Every file of a split is read once and every problem listed, not just the first.

    train, val = open_dataset("folder", "train", root), open_dataset("folder", "val", root)
    checked = check_splits(train, val)
    for report in checked.reports:
        for table in report_tables(report):
            console.print(table)

A problem stops training or makes a number wrong (a broken file, an unknown mask value, an image in both splits); a
warning may be meant so (a class without pixels).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from kdbench.data.base import ImageMaskPairs, SegmentationDataset
from kdbench.data.faults import short
from kdbench.data.findings import palettes_differ, problems_of, warnings_of
from kdbench.data.labels import IGNORE
from kdbench.data.leakage import copied_line, copied_unlabelled, copies, near_duplicates, overlap, shared_groups
from kdbench.data.reading import Read, read_split
from kdbench.data.remembered import Remembered, fingerprint
from kdbench.data.spread import spread_indices
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.errors import BadInput
from kdbench.machine.environment import process_rank

_SIZES_SHOWN = 10
"""VOC's images have hundreds of sizes; the most frequent ones tell enough."""
SAMPLE = 64
"""Files that training reads of both splits together before its first step."""


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
class Checked:
    """What was found in the splits of a dataset.

    Attributes:
        reports: of each split that opened.
        problems: of the splits and of the two together, one line each.
        warnings: likewise.
    """

    reports: tuple[DatasetReport, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_splits(*datasets: SegmentationDataset, unlabelled: ImagesWithoutLabels | None = None) -> Checked:
    """Read every sample of the splits that opened, and compare train with the others; images without labels too.

    Broken files are listed in the reports; only what is no fault of the data raises.
    """
    reads = {dataset.split: read_split(dataset, range(len(dataset))) for dataset in datasets}
    reports = tuple(_report(dataset, reads[dataset.split]) for dataset in datasets)
    problems, warnings = palettes_differ(read for of_split in reads.values() for read in of_split), list[str]()
    trains = [dataset for dataset in datasets if dataset.split == "train"]
    for train, other in [(train, other) for train in trains for other in datasets if other is not train]:
        problems += overlap(train, other)
        warnings += shared_groups(train, other)
        if isinstance(train, ImageMaskPairs) and not train.groups:
            warnings += near_duplicates(reads["train"], reads[other.split], other.split)
    for report in reports:
        problems += report.problems
        warnings += report.warnings
    if unlabelled is not None:
        problems += problems_of(unlabelled, read_split(unlabelled, range(len(unlabelled))), whole=True)
        warnings += [
            line for split in datasets if split.split == "val" for line in copied_unlabelled(unlabelled, split)
        ]
    return Checked(reports, tuple(problems), tuple(warnings))


def check_sample(
    train: SegmentationDataset, val: SegmentationDataset, unlabelled: ImagesWithoutLabels | None = None
) -> Checked:
    """What is wrong with the splits by a look at ``SAMPLE`` of their files, spread evenly; no reports.

    Of images without labels half as many are read.
    """
    problems, warnings, palettes = list[str](), list[str](), list[Read]()
    for dataset in (train, val):
        count = min(SAMPLE // 2, len(dataset))
        reads = read_split(dataset, spread_indices(len(dataset), count))
        palettes += [read for read in reads if read.palette]
        whole = count == len(dataset)
        problems += problems_of(dataset, reads, whole)
        warnings += warnings_of(dataset, reads, whole)
    if isinstance(train, ImageMaskPairs) and isinstance(val, ImageMaskPairs):
        looked_at = [image for image, _ in val.pairs[: SAMPLE // 2] if image.is_file()]
        known = [image for image, _ in train.pairs if image.is_file()]
        sizes = {path.stat().st_size for path in looked_at}
        same = [path for path in known if path.stat().st_size in sizes]
        if len(same) <= SAMPLE:  # files without compression are all of one size
            problems += [copied_line(val, path, twin) for path, twin in copies(same, looked_at)]
    problems += palettes_differ(palettes)
    if unlabelled is not None:
        reads = read_split(unlabelled, spread_indices(len(unlabelled), SAMPLE // 2))
        problems += problems_of(unlabelled, reads, whole=False)
        warnings += copied_unlabelled(unlabelled, val)
    return Checked((), tuple(problems), (*warnings, *shared_groups(train, val)))


def require_sound(
    train: SegmentationDataset,
    val: SegmentationDataset,
    unlabelled: ImagesWithoutLabels | None,
    *,
    accept: bool,
    remembered: Remembered,
) -> dict[str, Any]:
    """Look at a sample of the data before training on them; warnings go to stderr.

    Args:
        unlabelled: images without labels that are trained on as well.
        accept: go on in spite of problems.
        remembered: where the verdict is kept, which holds as long as the files are the same.

    Returns:
        What the sidecar says of it: {"accepted_data": the problems}, or nothing where there are none.

    Raises:
        BadInput: the sample shows problems, and they are not accepted.
    """

    def look() -> dict[str, list[str]]:
        checked = check_sample(train, val, unlabelled)
        return {"problems": list(checked.problems), "warnings": list(checked.warnings)}

    splits = [train, val, *([unlabelled] if unlabelled is not None else [])]
    found = remembered.get(f"a look at {SAMPLE} files", fingerprint(*splits), look, lambda found: not found["problems"])
    problems: list[str] = found["problems"]
    for kind, lines in (("warning", found["warnings"]), ("accepted", problems if accept else ())):
        for line in lines if process_rank() == 0 else ():
            print(f"kdbench: {kind}: {line}", file=sys.stderr)
    if problems and not accept:
        raise BadInput(
            f"{'; '.join(problems)} (found by reading {SAMPLE} files at most; `kdbench data check` reads all, "
            "--accept-data trains all the same)"
        )
    return {"accepted_data": problems} if problems else {}


def _report(dataset: SegmentationDataset, reads: Sequence[Read]) -> DatasetReport:
    pixels = sum((read.pixels for read in reads if read.pixels is not None), np.zeros(256, dtype=np.int64))
    shares = pixels / max(1, pixels.sum())
    return DatasetReport(
        dataset=dataset.name,
        split=dataset.split,
        classes=dataset.classes,
        images=len(dataset),
        sizes=dict(Counter(read.size for read in reads if read.size).most_common()),
        pixel_share=tuple(shares[: len(dataset.classes)].tolist()),
        ignored_share=float(shares[IGNORE]),
        problems=tuple(problems_of(dataset, reads, whole=True)),
        warnings=tuple(warnings_of(dataset, reads, whole=True)),
    )


def report_tables(report: DatasetReport) -> list[Table]:
    """The report for the screen: pixels per class, then images per size; nothing where nothing could be read."""
    if not report.sizes:
        return []
    shares = Table(title=f"{report.dataset} {report.split}: {report.images} images", title_justify="left")
    shares.add_column("Id", justify="right")
    shares.add_column("Class")
    shares.add_column("Pixels", justify="right")
    for index, (name, share) in enumerate(zip(report.classes, report.pixel_share, strict=True)):
        shares.add_row(str(index), escape(short(name)), f"{share:.2%}")
    shares.add_row(str(IGNORE), "ignored", f"{report.ignored_share:.2%}", style="dim")
    sizes = Table("Size", "Images", title_justify="left")
    for size, count in list(report.sizes.items())[:_SIZES_SHOWN]:
        sizes.add_row(size, str(count))
    rest = list(report.sizes.values())[_SIZES_SHOWN:]
    if rest:
        sizes.add_row(f"{len(rest)} other sizes", str(sum(rest)))
    return [shares, sizes]
