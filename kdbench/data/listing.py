"""The images and masks that a dataset file names, and which split each belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kdbench.data.base import IMAGE_SUFFIXES, SegmentationDataset
from kdbench.data.dataset_file import LISTS, DatasetFile
from kdbench.data.declared import Declared, DeclaredPairs
from kdbench.data.faults import AbsentSplit, listed, named, raise_or_collect, short
from kdbench.data.label_map import LabelMap, channels, parse_colour
from kdbench.data.labels import IGNORE
from kdbench.data.palette import distinct_palette
from kdbench.errors import BadInput
from kdbench.runs.files import read_text

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listed:
    """An image, where its mask should be, and the image's path below the root."""

    image: Path
    mask: Path
    relative: str
    stem: str
    group: str | None


def open_listed(spec: DatasetFile, name: str, root: Path, split: str) -> SegmentationDataset:
    """Open a split of what ``spec`` says lies below ``root``."""
    if not root.is_dir():
        raise BadInput(f"dataset '{name}': root '{root}' is no folder: mend root, or name the folder with --data-root")
    declared = Declared(
        label_map(spec) if spec.labels == "masks" else None,
        re.compile(spec.group) if spec.group else None,
        root,
        None if spec.unmasked is None else list(spec.classes).index(spec.unmasked),
    )
    chosen = sorted(_of_split(spec, name, root, split, declared), key=lambda one: one.relative)
    bare = [one.image for one in chosen if spec.unmasked is None and not one.mask.is_file()]
    if bare:
        where = next(one.mask for one in chosen if one.image == bare[0])
        raise_or_collect([
            f"{split}: {len(bare)} of {len(chosen)} images have no mask ({named(bare)}; expected '{where}' for the "
            "first): mend masks or stem, or say unmasked = a class"
        ])  # fmt: skip
    pairs = [(one.image, one.mask) for one in chosen if spec.unmasked is not None or one.mask.is_file()]
    if not pairs:
        raise BadInput(f"dataset '{name}': {split} has no image with a mask: mend masks, stem or split")
    classes, palette = tuple(spec.classes), colours(spec)
    if spec.labels == "masks":
        return DeclaredPairs(name, split, classes, palette, pairs, declared)
    from kdbench.data.polygons import PolygonPairs

    return PolygonPairs(spec, name, split, palette, pairs, declared)


def label_map(spec: DatasetFile) -> LabelMap:
    """What the values of masks mean; with any colour, all are read by colour, and a number is a grey."""
    by_colour = any(isinstance(value, str) for values in (*spec.classes.values(), spec.ignore) for value in values)

    def code(value: int | str) -> int:
        return parse_colour(value) or 0 if isinstance(value, str) else value * (0x010101 if by_colour else 1)

    meaning = {code(value): IGNORE for value in spec.ignore}
    meaning.update({code(value): index for index, values in enumerate(spec.classes.values()) for value in values})
    return LabelMap(tuple(spec.classes), meaning, by_colour)


def colours(spec: DatasetFile) -> list[tuple[int, int, int]]:
    """What classes are drawn in: their own first colours, where they have any."""
    drawn = []
    for values, usual in zip(spec.classes.values(), distinct_palette(len(spec.classes)), strict=True):
        own = [parse_colour(value) for value in values if isinstance(value, str)]
        drawn.append(usual if not own or own[0] is None else channels(own[0]))
    return drawn


def _of_split(spec: DatasetFile, name: str, root: Path, split: str, declared: Declared) -> list[Listed]:
    if spec.by_folder:
        return _list(spec, name, root, str(spec.split.get(split, split)), declared)
    everything = sorted(_list(spec, name, root, "", declared), key=lambda one: one.relative)
    taken: dict[str, list[Listed]] = {}
    left = everything
    for part in ("test", "val", "train"):
        wanted = spec.split.get(part)
        if wanted is None:
            continue
        if isinstance(wanted, float):
            taken[part] = _share(left, wanted * len(everything), int(float(str(spec.split.get("seed", 0)))))
        else:
            taken[part] = _select(everything, wanted, root, f"dataset '{name}': split.{part}")
        gone = {one.relative for one in taken[part]}
        for other, theirs in taken.items():
            if other != part and (both := [one.image for one in theirs if one.relative in gone]):
                raise BadInput(
                    f"dataset '{name}': split: {len(both)} images are in both {other} and {part} ({named(both)}): "
                    "leave them in one"
                )
        left = [one for one in left if one.relative not in gone]
    taken.setdefault("train", left)
    if not taken[split]:
        raise BadInput(f"dataset '{name}': split: {split} has no image of {len(everything)}: mend split")
    return taken[split]


def _list(spec: DatasetFile, name: str, root: Path, split: str, declared: Declared) -> list[Listed]:
    """Every image that ``images`` names, with its mask; without those that are said to have none."""
    patterns = [text.replace("{split}", split) for text in spec.images]
    patterns = [f"{text.rstrip('/')}/*" if (root / text).is_dir() else text for text in patterns]
    found = _found(patterns, root, f"dataset '{name}': images")
    bases = [_base(pattern) for pattern in patterns]
    made = []
    for image, mask in found.items():
        relative = declared.relative(image)
        stem = _stem(spec, image)
        if stem is None:
            continue
        if spec.masks is not None and mask is None:
            folder = next((relative[len(base) :] for base in bases if relative.startswith(base)), relative)
            places = {"stem": stem, "name": image.name, "folder": folder.rpartition("/")[0] or ".", "split": split}
            mask = root / _filled(spec.masks, places)
        if mask is None:
            raise BadInput(f"dataset '{name}': images lists '{short(relative)}' without a mask: add it, or say masks")
        made.append(Listed(image, mask, relative, stem, declared.group_of(image)))
    masks = {one.mask for one in made}
    unlabelled = set(listed_unlabelled(spec, name, root)) if spec.unlabelled else set()
    return [
        one
        for one in made
        if one.image not in masks  # "*.png" finds the masks beside the images too
        and not (one.image in unlabelled and not one.mask.is_file())
    ]


