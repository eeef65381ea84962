"""Pairs of files of which somebody said what masks mean and how names group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kdbench.data.base import Color, ImageMaskPairs
from kdbench.data.label_map import LabelMap

DRIVE = "^([^_]+)_"
"""What stands before the first "_" of a name: CamVid's drives."""


@dataclass(frozen=True)
class Declared:
    """What is said of a dataset's files.

    Attributes:
        labels: which class a value or colour is; None = values are class ids.
        group: what its brackets find in an image's name is the recording; a pattern with "/" is looked for in the path
            below ``root``.
        root: that names are relative to.
        unmasked: the class of every pixel of an image whose mask is not there; None = every image has one.
    """

    labels: LabelMap | None = None
    group: re.Pattern[str] | None = None
    root: Path | None = None
    unmasked: int | None = None

    def group_of(self, image: Path) -> str | None:
        if self.group is None:
            return None
        found = self.group.search(self.relative(image) if "/" in self.group.pattern else image.name)
        return found[1] if found else None

    def relative(self, image: Path) -> str:
        """An image's path below the root, with "/"."""
        inside = self.root is not None and image.is_relative_to(self.root)
        return (image.relative_to(self.root) if inside and self.root else image).as_posix()


class DeclaredPairs(ImageMaskPairs):
    """``ImageMaskPairs`` with what is declared of them."""

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        palette: Sequence[Color],
        pairs: Sequence[tuple[Path, Path]],
        declared: Declared,
    ) -> None:
        super().__init__(name, split, classes, palette, pairs)
        self.declared = declared
        self.labels = declared.labels or self.labels
        self._stems_differ = stems_differ(pairs)

    def with_pairs(self, pairs: Sequence[tuple[Path, Path]]) -> Self:
        other = super().with_pairs(pairs)
        other._stems_differ = stems_differ(pairs)
        return other

    @property
    def meaning(self) -> str:
        return repr((self.labels, self.declared))

    def name_of(self, index: int) -> str:
        if self._stems_differ:
            return super().name_of(index)
        return str(Path(self.declared.relative(self.pairs[index][0])).with_suffix("")).replace("/", "_")

    def group_of(self, index: int) -> str | None:
        return self.declared.group_of(self.pairs[index][0])

    def read_label(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        if self.declared.unmasked is not None and not self.pairs[index][1].is_file():
            return np.full(shape, self.declared.unmasked, dtype=np.uint8)
        return super().read_label(index, shape)


def stems_differ(pairs: Sequence[tuple[Path, Path]]) -> bool:
    """Whether files' names alone tell images apart."""
    return len({image.stem for image, _ in pairs}) == len(pairs)
