"""A recording held out: training on the others of two splits together, to be scored on scenes that it has not seen.

Frames of one recording on both sides of a split reward remembering a street. Whoever wants to know how a model does on
another holds out one recording at a time, and takes the mean over these folds.
"""

from __future__ import annotations

from kdbench.data.base import ImageMaskPairs, SegmentationDataset
from kdbench.errors import BadInput

FIX = 'name recordings in a dataset file by its key group, as in group = "^([^_]+)_"'


def groups_of(train: SegmentationDataset, val: SegmentationDataset) -> tuple[str, ...]:
    """The recordings of both splits together, by name: the folds.

    Raises:
        BadInput: fewer than two, or images that belong to none.
    """
    name = train.name
    if not isinstance(train, ImageMaskPairs) or not isinstance(val, ImageMaskPairs):
        raise BadInput(f"--hold-out: dataset '{name}' is not made of files, expected recordings of files")
    groups = tuple(sorted({*train.groups, *val.groups}))
    if len(groups) < 2:
        got = f"one recording, '{groups[0]}'" if groups else "no recordings"
        raise BadInput(f"--hold-out: dataset '{name}' has {got}, expected at least two: {FIX}")
    for split in (train, val):
        alone = [split.name_of(index) for index in range(len(split)) if split.group_of(index) is None]
        if alone:
            raise BadInput(
                f"--hold-out: {split.split} image '{alone[0]}' of dataset '{name}' belongs to no recording "
                f"({len(alone)} such images), expected every image in one: {FIX}"
            )
    return groups


def hold_out(
    train: SegmentationDataset, val: SegmentationDataset, group: str
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The images of the other recordings, of both splits together, and those of ``group``.

    Returns:
        Two splits of the same dataset, called train and val as those they stand for.

    Raises:
        BadInput: no such recording, or as for ``groups_of``.
    """
    groups = groups_of(train, val)
    if group not in groups:
        raise BadInput(f"--hold-out: got '{group}', expected a recording of {train.name}: {', '.join(groups)}")
    assert isinstance(train, ImageMaskPairs)
    assert isinstance(val, ImageMaskPairs)
    both = [(pair, split.group_of(index)) for split in (train, val) for index, pair in enumerate(split.pairs)]
    kept = train.with_pairs([pair for pair, its in both if its != group])
    return kept, val.with_pairs([pair for pair, its in both if its == group])
