"""Augmented views that were made once: the files that hold them, and batches of what is in them.

A view of an image is a random zoom, crop and flip of it at the teacher's size, its pixels rounded to whole levels as in
any image file. Kept are the student's image, its labels, and what the teacher said of the view: its logits, and where
a method reads them features, in float16. Contrast and colour are few numbers, which are drawn again.

Nothing of the student's image is rounded when it is kept: where the teacher's is larger, kept are the sums of those
levels that each pixel is the mean of. Were images kept as float16, losses would agree to four digits all the same, but
the gradient of a fresh student would differ by a tenth of its length.

Which view an image has depends on its place in the dataset and the view's number alone: all seeds, methods and students
share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdbench.data.normalisation import Input
from kdbench.errors import KdbenchError
from kdbench.models.segmentation import Taps
from kdbench.runs.files import SCHEMA_VERSION, read_json, write_json
from trainers.augmentation import Augmentation, draw, shown_to
from trainers.cutmix import Pastes, draw_pastes
from trainers.recipe import MAX_VIEWS, Recipe

IMAGES, LABELS, LOGITS = "images", "labels", "logits"
INDEX = "views.json"


class Shown(NamedTuple):
    """An image of the training split, and the number of the view that is shown of it."""

    image: int
    view: int


@dataclass(frozen=True)
class Part:
    """What is kept of every view, a file for each.

    Attributes:
        name: "images", "labels", "logits", or a level of features.
        place: of the files below the folder of the views, without number and suffix.
        shape: of one image's: H x W x channels, or H x W of labels.
        dtype: as NumPy calls it.
    """

    name: str
    place: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def teachers(self) -> bool:
        """Whether the teacher said it."""
        return self.name not in (IMAGES, LABELS)

    @property
    def bytes(self) -> int:
        """Of one image's."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def file(self, view: int) -> str:
        return f"{self.place}-{view:03d}.npy"


@dataclass(frozen=True)
class ViewFolder:
    """The files of views of ``count`` images, and ``views.json``, which lists those that are whole."""

    path: Path
    count: int

    def index(self) -> dict[str, dict[str, Any]]:
        """File → {"bytes", "sha256"}, of the files that are there as they were written."""
        with suppress(KdbenchError):  # none yet, or a damaged one: what it listed is made anew
            listed = read_json(self.path / INDEX, "kdbench train").get("files")
            if isinstance(listed, dict):
                return {name: about for name, about in listed.items() if self._is_there(name, about)}
        return {}

    def _is_there(self, name: str, about: dict[str, Any]) -> bool:
        try:
            return (self.path / name).stat().st_size == about["bytes"]
        except OSError:
            return False

    def add(self, files: dict[str, dict[str, Any]], made_of: dict[str, Any]) -> None:
        """List files that were written."""
        document = {"schema_version": SCHEMA_VERSION, "kind": "views", "made_of": made_of}
        write_json(self.path / INDEX, {**document, "files": {**self.index(), **files}})

    def missing(self, parts: Sequence[Part], views: int) -> dict[int, list[Part]]:
        """View → parts of it that are not there."""
        index = self.index()
        lacks = {view: [part for part in parts if part.file(view) not in index] for view in range(views)}
        return {view: lacking for view, lacking in lacks.items() if lacking}


def drawn_view(count: int, view: int, recipe: Recipe) -> Augmentation:
    """How each of ``count`` images is augmented in a view: whatever the seed of the training."""
    return draw(count, recipe, torch.Generator().manual_seed(view))


def pasted_view(count: int, view: int, recipe: Recipe, labelled: Sequence[int]) -> Pastes:
    """What is pasted into each of ``count`` images in a view, of other images' views of that number.

    Labelled images take it from one another alone, because the baseline is shown them.
    """
    return draw_pastes(count, recipe, torch.Generator().manual_seed(MAX_VIEWS + view), labelled)


class Views:
    """Views that are there, read row by row from the disk, or from the GPU's memory where they have room in it.

    Args:
        parts: images and labels, and what the teacher said if any method learns from it.
        recipe: sizes, number of views and augmentation are read from it.
        device: where batches are put.
    """

    def __init__(self, folder: ViewFolder, parts: Sequence[Part], recipe: Recipe, device: torch.device) -> None:
        self.folder, self.parts, self.recipe, self.device = folder, parts, recipe, device
        total = sum(part.bytes for part in parts) * folder.count * recipe.views
        kept_at = device if device.type == "cuda" and total < torch.cuda.mem_get_info(device)[0] / 2 else "cpu"
        self._kept = {
            # Mapped as "c", private and writable, because torch warns of arrays that cannot be written.
            part.name: [
                torch.from_numpy(np.load(folder.path / part.file(view), mmap_mode="c")).to(kept_at)
                for view in range(recipe.views)
            ]
            for part in parts
        }
        drawn = [drawn_view(folder.count, view, recipe) for view in range(recipe.views)]
        self._drawn = Augmentation(*(torch.stack(values).to(device) for values in zip(*drawn, strict=True)))
        self._block = (recipe.view_size[0] // recipe.size[0]) ** 2

    def fields(self) -> dict[str, Any]:
        """What sidecars say: how many there are of an image, and a hash over all images and labels of them."""
        index = self.folder.index()
        digest = hashlib.sha256()
        for view in range(self.recipe.views):
            for part in self.parts:
                if not part.teachers:
                    digest.update(index[part.file(view)]["sha256"].encode())
        return {"count": self.recipe.views, "sha256": digest.hexdigest()}

    def batches(
        self, chunks: Sequence[Sequence[Shown]], wanted: Input, *, taught: bool
    ) -> Iterator[tuple[Tensor, Tensor, Taps | None]]:
        """``batch`` of each chunk, made ready while the one before is in use."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            coming = None
            for chunk in chunks:
                now, coming = coming, pool.submit(self.batch, chunk, wanted, taught=taught)
                if now is not None:
                    yield now.result()
            if coming is not None:
                yield coming.result()

    def batch(self, shown: Sequence[Shown], wanted: Input, *, taught: bool) -> tuple[Tensor, Tensor, Taps | None]:
        """What a step trains on.

        Args:
            wanted: how images are normalised.
            taught: whether what the teacher said is read.

        Returns:
            images N x 3 x H x W float32 (channels-last), labels N x H x W int64, and the teacher's taps in float32.
        """
        at = tuple(
            torch.tensor(values).to(self.device) for values in ([s.view for s in shown], [s.image for s in shown])
        )
        drawn = Augmentation(*(values[at] for values in self._drawn))
        levels = self._rows(IMAGES, shown).float() / self._block
        images = shown_to(wanted, levels.permute(0, 3, 1, 2), drawn)
        labels = self._rows(LABELS, shown).long()
        if not taught:
            return images, labels, None
        said = {
            part.name: self._rows(part.name, shown).float().permute(0, 3, 1, 2) for part in self.parts if part.teachers
        }
        return images, labels, Taps(said.pop(LOGITS), said)

    def _rows(self, name: str, shown: Sequence[Shown]) -> Tensor:
        """A part of each view that is shown, on the device."""
        kept = self._kept[name]
        found = torch.empty(len(shown), *kept[0].shape[1:], dtype=kept[0].dtype, device=kept[0].device)
        for view in {one.view for one in shown}:
            rows = [row for row, one in enumerate(shown) if one.view == view]
            indices = [shown[row].image for row in rows]
            found[rows] = kept[view][indices]
        return found.to(self.device)
