"""What both splits hold: copies, names, frames of one recording, pictures that look the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.data.base import ImageMaskPairs, SegmentationDataset
from kdbench.data.faults import listed
from kdbench.data.reading import Read
from kdbench.data.unlabelled import ImagesWithoutLabels

ALIKE = 0.95
"""Correlation of two 8 x 8 pictures from which they are near duplicates. On CamVid 25 of 101 validation images have
such a twin in the training split, every one from the same drive."""
_EXAMPLES = 3


def overlap(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Images that both splits hold, one line per finding; empty for datasets that are not made of files.

    Byte-for-byte copies are listed one by one. Images that only share their name are one line together: they may be
    different images numbered alike, or the same image encoded anew.
    """
    if not isinstance(train, ImageMaskPairs) or not isinstance(val, ImageMaskPairs):
        return []
    train_files = [image for image, _ in train.pairs if image.is_file()]
    val_files = [image for image, _ in val.pairs if image.is_file()]
    lines, copied = [], set[str]()
    for path, twin in copies(train_files, val_files):
        copied.add(path.stem)
        lines.append(copied_line(val, path, twin))
    stems = {path.stem: path for path in train_files}
    alike = [path for path in val_files if path.stem in stems and path.stem not in copied]
    if alike and len(stems) == len(train_files):  # in several folders, names repeat
        lines.append(
            f"{val.split} image '{alike[0]}' has the name of the train image '{stems[alike[0].stem]}' ({len(alike)} "
            "such names): remove it from one split, or rename it if it is another image"
        )
    return lines


def copied_line(val: SegmentationDataset, path: Path, twin: Path) -> str:
    return f"{val.split} image '{path}' is byte for byte the train image '{twin}': remove it from one split"


def copies(train: Sequence[Path], val: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files of ``val`` with the bytes of one of ``train``, and that one."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in train:
        by_size[path.stat().st_size].append(path)
    # Only files of a size that occurs in both splits can be copies, so few are read in full.
    candidates = [path for path in val if path.stat().st_size in by_size]
    sizes = {path.stat().st_size for path in candidates}
    known = {_digest(path): path for size in sizes for path in by_size[size]}
    return [(path, known[digest]) for path in candidates if (digest := _digest(path)) in known]


def copied_unlabelled(unlabelled: ImagesWithoutLabels, val: SegmentationDataset) -> list[str]:
    """Validation images that are among those without labels: a student learns what its teacher says of them."""
    if not isinstance(val, ImageMaskPairs):
        return []
    found = copies(unlabelled.files, [image for image, _ in val.pairs if image.is_file()])
    if not found:
        return []
    path, twin = found[0]
    return [
        f"{len(found)} of {len(val)} {val.split} images are among those without labels ('{twin}' is '{path}' byte for "
        "byte): scores say less of new images; take them out of the folder"
    ]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def shared_groups(train: SegmentationDataset, val: SegmentationDataset) -> list[str]:
    """Recordings with frames on both sides, which make validation say how well training was remembered; one line."""
    shared = sorted(set(train.groups) & set(val.groups))
    if not shared:
        return []
    frames = sum(val.group_of(index) in shared for index in range(len(val)))
    return [
        f"{len(shared)} of {len(val.groups)} recordings of {val.split} have frames in train too ({listed(shared)}; "
        f"{frames} of {len(val)} {val.split} images): its scores say less of new scenes; a dataset file "
        "with group splits by recording"
    ]


def near_duplicates(train: Sequence[Read], val: Sequence[Read], split: str) -> list[str]:
    """Images of ``split`` that look like a training image, with three examples; one line. No copies: ``overlap``'s."""
    ours, theirs = ([r for r in reads if r.thumbnail is not None] for reads in (val, train))
    if not ours or not theirs:
        return []
    known = _unit(theirs).T
    found = []
    for start in range(0, len(ours), 256):
        close = _unit(ours[start : start + 256]) @ known
        best = close.argmax(axis=1)
        for row, column in enumerate(best.tolist()):
            if close[row, column] >= ALIKE:
                found.append((float(close[row, column]), ours[start + row].name, theirs[column].name))
    if not found:
        return []
    examples = "; ".join(f"'{ours}' and '{twin}'" for _, ours, twin in sorted(found, reverse=True)[:_EXAMPLES])
    return [
        f"{len(found)} of {len(val)} {split} images look like a train image, as frames of one recording do "
        f"({examples}): split by recording (group in a dataset file), or scores say less of new scenes"
    ]


def _unit(reads: Sequence[Read]) -> np.ndarray:
    """Pictures as vectors of length 1 around their mean; of plain ones, which resemble all of their kind, zeros."""
    pictures = np.stack([read.thumbnail for read in reads if read.thumbnail is not None])
    around = pictures - pictures.mean(axis=1, keepdims=True)
    length = np.linalg.norm(around, axis=1, keepdims=True)
    return np.where(length > pictures.shape[1] ** 0.5, around / np.maximum(length, 1e-6), 0)
