"""What a dataset is, and the one that most are: pairs of image and mask files."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kdbench.data.decoding import exif_orientation as exif_orientation
from kdbench.data.decoding import image_size
from kdbench.data.decoding import read_image as read_image
from kdbench.data.decoding import read_mask as read_mask
from kdbench.data.faults import AbsentSplit, named, raise_or_collect
from kdbench.data.label_map import LabelMap
from kdbench.errors import BadInput

Color = tuple[int, int, int]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Sample:
    """One labelled image at its own resolution.

    Attributes:
        name: unique in its dataset, for messages and file names.
        image: H x W x 3 uint8, RGB.
        label: H x W uint8, class ids 0 … C-1, or 255 where the pixel counts nowhere.
    """

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


class SegmentationDataset(ABC):
    """A split of a dataset; indexable from several threads at once.

    Attributes:
        photographs: whether ImageNet's weights know what its images look like.
    """

    photographs = True

    def __init__(self, name: str, split: str, classes: Sequence[str], palette: Sequence[Color]) -> None:
        self.name = name
        self.split = split
        self.classes = tuple(classes)
        self.palette = tuple(palette)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def name_of(self, index: int) -> str:
        """The name of a sample, without reading it where that can be."""
        return self[index].name

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of a sample, without reading its image where that can be: H x W uint8."""
        return self[index].label

    def group_of(self, index: int) -> str | None:
        """The recording that an image belongs to, whose frames resemble each other; None where that is not known."""
        return None

    @property
    def groups(self) -> tuple[str, ...]:
        """The recordings that the split has, by name."""
        return tuple(sorted({group for i in range(len(self)) if (group := self.group_of(i)) is not None}))


class ImageMaskPairs(SegmentationDataset):
    """Image and mask files side by side.

    Args:
        pairs: (image file, mask file), in the order of the split.
        ignore_values: mask values that mean "counts nowhere" (255 always does).

    Attributes:
        labels: which class a value or colour of a mask is.
    """

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        palette: Sequence[Color],
        pairs: Sequence[tuple[Path, Path]],
        ignore_values: Sequence[int] = (),
    ) -> None:
        super().__init__(name, split, classes, palette)
        self.pairs = list(pairs)
        self.labels = LabelMap.of_ids(self.classes, ignore_values)

    def with_pairs(self, pairs: Sequence[tuple[Path, Path]]) -> Self:
        """The same dataset with other files."""
        other = copy.copy(self)
        other.pairs = list(pairs)
        return other

    @property
    def label_meaning(self) -> str:
        """What values of masks mean."""
        return repr(self.labels)

    @property
    def meaning(self) -> str:
        """All that labels depend on besides the files' bytes."""
        return self.label_meaning

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        return self.pairs[index][0].stem

    def read_mask(self, path: Path) -> NDArray[np.integer]:
        """Values as stored; a dataset with another mask format overrides this."""
        return self.labels.read(path)

    def read_label(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """H x W labels; ``shape`` is the image's, for those that are drawn."""
        mask = self.pairs[index][1]
        return self.labels.labels(self.read_mask(mask), mask)

    def label(self, index: int) -> NDArray[np.uint8]:
        return self.read_label(index, image_size(self.pairs[index][0]))

    def __getitem__(self, index: int) -> Sample:
        image_path, mask_path = self.pairs[index]
        image = read_image(image_path)
        height, width = image.shape[:2]
        label = self.read_label(index, (height, width))
        if (height, width) != label.shape:
            turned = exif_orientation(image_path)
            fix = f"write its EXIF orientation {turned} into the pixels" if turned > 1 else "both must be the same size"
            raise BadInput(
                f"image '{image_path}' is {height}x{width} but its mask '{mask_path}' is "
                f"{label.shape[0]}x{label.shape[1]}: {fix}"
            )
        return Sample(self.name_of(index), image, label)


def pair_by_stem(images: Path, masks: Path, fix: str) -> list[tuple[Path, Path]]:
    """Match the image files of two folders by file name without suffix, in sorted order.

    Masks may all have the same ending after their image's name (a.jpg, a_mask.png).

    Args:
        fix: how to mend a wrong folder, the end of the error message.

    Raises:
        AbsentSplit: a folder is missing.
        BadInput: a folder is empty, two files differ in suffix only, or a file has no partner.
    """

    def files(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            raise AbsentSplit(f"dataset folder '{folder}' does not exist: {fix}")
        found: dict[str, Path] = {}
        for path in image_files(folder):
            if path.stem in found:
                raise BadInput(
                    f"'{path}' and '{found[path.stem].name}' have the same name but for the suffix, expected one file "
                    "each: remove one of the two"
                )
            found[path.stem] = path
        if not found:
            raise BadInput(f"dataset folder '{folder}' holds no image files ({', '.join(IMAGE_SUFFIXES)}): {fix}")
        return found

    by_image, by_mask = files(images), files(masks)
    ending = mask_ending(by_image, by_mask)
    by_mask = {stem.removesuffix(ending): path for stem, path in by_mask.items()}
    faults = []
    for these, others, folder in ((by_image, by_mask, masks), (by_mask, by_image, images)):
        if alone := [these[stem] for stem in sorted(these.keys() - others.keys())]:
            faults.append(
                f"'{alone[0]}' has no partner in '{folder}' ({len(alone)} such files: {named(alone)}): "
                "every image needs a mask of the same name; a dataset file says how names pair, and what no mask means"
            )
    raise_or_collect(faults)
    return [(by_image[stem], by_mask[stem]) for stem in sorted(by_image.keys() & by_mask.keys())]


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder, by name."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))  # "._a.png" comes from macOS


def mask_ending(images: Iterable[str], masks: Iterable[str]) -> str:
    """What every mask's name has after its image's: "" where any two names are equal, or nothing fits."""
    known, names = set(images), list(masks)
    if known.intersection(names):
        return ""
    shortest = min(names, key=len, default="")
    endings = [shortest[start:] for start in range(len(shortest))]
    endings = [ending for ending in endings if all(name.endswith(ending) for name in names)]
    fitting = {ending: sum(name.removesuffix(ending) in known for name in names) for ending in endings}
    best = max(fitting, key=lambda ending: fitting[ending], default="")
    return best if fitting.get(best) else ""


def voc_palette(count: int) -> list[Color]:
    """The bit-interleaved colour map of the PASCAL VOC development kit (VOClabelcolormap), ``count`` colours."""
    colors = []
    for index in range(count):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        colors.append((red, green, blue))
    return colors
