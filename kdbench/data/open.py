"""Dataset layouts: each says how its files lie and how to open them; and opening one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        reported: splits that a finished study is scored on, where the folder has them; ``open`` raises ``AbsentSplit``
            where it has not.
        options: of "sbd" and "download", those that it takes.
        file: the dataset file that declares it; None = it is declared in Python.
        unlabelled: root → the images without labels that the file names, or None where it names none.
    """

    name: str
    open: Callable[..., SegmentationDataset]
    holds: str
    recipe: str | None = None
    splits: tuple[str, ...] = ("train", "val")
    reported: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    file: Path | None = None
    unlabelled: Callable[[Path | None], list[Path] | None] | None = None


DATASETS = Kind[Layout](
    "dataset",
    "--dataset",
    (
        "kdbench.data.open",
        "kdbench.data.camvid",
        "kdbench.data.voc2012",
        "kdbench.data.folder",
        "kdbench.data.cityscapes",
        "kdbench.data.ade20k",
    ),
    also="the path of a dataset file (.toml)",
)


def open_shapes(root: Path, split: str) -> SegmentationDataset:
    from kdbench.data.shapes import Shapes

    return Shapes(split)


DATASETS.add(Layout("shapes", open_shapes, holds="", recipe="shapes"))  # here, because shapes.py needs numpy


def open_materials(root: Path, split: str) -> SegmentationDataset:
    from kdbench.data.materials import Materials

    return Materials(split)


DATASETS.add(Layout("materials", open_materials, holds="", recipe="materials"))


def open_dataset(
    name: str, split: str, root: Path | None = None, *, sbd: bool = False, download: bool = False
) -> SegmentationDataset:
    """Open one split of a dataset.

    Args:
        name: one of ``DATASETS``, or the path of a dataset file.
        split: "train", "val", or another that it has.
        root: the dataset's folder; ``shapes`` needs none.
        sbd: ``voc2012`` only: train on the 10,582 images that the Semantic Boundaries Dataset adds to.
        download: ``voc2012`` only: fetch into ``root`` what is not there yet.

    Raises:
        BadInput: an unknown name or split, no root, or a root that does not hold the dataset.
        RunFailed: a failed download.
    """
    layout = DATASETS[join_dataset(name)]
    known = (*layout.splits, *layout.reported)
    if split not in known:
        raise BadInput(f"split: got '{split}', expected one of {', '.join(known)}, which dataset '{name}' has")
    options = {option: True for option, on in (("sbd", sbd), ("download", download)) if on}
    for option in options:
        if option not in layout.options:
            raise BadInput(f"--{option}: got --dataset {name!r}, expected {' or '.join(takers(option))}: leave it out")
    if layout.holds and root is None:
        raise BadInput(f"--data-root: needed for --dataset {name}, the folder that holds {layout.holds}")
    return layout.open(root, split, **options)


def join_dataset(name: str) -> str:
    """The name of a dataset: ``name``, or that of the one which a dataset file declares, known from then on.

    Raises:
        BadInput: no such file, or what is wrong with it; or it takes the name of a dataset of another kind.
    """
    if not name.endswith(".toml"):
        return name
    from kdbench.data.dataset_file import layout_in

    layout = layout_in(Path(name))
    if layout.name in DATASETS and DATASETS[layout.name].file is None:
        raise BadInput(f"dataset file '{name}': name '{layout.name}' is a built-in dataset's: add name = another")
    return DATASETS.replace(layout).name


def how_to_open(name: str, root: Path | None) -> dict[str, str | None]:
    """What a sidecar says of where a dataset is; ``join_recorded`` reads it."""
    file = DATASETS[name].file
    about = {"dataset": name, "data_root": None if root is None else root.as_posix()}
    return about if file is None else {**about, "dataset_file": file.as_posix()}


def join_recorded(name: str, sidecar: dict[str, Any]) -> None:
    """Make the dataset of a sidecar known, where a file declares it that this command did not name.

    Raises:
        BadInput: the file is not there any more.
    """
    file = sidecar.get("dataset_file")
    if file is None or name in DATASETS:
        return
    if not Path(file).is_file():
        raise BadInput(
            f"dataset '{name}' was trained from the dataset file '{file:.200}', which is not there: restore it, or "
            "name it with --dataset"
        )
    join_dataset(file)


def takers(option: str) -> tuple[str, ...]:
    """The datasets that take an option."""
    return tuple(layout.name for layout in DATASETS if option in layout.options)


def roots() -> str:
    """What ``--data-root`` holds, dataset by dataset, in a line for help."""
    folders = [f"{layout.name} {layout.holds}" for layout in DATASETS if layout.holds]
    others = [layout.name for layout in DATASETS if not layout.holds and layout.file is None]
    return f"{'; '.join(folders)}; {', '.join(others)} nothing"