def listed_unlabelled(spec: DatasetFile, name: str, root: Path) -> list[Path]:
    """The images without labels that a dataset file names, by path.

    Raises:
        BadInput: its paths lead nowhere.
    """
    patterns = [f"{text.rstrip('/')}/*" if (root / text).is_dir() else text for text in spec.unlabelled]
    return sorted(_found(patterns, root, f"dataset '{name}': unlabelled"))


def _found(patterns: Sequence[str], root: Path, key: str) -> dict[Path, Path | None]:
    """The images that globs and list files name below ``root``, with the masks that a list file has beside them."""
    found: dict[Path, Path | None] = {}
    for pattern in patterns:
        if pattern.endswith(LISTS):
            found.update(_listing(root / pattern, root, key))
            continue
        try:
            paths = list(root.glob(pattern))
        except (ValueError, NotImplementedError) as error:  # "a**", "/a"
            raise BadInput(f"{key}: got '{short(pattern)}', expected a glob below root ({error}): mend it") from error
        found.update(dict.fromkeys(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."))
    if not found:
        raise AbsentSplit(f"{key}: '{listed(patterns)}' finds no image below '{root}': mend the path or root")
    return found


def _filled(template: str, places: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda at: places[at[1]], template)


def _stem(spec: DatasetFile, image: Path) -> str | None:
    """What {stem} is; None of a name that the pattern does not fit, which is no image of this dataset."""
    if spec.stem is None:
        return image.stem
    found = re.search(spec.stem, image.stem)
    return found[1] if found else None


def _base(pattern: str) -> str:
    """What stands before the first folder that a glob leaves open, with its "/"."""
    fixed = pattern.split("/")[:-1]
    for number, part in enumerate(fixed):
        if _GLOB.search(part):
            fixed = fixed[:number]
            break
    return "".join(f"{part}/" for part in fixed)


def _listing(file: Path, root: Path, key: str) -> dict[Path, Path | None]:
    """A list file: an image a line, or an image and its mask, below ``root``."""
    pairs: dict[Path, Path | None] = {}
    for line in _lines(file, key):
        separator = next((mark for mark in ("\t", ",") if mark in line), None)
        parts = [line] if separator is None and (root / line).is_file() else line.split(separator)
        pairs[root / parts[0].strip()] = root / parts[1].strip() if len(parts) > 1 else None
    if missing := [image for image in pairs if not image.is_file()]:
        raise BadInput(f"{key}: '{file}' lists {len(missing)} files that are not there ({named(missing)}): mend it")
    return pairs


def _lines(file: Path, key: str) -> list[str]:
    try:
        text = read_text(file, "name a list of files")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{key}: list file '{file}' cannot be read ({error}): name a text file below root") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _select(everything: Sequence[Listed], wanted: str | list[str], root: Path, key: str) -> list[Listed]:
    """Images of the named recordings, folders, globs or list files."""
    chosen: dict[str, Listed] = {}
    for text in [wanted] if isinstance(wanted, str) else wanted:
        if text.endswith(LISTS):
            entries = _lines(root / text, key)
            by_name = {word: one for one in everything for word in (one.stem, one.image.stem, one.image.name)}
            by_name.update({one.relative: one for one in everything})
            if odd := [Path(entry) for entry in entries if entry not in by_name]:
                raise BadInput(f"{key}: '{text}' lists {len(odd)} that images do not find ({named(odd)}): mend one")
            found = [by_name[entry] for entry in entries]
        elif "/" in text or _GLOB.search(text):
            folder = text.rstrip("/") + "/"
            found = [e for e in everything if fnmatchcase(e.relative, text) or e.relative.startswith(folder)]
        else:
            found = [one for one in everything if one.group == text or one.relative.startswith(f"{text}/")]
        if not found:
            groups = sorted({one.group for one in everything if one.group})
            known = f"one of the recordings {listed(groups)}, " if groups else ""
            raise BadInput(f"{key}: got '{short(text)}', expected {known}a folder, a glob or a list file ({LISTS[0]})")
        chosen.update({one.relative: one for one in found})
    return list(chosen.values())


def _share(images: Sequence[Listed], wanted: float, seed: int) -> list[Listed]:
    """About ``wanted`` of the images, recordings whole; the same ones when images are added, but for those.

    The order is one of checksums, so that it depends on neither other images nor a library's generator.
    """
    units: dict[str, list[Listed]] = {}
    for one in images:
        units.setdefault(one.group or one.relative, []).append(one)
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
    taken: list[Listed] = []
    for unit in order[: len(order) - 1]:  # one is left for train
        if taken and len(taken) + len(units[unit]) / 2 > wanted:
            break
        taken += units[unit]
    return taken
