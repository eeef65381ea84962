"""Which views a training wants, and what they take: known and said before any is made."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.data import SegmentationDataset
from kdbench.data.normalisation import IMAGENET
from kdbench.data.remembered import fingerprint
from kdbench.errors import BadInput
from kdbench.models.registry import shared_levels
from kdbench.models.segmentation import SegmentationModel
from trainers.batches import labelled_indices
from trainers.images import Beside, TrainingImages
from trainers.networks import Teaching
from trainers.recipe import Recipe
from trainers.steps import teacher_taps
from trainers.views import IMAGES, LABELS, LOGITS, Part, ViewFolder


@dataclass(frozen=True)
class Wanted:
    """A training that asks for images, or for views of them.

    Attributes:
        folder: where the teacher's views lie.
        teaching: None where no method learns from a teacher.
        student: builds one, whose features a method compares with the teacher's; None = no method reads any.
    """

    dataset: SegmentationDataset
    recipe: Recipe
    device: torch.device
    beside: Beside
    folder: Path
    teaching: Teaching | None = None
    student: Callable[[], SegmentationModel] | None = None

    def images(self, beside: Beside) -> TrainingImages:
        return TrainingImages(self.dataset, self.recipe.view_size, self.recipe.images, self.device, beside)


def what_they_are_made_of(wanted: Wanted, images: TrainingImages) -> dict[str, Any]:
    """All that images and labels of views depend on; their number is none of it."""
    recipe, unlabelled = wanted.recipe, wanted.beside.unlabelled
    files = fingerprint(wanted.dataset, *([unlabelled] if unlabelled is not None else []))
    known = labelled_indices(images, recipe.labelled)
    return {
        "dataset": wanted.dataset.name, "files": files or contents(images), "images": images.count,
        "labelled": hashlib.sha256(repr(known).encode()).hexdigest(),
        "size": list(recipe.size), "view_size": list(recipe.view_size), "scale": [recipe.scale_min, recipe.scale_max],
        "flip": recipe.flip, "jitter": recipe.jitter, **({"cutmix": recipe.cutmix} if recipe.cutmix else {}),
    }  # fmt: skip


def contents(images: TrainingImages) -> str:
    """A hash of the images themselves, which no files hold."""
    digest = hashlib.sha256()
    for image, labels in images.batches([[index] for index in range(images.count)]):
        digest.update(image.cpu().numpy().tobytes())
        digest.update(labels.cpu().numpy().tobytes())
    return digest.hexdigest()


def parts_of(wanted: Wanted) -> list[Part]:
    """What is to be kept of every view."""
    return [*image_parts(wanted.recipe), *teacher_parts(wanted)]


def image_parts(recipe: Recipe) -> list[Part]:
    """The student's image as sums of whole levels, and its labels."""
    block = (recipe.view_size[0] // recipe.size[0]) ** 2
    dtype = "uint8" if block == 1 else "int16" if 255 * block < 2**15 else "int32"
    return [Part(IMAGES, IMAGES, (*recipe.size, 3), dtype), Part(LABELS, LABELS, tuple(recipe.size), "uint8")]


def teacher_parts(wanted: Wanted) -> list[Part]:
    """What the teacher says: logits as it has them, and features on the student's grid, to which losses bring them."""
    if wanted.teaching is None:
        return []
    teacher, device = wanted.teaching.model, wanted.device
    said = teacher_taps(teacher, torch.zeros(1, 3, *wanted.recipe.view_size, device=device), wanted.recipe)
    place = opinion(wanted)
    grids = {LOGITS: shape_of(said.logits)}
    if wanted.student is not None:
        student = wanted.student().eval()
        with torch.inference_mode():
            own = student.taps(torch.zeros(1, 3, *wanted.recipe.size)).features
        for level in shared_levels(own, said.features):
            grids[level] = (*own[level].shape[-2:], said.features[level].shape[1])
    return [
        Part(name, f"{place}/{name}-{grid[0]}x{grid[1]}x{grid[2]}", grid, "float16") for name, grid in grids.items()
    ]


def shape_of(maps: Tensor) -> tuple[int, int, int]:
    """H x W x channels of 1 x channels x H x W."""
    return maps.shape[2], maps.shape[3], maps.shape[1]


def opinion(wanted: Wanted) -> str:
    """The folder of what a teacher says, of just these weights and this precision."""
    assert wanted.teaching is not None
    return f"{teacher_name(wanted.teaching)}-{wanted.recipe.teacher_precision}"


def teacher_name(teaching: Teaching) -> str:
    """A teacher by its weights, and by its input unless that is ImageNet's, so that what was named before stays."""
    seen = teaching.model.input
    digest = hashlib.sha256(json.dumps(seen.as_json()).encode()).hexdigest()[:8]
    return f"teacher-{teaching.sidecar['sha256'][:12]}" + (f"-{digest}" if seen != IMAGENET else "")


def say_and_require_room(wanted: Wanted, folder: ViewFolder, parts: Sequence[Part]) -> None:
    """One line: what the views take, and what is left to be made of them.

    Raises:
        BadInput: the disk has less room than that.
    """
    views, count = wanted.recipe.views, folder.count
    missing = folder.missing(parts, views)
    total = sum(part.bytes for part in parts) * count * views
    needed = sum(part.bytes for lacking in missing.values() for part in lacking) * count
    passes = sum(any(part.teachers for part in lacking) for lacking in missing.values()) * count
    made = "made before"
    if missing:
        height, width = wanted.recipe.view_size
        of_teacher = f"{passes:,} passes of the teacher at {height}x{width}" if passes else "no pass of a teacher"
        made = f"made once, {size_text(needed)} to write and {of_teacher}"
    print(
        f"views: {count} images x {views}, {size_text(total)} in {folder.path.as_posix()}; {made}; all seeds and "
        "methods train on the same views"
    )
    folder.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise BadInput(
            f"--views {views}: {size_text(needed)} are to be written to '{folder.path}', which has room for "
            f"{size_text(free)}: make room, give fewer --views, or name another --runs"
        )


def size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
