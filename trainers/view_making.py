"""Making views: what they take is said and looked for before, and what an interruption left whole is kept."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch.nn.functional as F
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data.normalisation import IMAGENET
from kdbench.data.preprocessing import Size
from kdbench.errors import RunFailed
from kdbench.models.pixels import resize
from kdbench.models.segmentation import Taps
from kdbench.progress import progress_bar
from kdbench.runs.beside import remove_leftovers
from kdbench.runs.files import atomic_path
from kdbench.runs.folder import RunFolder
from trainers.augmentation import Augmentation, centre, moved, moves, rows_of, shown_to, statistics, to_device
from trainers.batches import hide_labels, labelled_indices
from trainers.cutmix import paste, with_sources
from trainers.images import TrainingImages
from trainers.processes import is_main, wait_for_all
from trainers.steps import teacher_taps
from trainers.views import IMAGES, LABELS, LOGITS, Part, ViewFolder, Views, drawn_view, pasted_view
from trainers.views_wanted import Wanted, parts_of, say_and_require_room, size_text, teacher_name, what_they_are_made_of

POLL_SECONDS = 0.5


def images_and_views(wanted: Wanted) -> tuple[TrainingImages, Views | None]:
    """The training images, and views of them where the recipe asks for any: those that are there, or made now.

    Where no view has to be made, no image is decoded.

    Raises:
        BadInput: the disk has not the room. RunFailed: it cannot be written.
    """
    if not wanted.recipe.views:
        return wanted.images(wanted.beside), None
    images = wanted.images(replace(wanted.beside, memory=0))
    made_of = what_they_are_made_of(wanted, images)
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    folder = ViewFolder(wanted.folder / key, images.count)
    parts = parts_of(wanted)
    if is_main():
        with one_at_a_time(wanted.folder):
            missing = folder.missing(parts, wanted.recipe.views)
            if missing:
                clear_up(wanted, folder)
            say_and_require_room(wanted, folder, parts)
            if missing:
                make(wanted, folder, missing, made_of)
    while folder.missing(parts, wanted.recipe.views):  # no barrier: those have a time limit
        time.sleep(POLL_SECONDS)
    wait_for_all()
    return images, Views(folder, parts, wanted.recipe, wanted.device)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for another training that makes views here."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(RunFolder(folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"kdbench: waiting for another training that makes views in '{folder}'", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def clear_up(wanted: Wanted, folder: ViewFolder) -> None:
    """Remove what an earlier teacher said, in whose place another stands now, and name views of other settings."""
    place = wanted.folder
    if wanted.teaching is not None:
        now = teacher_name(wanted.teaching)
        old = [path for path in place.glob("*/teacher-*") if not path.name.startswith(now)]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        if old:
            print("kdbench: views: the teacher is another now: what the one before said is removed", file=sys.stderr)
    others = sorted(path for path in place.iterdir() if path.is_dir() and path != folder.path)
    if others:
        names = ", ".join(f"'{path}' ({size_text(size_of(path))})" for path in others)
        print(
            f"kdbench: views of other data or settings are kept: {names}: remove them when no training needs them",
            file=sys.stderr,
        )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make(wanted: Wanted, folder: ViewFolder, missing: dict[int, list[Part]], made_of: dict[str, Any]) -> None:
    """Write the missing parts, view by view."""
    images = wanted.images(wanted.beside)
    with progress_bar("views", len(missing) * images.count) as bar:
        for view, parts in missing.items():
            with ExitStack() as stack:
                files = {
                    part: stack.enter_context(row_file(folder.path / part.file(view), part, images.count))
                    for part in parts
                }
                for rows in one_view(wanted, images, view, {part.name: part.shape for part in parts}):
                    for part, file in files.items():
                        file.write(rows[part.name])
                    bar.advance(len(rows[parts[0].name]))
            folder.add({part.file(view): file.about() for part, file in files.items()}, made_of)


def one_view(
    wanted: Wanted, images: TrainingImages, view: int, shapes: dict[str, tuple[int, ...]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Rows of a view, batch after batch, in the dataset's order: part → N x its shape."""
    recipe = wanted.recipe
    factor = recipe.view_size[0] // recipe.size[0]
    labelled = labelled_indices(images, recipe.labelled)
    known = set(labelled)
    middle = slice(factor // 2, None, factor)
    indices = range(images.count)
    chunks = [list(indices[at : at + recipe.batch_size]) for at in range(0, images.count, recipe.batch_size)]
    whole, pastes = drawn_view(images.count, view, recipe), pasted_view(images.count, view, recipe, labelled)
    made = [with_sources(chunk, pastes) for chunk in chunks]
    needed = [rows for rows, _ in made]
    drawn = to_device([rows_of(whole, rows) for rows in needed], wanted.device)
    pasted = to_device([of_rows for _, of_rows in made], wanted.device)
    for step, (pixels, labels) in enumerate(images.batches(needed)):
        hide_labels(labels, needed[step], known)
        levels, target = paste(*whole_levels(pixels, labels, drawn[step], resample=moves(whole)), pasted[step])
        shade = rows_of(drawn[step], slice(len(target)))
        rows = {
            IMAGES: maps_last(F.avg_pool2d(levels, factor) * factor**2 if factor > 1 else levels).round(),
            LABELS: target[:, middle, middle],
        }
        if wanted.teaching is not None and set(shapes) - set(rows):
            teacher = wanted.teaching.model
            said = teacher_taps(teacher, shown_to(teacher.input, levels, shade), recipe)
            rows |= kept_of(said, shapes)
        yield {name: rows[name].cpu().numpy() for name in shapes}


def whole_levels(pixels: Tensor, labels: Tensor, drawn: Augmentation, *, resample: bool) -> tuple[Tensor, Tensor]:
    """Views of N x 3 x H x W RGB images in whole levels from 0 to 255, as float32, and their N x H x W int64 labels."""
    centred, target = moved(centre(pixels, IMAGENET), labels, drawn, resample)
    levels = centred.add(statistics(pixels.device, IMAGENET)[0]).round_().clamp_(0, 255)
    return levels, target


def kept_of(said: Taps, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Logits and features in float16, N x H x W x channels on the grids that are asked for.

    Raises:
        RunFailed: a value has no place in float16.
    """
    kept = {}
    for name, maps in {LOGITS: said.logits, **said.features}.items():
        if name in shapes:
            grid: Size = shapes[name][0], shapes[name][1]
            kept[name] = maps_last(resize(maps, maps.new_empty(1, 1, *grid))).half()
            if not kept[name].isfinite().all():
                raise RunFailed(
                    f"--views: the teacher's {name} reach {maps.abs().max().item():.3g}, expected at most 65504, which "
                    "float16 holds: train without --views"
                )
    return kept


def maps_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).contiguous()


class RowFile:
    """A .npy file of a part of a view, which is written row by row and hashed on the way."""

    def __init__(self, file: BinaryIO, part: Part, count: int) -> None:
        self._file, self._dtype = file, np.dtype(part.dtype)
        self._digest, self._bytes = hashlib.sha256(), 0
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (count, *part.shape)}
        np.lib.format.write_array_header_1_0(header, described)
        self._put(header.getvalue())

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def write(self, rows: NDArray[Any]) -> None:
        self._put(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())

    def about(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


@contextmanager
def row_file(path: Path, part: Part, count: int) -> Iterator[RowFile]:
    """A file that is there when the block ends, or not at all."""
    remove_leftovers(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield RowFile(file, part, count)
