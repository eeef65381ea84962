"""Images without labels: a teacher's opinion of them is what distilled methods learn from them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from kdbench.data.base import IMAGE_SUFFIXES, ImageMaskPairs, Sample, SegmentationDataset, read_image
from kdbench.data.declared import DeclaredPairs
from kdbench.data.faults import AbsentSplit
from kdbench.data.labels import UNLABELLED
from kdbench.data.open import DATASETS, Layout
from kdbench.errors import BadInput
from kdbench.machine.environment import process_rank


class ImagesWithoutLabels(SegmentationDataset):
    """Image files, of which every pixel has the label 254.

    Args:
        beside: the training split whose classes and palette they have.
    """

    def __init__(self, beside: SegmentationDataset, files: Sequence[Path]) -> None:
        super().__init__(beside.name, "unlabelled", beside.classes, beside.palette)
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.files[index])
        return Sample(self.files[index].stem, image, np.full(image.shape[:2], UNLABELLED, dtype=np.uint8))


def open_unlabelled(
    folder: Path | None, train: SegmentationDataset, validation: SegmentationDataset, root: Path | None
) -> ImagesWithoutLabels | None:
    """The images of a folder, or those that the dataset's file names; None where there is neither.

    Left out are files that a split has with their masks, and frames of recordings that validation or test alone have:
    scores would say less of new scenes. How many there were is said on stderr.

    Args:
        folder: searched with all folders in it.
        root: the dataset's, in place of its own.

    Raises:
        BadInput: no such folder, no image that is not left out, or a broken split.
    """
    layout = DATASETS[train.name]
    if folder is not None:
        source, files = f"--unlabelled: '{folder}'", images_below(folder)
    elif layout.unlabelled is not None and (named := layout.unlabelled(root)) is not None:
        source, files = f"dataset '{train.name}': unlabelled", named
    else:
        return None
    scored = [validation, *_further_splits(layout, root)]
    with_masks = {
        image.resolve() for split in (train, *scored) if isinstance(split, ImageMaskPairs) for image, _ in split.pairs
    }
    held_out = {group for split in scored for group in split.groups} - set(train.groups)
    kept = [file for file in files if file.resolve() not in with_masks]
    left = [file for file in kept if _recording(file, train) not in held_out]
    if not left:
        raise BadInput(
            f"{source} holds {len(files)} images, expected some that belong to no split and no recording of validation "
            "or test: name others"
        )
    for count, why in (
        (len(files) - len(kept), "have masks in a split"),
        (len(kept) - len(left), "are of recordings that validation or test alone have"),
    ):
        if count and process_rank() == 0:
            print(f"kdbench: {source}: {count} of {len(files)} images {why}: left out", file=sys.stderr)
    return ImagesWithoutLabels(train, left)


def _further_splits(layout: Layout, root: Path | None) -> Iterator[SegmentationDataset]:
    """Those beside train and val, as far as they are there."""
    for split in (*layout.splits, *layout.reported):
        if split not in ("train", "val"):
            with suppress(AbsentSplit):  # one that is there and broken could hide images that must stay out
                yield layout.open(root, split)


def _recording(file: Path, beside: SegmentationDataset) -> str | None:
    return beside.declared.group_of(file) if isinstance(beside, DeclaredPairs) else None


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and all folders in it, by path.

    Raises:
        BadInput: no such folder.
    """
    if not folder.is_dir():
        raise BadInput(f"--unlabelled: folder '{folder}' does not exist, expected one that holds images: name another")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))
