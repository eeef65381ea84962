"""Dataset layouts: each says how its files lie and how to open them; and opening one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import BadInput
from kdbench.kinds import Kind

if TYPE_CHECKING:
    from kdbench.data.base import SegmentationDataset


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on disk, known by its name on the command line.

    Attributes:
        open: (root, split, and each of ``options`` that was asked for as True) → that split.
        holds: what ``--data-root`` holds, in one phrase; "" for a dataset that needs no folder.
        recipe: name of the recipe that it is trained by, or the path of a .toml file; None = that of ``folder``.
        splits: that it can open; a training needs train and val.
        options: of "sbd" and "download", those that it takes.
    """

    name: str
    open: Callable[..., SegmentationDataset]
    holds: str
    recipe: str | None = None
    splits: tuple[str, ...] = ("train", "val")
    options: tuple[str, ...] = ()


DATASETS = Kind[Layout](
    "dataset",
    "--dataset",
    (
        "kdbench.data.open",
        "kdbench.data.camvid",
        "kdbench.data.voc2012",
        "kdbench.data.folder",
    ),
)


def open_shapes(root: Path, split: str) -> SegmentationDataset:
    from kdbench.data.shapes import Shapes

    return Shapes(split)


DATASETS.add(Layout("shapes", open_shapes, holds="", recipe="shapes"))  # here, because shapes.py needs numpy


def open_dataset(
    name: str, split: str, root: Path | None = None, *, sbd: bool = False, download: bool = False
) -> SegmentationDataset:
    """Open one split of a dataset.

    Args:
        name: one of ``DATASETS``.
        split: "train" or "val".
        root: the dataset's folder; ``shapes`` needs none.
        sbd: ``voc2012`` only: train on the 10,582 images that the Semantic Boundaries Dataset adds to.
        download: ``voc2012`` only: fetch into ``root`` what is not there yet.

    Raises:
        BadInput: an unknown name or split, no root, or a root that does not hold the dataset.
        RunFailed: a failed download.
    """
    layout = DATASETS[name]
    if split not in layout.splits:
        raise BadInput(f"split: got '{split}', expected one of {', '.join(layout.splits)}")
    options = {option: True for option, on in (("sbd", sbd), ("download", download)) if on}
    for option in options:
        if option not in layout.options:
            raise BadInput(f"--{option}: got --dataset {name!r}, expected {' or '.join(takers(option))}: leave it out")
    if layout.holds and root is None:
        raise BadInput(f"--data-root: needed for --dataset {name}, the folder that holds {layout.holds}")
    return layout.open(root, split, **options)


def takers(option: str) -> tuple[str, ...]:
    """The datasets that take an option."""
    return tuple(layout.name for layout in DATASETS if option in layout.options)


def roots() -> str:
    """What ``--data-root`` holds, dataset by dataset, in a line for help."""
    folders = [f"{layout.name} {layout.holds}" for layout in DATASETS if layout.holds]
    others = [layout.name for layout in DATASETS if not layout.holds]
    return f"{'; '.join(folders)}; {', '.join(others)} nothing"
