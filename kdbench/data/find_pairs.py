"""Which files below a folder are images and which their masks, by what they hold and how their names agree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from kdbench.data.base import IMAGE_SUFFIXES
from kdbench.data.decoding import read_colours
from kdbench.data.spread import spread_indices
from kdbench.errors import BadInput

FEW = 64
"""Colours up to which a picture without loss is taken for a mask: photographs have thousands."""
_LOOKED_AT = 5
_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_SPLIT = re.compile(
    r"(?<![a-z])(training|train|validation|valid|val|testing|test)(?=$|[^a-z]|annot|mask|label|img|image)"
)
_ENDING = re.compile(r"[_.-]?[A-Za-z][A-Za-z0-9]*$")


@dataclass(frozen=True)
class Family:
    """Files of one folder whose names end alike.

    Attributes:
        folder: below the root, with "/"; "" is the root.
        ending: of their names, without suffix, "" where they have none in common.
        files: by what of the name is left without the ending.
    """

    folder: str
    ending: str
    suffix: str
    files: dict[str, Path]

    @property
    def split_word(self) -> str | None:
        """The word in its folder that names a split, as it is written."""
        found = _SPLIT.search(self.folder)
        return found[1] if found else None

    @property
    def parts(self) -> tuple[str, ...]:
        """The folder's, with {split} for that word."""
        word = self.split_word
        told = self.folder if word is None else _SPLIT.sub("{split}", self.folder, count=1)
        return tuple(part for part in told.split("/") if part)


@dataclass(frozen=True)
class Match:
    """A family of images and the one of their masks."""

    images: Family
    masks: Family

    @property
    def stems(self) -> list[str]:
        return sorted(self.images.files.keys() & self.masks.files.keys())


def split_named(word: str) -> str:
    """The split that a folder's word means: "training" is train."""
    return _WORDS[word]


def families(root: Path) -> list[Family]:
    """Every family of image files below ``root``, those of hidden folders left out."""
    by_folder: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts):
            folder = "" if str(relative.parent) == "." else str(relative.parent)
            by_folder[folder, path.suffix].append(path)
    found = []
    for (folder, suffix), paths in by_folder.items():
        by_ending: dict[str, dict[str, Path]] = defaultdict(dict)
        endings = _endings(paths)
        for path in paths:
            ending = next((e for e in endings if path.stem.endswith(e) and path.stem != e), "")
            by_ending[ending][path.stem[: len(path.stem) - len(ending)]] = path
        found += [Family(folder, ending, suffix, files) for ending, files in by_ending.items()]
    return found


def _endings(paths: Sequence[Path]) -> list[str]:
    """Words at the end of names that several files share, "_mask", the longest first."""
    counts: dict[str, int] = defaultdict(int)
    for path in paths:
        rest = path.stem
        # Up to two words: "_gtFine_labelIds".
        for _ in range(2):
            found = _ENDING.search(rest)
            if found is None or found.start() == 0 or found[0][0] not in "_.-":
                break
            counts[path.stem[found.start() :]] += 1
            rest = rest[: found.start()]
    return sorted((ending for ending, count in counts.items() if count > 1), key=len, reverse=True)


def is_mask(family: Family) -> bool:
    """Whether most of its files, by a look at some, have few colours, and none lost."""
    paths = spread(list(family.files.values()), _LOOKED_AT)
    return sum(_has_few_colours(path) for path in paths) * 2 > len(paths)


def _has_few_colours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "1"):
                return True
        return np.unique(read_colours(path)).size <= FEW
    except BadInput:
        return False
    except Exception:  # damaged; others of the family say what it is
        return False


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """``count`` of them at most, evenly."""
    return [paths[index] for index in spread_indices(len(paths), count)]


def matches(root: Path) -> list[Match]:
    """Families of images, each with the masks that most of its names have; of several such pairings the largest."""
    every = families(root)
    masks = [family for family in every if is_mask(family)]
    photos = [family for family in every if family not in masks]
    found: dict[tuple[str, str, str, str], list[Match]] = defaultdict(list)
    for images in photos:
        fitting = [Match(images, other) for other in masks if images.split_word == other.split_word]
        best = max(fitting, key=lambda match: (len(match.stems), _same_parts(match)), default=None)
        if best is None or not best.stems:
            continue
        found[images.ending, images.suffix, best.masks.ending, best.masks.suffix].append(best)
    largest = max(found.values(), key=lambda some: sum(len(match.stems) for match in some), default=[])
    return sorted(largest, key=lambda match: match.images.folder)


def _same_parts(match: Match) -> int:
    return len(set(match.images.parts) & set(match.masks.parts))


def template(folders: Iterable[tuple[str, ...]]) -> tuple[str, bool]:
    """The beginning that folders share, with "/" at its end, and whether they go on differently."""
    different = sorted(set(folders))
    shared = []
    for parts in zip(*different, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    deeper = any(len(parts) > len(shared) for parts in different)
    return "".join(f"{part}/" for part in shared), deeper
