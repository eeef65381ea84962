"""What a dataset is, and the one that most are: pairs of image and mask files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.decoding import exif_orientation as exif_orientation
from kdbench.data.decoding import read_image as read_image
from kdbench.data.decoding import read_mask as read_mask
from kdbench.data.labels import IGNORE
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


class ImageMaskPairs(SegmentationDataset):
    """Image and mask files side by side.

    Args:
        pairs: (image file, mask file), in the order of the split.
        ignore_values: mask values that mean "counts nowhere" (255 always does).
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
        self._train_id = np.full(256, -1, dtype=np.int16)
        self._train_id[: len(self.classes)] = np.arange(len(self.classes))
        self._train_id[[IGNORE, *ignore_values]] = IGNORE

    def __len__(self) -> int:
        return len(self.pairs)

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """Class ids as stored; a dataset with another mask format overrides this."""
        return read_mask(path)

    def __getitem__(self, index: int) -> Sample:
        image_path, mask_path = self.pairs[index]
        image, raw = read_image(image_path), self.read_mask(mask_path)
        if image.shape[:2] != raw.shape:
            turned = exif_orientation(image_path)
            fix = f"write its EXIF orientation {turned} into the pixels" if turned > 1 else "both must be the same size"
            raise BadInput(
                f"image '{image_path}' is {image.shape[0]}x{image.shape[1]} but its mask '{mask_path}' is "
                f"{raw.shape[0]}x{raw.shape[1]}: {fix}"
            )
        label = self._train_id[raw]
        if label.min() < 0:
            unknown = np.unique(raw[label < 0]).tolist()
            raise BadInput(
                f"mask '{mask_path}' holds the values {unknown}, expected 0 to {len(self.classes) - 1} "
                f"({len(self.classes)} classes) or 255 for ignore: mend the mask or list its classes"
            )
        return Sample(image_path.stem, image, label.astype(np.uint8))


def pair_by_stem(images: Path, masks: Path, fix: str) -> list[tuple[Path, Path]]:
    """Match the image files of two folders by file name without suffix, in sorted order.

    Args:
        fix: how to mend a wrong folder, the end of the error message.

    Raises:
        BadInput: a folder is missing or empty, two files differ in suffix only, or a file has no partner.
    """

    def files(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            raise BadInput(f"dataset folder '{folder}' does not exist: {fix}")
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):  # "._a.png" comes from macOS
                continue
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
    for these, others, folder in ((by_image, by_mask, masks), (by_mask, by_image, images)):
        alone = sorted(these.keys() - others.keys())
        if alone:
            raise BadInput(
                f"'{these[alone[0]]}' has no partner in '{folder}' ({len(alone)} such files): "
                "every image needs a mask of the same name"
            )
    return [(by_image[stem], by_mask[stem]) for stem in sorted(by_image)]


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
