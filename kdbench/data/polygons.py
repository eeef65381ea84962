"""Labels that are polygons: COCO's, YOLO's and labelme's files, drawn by pycocotools as COCO's own evaluation does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.data.base import Color
from kdbench.data.dataset_file import DatasetFile
from kdbench.data.declared import Declared, DeclaredPairs
from kdbench.data.faults import UnknownValues, listed, short
from kdbench.data.labels import IGNORE
from kdbench.errors import BadInput, Missing
from kdbench.runs.files import RECORDED, parse_json, read_text

MEND = "mend the file or labels ="
INSTALL = "pip install 'pycocotools>=2.0.8' (or kdbench with its extra: pip install 'kdbench[polygons]')"

Shape = tuple[int | str, Any]
"""What is drawn (a category's name or id), and its outlines in COCO's words: lists of x, y, or a run-length code."""


class PolygonPairs(DeclaredPairs):
    """Images, and for each a file of polygons; or one file for all, COCO's.

    Pixels outside of all polygons are of the first class, and a later polygon lies over an earlier one.
    """

    def __init__(
        self,
        spec: DatasetFile,
        name: str,
        split: str,
        palette: Sequence[Color],
        pairs: Sequence[tuple[Path, Path]],
        declared: Declared,
    ) -> None:
        super().__init__(name, split, tuple(spec.classes), palette, pairs, declared)
        self._rasterise = _rasteriser()
        self._read = {"coco": _coco, "yolo": _yolo, "labelme": _labelme}[spec.labels]
        self._label_of: dict[int | str, int] = dict.fromkeys(spec.ignore, IGNORE)
        for index, (own, values) in enumerate(spec.classes.items()):
            self._label_of.update(dict.fromkeys(values, index))
            self._label_of.setdefault(own, index)

    @property
    def label_meaning(self) -> str:
        return repr(self._label_of)

    @property
    def meaning(self) -> str:
        return repr((self._read.__name__, self._label_of, self.declared))

    def read_label(self, index: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
        image, file = self.pairs[index]
        if self.declared.unmasked is not None and not file.is_file():
            return np.full(shape, self.declared.unmasked, dtype=np.uint8)
        try:
            shapes = self._read(file, image, shape)
        except BadInput:
            raise
        except Exception as error:  # whatever a file of another kind lacks
            raise BadInput(
                f"labels '{file}' cannot be read ({short(repr(error))}): mend the file or labels ="
            ) from error
        unknown = sorted({str(kind) for kind, _ in shapes if kind not in self._label_of})
        if unknown:
            raise UnknownValues(
                f"mask '{file}' holds polygons of {listed(unknown)}, expected {listed(self._label_of)}: "
                "add them to a class or to ignore",
                unknown,
                unknown,
            )
        label = np.zeros(shape, dtype=np.uint8)
        for kind, outlines in shapes:
            try:
                label[self._rasterise(outlines, *shape)] = self._label_of[kind]
            except Exception as error:  # pycocotools raises many kinds, for an outline of two points too
                raise BadInput(
                    f"labels '{file}': an outline of {kind} on '{image.name}' cannot be drawn ({short(repr(error))}), "
                    "expected three corners or more: mend it, or take it out"
                ) from error
        return label


def _rasteriser() -> Any:
    """(outlines, height, width) → H x W bool."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise Missing(f"labels of polygons are drawn by pycocotools, which is not installed: {INSTALL}") from error

    def draw(outlines: Any, height: int, width: int) -> NDArray[np.bool_]:
        if isinstance(outlines, dict) and isinstance(outlines["counts"], str):
            codes = outlines
        else:
            codes = mask.frPyObjects(outlines, height, width)
        drawn = np.asarray(mask.decode(codes))
        inside: NDArray[np.bool_] = drawn.reshape(height, width, -1).max(axis=2, initial=0) > 0
        return inside

    return draw


def _labelme(file: Path, image: Path, shape: tuple[int, int]) -> list[Shape]:
    shapes: list[Shape] = []
    for one in parse_json(read_text(file, MEND, RECORDED))["shapes"]:
        points, kind = one["points"], one.get("shape_type", "polygon")
        if kind == "rectangle":
            (left, top), (right, bottom) = points
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        elif kind != "polygon":
            raise BadInput(f"labels '{file}' hold a {short(kind)}, expected polygons and rectangles: draw it as one")
        shapes.append((one["label"], [[float(value) for point in points for value in point]]))
    return shapes


def _yolo(file: Path, image: Path, shape: tuple[int, int]) -> list[Shape]:
    height, width = shape
    shapes: list[Shape] = []
    for number, line in enumerate(read_text(file, MEND, RECORDED).splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) < 7 or len(parts) % 2 == 0:
            kind = "a box" if len(parts) == 5 else f"{len(parts)} numbers"
            raise BadInput(f"labels '{file}' line {number} holds {kind}, expected a class and three or more corners")
        corners = np.array(parts[1:], dtype=np.float64).reshape(-1, 2) * (width, height)
        shapes.append((int(parts[0]), [corners.ravel().tolist()]))
    return shapes


def _coco(file: Path, image: Path, shape: tuple[int, int]) -> list[Shape]:
    by_name, categories = _coco_index(file, file.stat().st_mtime_ns)
    listed = by_name.get(image.name)
    if listed is None:
        raise BadInput(f"labels '{file}' do not list the image '{image.name}': list it, or leave the image out")
    shapes: list[Shape] = []
    for one in listed[_own_name(file, image, list(listed))]:
        outlines = one["segmentation"]
        if outlines:
            shapes.append((categories[one["category_id"]], outlines))
    return shapes


def _own_name(file: Path, image: Path, listed: list[PurePath]) -> PurePath:
    """Which of the listed file names that end alike is the image's: the longest that its path ends in.

    Raises:
        BadInput: none of several is.
    """
    if len(listed) == 1:  # labels often have other folders than the images have now
        return listed[0]
    its = [name for name in listed if image.parts[-len(name.parts) :] == name.parts]
    if not its:
        names = ", ".join(f"'{name.as_posix()}'" for name in listed[:3])
        raise BadInput(
            f"labels '{file}' list {len(listed)} images called '{image.name}' ({names}), and '{image}' ends in none of "
            "these: lay images out in the folders that file_name has"
        )
    return max(its, key=lambda name: len(name.parts))


@functools.lru_cache(maxsize=4)
def _coco_index(file: Path, changed: int) -> tuple[dict[str, dict[PurePath, list[Any]]], dict[int, str]]:
    """Annotations by an image's bare name and then its file_name, for frames are numbered anew in each folder; and
    category names by id. Read once for as long as the file is unchanged."""
    document = parse_json(read_text(file, MEND, RECORDED))
    names = {one["id"]: PurePath(one["file_name"]) for one in document["images"]}
    by_name: dict[str, dict[PurePath, list[Any]]] = {}
    for name in names.values():
        by_name.setdefault(name.name, {})[name] = []
    for one in document["annotations"]:
        name = names[one["image_id"]]
        by_name[name.name][name].append(one)
    return by_name, {one["id"]: one["name"] for one in document["categories"]}
