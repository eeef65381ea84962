"""Training batches: augmentation runs on whole batches of tensors, on the device that trains.

Which images a batch holds and how they are augmented depends on (seed, epoch) alone, so every method sees the same
pixels in the same order, and a resumed run sees what it would have seen. Several processes share each batch.

Images without labels are those that a recipe's ``labelled`` leaves out of the split, and those that were never labelled
(``--unlabelled``). Two kinds of batches come from such data, with the same number of steps of the same size: those of
the labelled images alone, which a baseline trains on, and mixed ones, which distilled methods train on: all images in
one shuffled order, so that a step holds labelled images in the share that they have of all, or as many without labels
in every step as ``unlabelled_share`` says. Every pixel of an image without labels has the label 254, but for padding,
which has 255 as everywhere.

With ``cutmix`` in the recipe a rectangle of another image of the step is pasted into some, drawn after all else, so
that images and their augmentation are those of a training without; a process then also makes the images of others that
its own have rectangles of. Labels that are not used travel as 254. A baseline's rectangles are of labelled images.

With ``views`` in the recipe the augmented images come from the disk (``trainers.views``), in the same order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.labels import UNLABELLED
from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput
from kdbench.models.segmentation import Taps
from trainers.augmentation import augment, converted, draw, moves, rows_of, to_device
from trainers.cutmix import Pastes, draw_pastes, with_sources
from trainers.images import TrainingImages
from trainers.processes import rank, world_size
from trainers.recipe import Recipe
from trainers.views import Shown, Views


class Batch(NamedTuple):
    """What one step trains on.

    Attributes:
        images: N x 3 x H x W float32, normalised, channels-last.
        labels: N x H x W int64, 255 = ignore (padding included), 254 = no label.
        view: what the teacher sees: ``images``, or at a larger size the view that they are the exact reduction of.
        taps: what the teacher said of it when views were made; None = it is asked now.
    """

    images: Tensor
    labels: Tensor
    view: Tensor
    taps: Taps | None = None


class TrainingBatches:
    """Batches of a training split by a recipe.

    Args:
        images: the split at the recipe's ``view_size``.
        recipe: size, batch size, seed and augmentation are read from it.
        unlabelled: whether images without labels are among them.
        wanted: how the networks that train on them want images normalised.
        view: how the teacher wants them; None = there is none.
        views: made before, in place of augmentation anew.
    """

    def __init__(
        self,
        images: TrainingImages,
        recipe: Recipe,
        *,
        unlabelled: bool = False,
        wanted: Input = IMAGENET,
        view: Input | None = None,
        views: Views | None = None,
    ) -> None:
        self.recipe, self.device, self._images, self._wanted = recipe, images.device, images, wanted
        self._view, self._views, self._taught = view or wanted, views, view is not None
        name = images.dataset.name
        if images.count < 2:
            raise BadInput(f"dataset '{name}': {images.count} training images, expected at least 2")
        if min(images.count, recipe.batch_size) < world_size():
            raise BadInput(
                f"--batch-size: got {recipe.batch_size} (of {images.count} images) for {world_size()} processes, "
                "expected at least one image for each: it is the batch of all processes together"
            )
        self.labelled = labelled_indices(images, recipe.labelled)
        self.indices = range(images.count) if unlabelled else self.labelled
        self.batch_size = min(recipe.batch_size, images.count)
        self.steps_per_epoch = max(1, images.count // recipe.batch_size)
        mixed = unlabelled and len(self.labelled) < images.count and recipe.unlabelled_share is not None
        self._without = round(self.batch_size * (recipe.unlabelled_share or 0)) if mixed else 0
        """Images without labels in every step; 0 = as they come."""
        if mixed and not 0 < self._without < self.batch_size:
            raise BadInput(
                f"unlabelled_share: got {recipe.unlabelled_share:g} of {self.batch_size} images a step, which is "
                f"{self._without} without labels, expected at least one with and one without: name another share, or a "
                "larger batch_size"
            )

    @property
    def step_images(self) -> dict[str, float]:
        """What a step holds, mean over steps: labelled images, and images without labels."""
        labelled = self.batch_size * len(self.labelled) / len(self.indices)
        if self._without:
            labelled = self.batch_size - self._without
        return {"labelled": round(labelled, 3), "unlabelled": round(self.batch_size - labelled, 3)}

    @property
    def labelled_names(self) -> list[str]:
        return [self._images.dataset.name_of(index) for index in self.labelled]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._images.dataset.classes)

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Of cross-entropy, where the recipe asks for them, by the labelled images: C float."""
        return self._images.class_frequencies(self.labelled) if self.recipe.class_weights else None

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The augmented batches of one epoch, of each the rows that this process trains on.

        A last, smaller batch is left out: its BatchNorm statistics would be noise.
        """
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        own = slice(rank(), None, world_size())
        whole = self._chunks(generator)
        if self._views is not None:
            shown = [chunk[own] for chunk in self._shown(whole, epoch)]
            for images, labels, taps in self._views.batches(shown, self._wanted, taught=self._taught):
                yield Batch(images, labels, images, taps)
            return
        drawn = [draw(self.batch_size, self.recipe, generator) for _ in whole]
        made = self._made(range(self.batch_size)[own], len(whole), generator)
        chunks = [[chunk[row] for row in rows] for chunk, (rows, _) in zip(whole, made, strict=True)]
        drawn = [rows_of(one, rows) for one, (rows, _) in zip(drawn, made, strict=True)]
        moved = to_device(drawn, self.device)
        known = set(self.labelled)
        for step, (images, labels) in enumerate(self._images.batches(chunks)):
            hide_labels(labels, chunks[step], known)
            yield self._batch(*augment(images, labels, moved[step], moves(drawn[step]), self._wanted, made[step][1]))

    def _made(
        self, own: Sequence[int], steps: int, generator: torch.Generator
    ) -> list[tuple[list[int], Pastes | None]]:
        """For each step the rows that this process makes, its own first, and what is pasted into its own."""
        if not self.recipe.cutmix:
            return [(list(own), None)] * steps
        made = [with_sources(own, draw_pastes(self.batch_size, self.recipe, generator)) for _ in range(steps)]
        pastes = to_device([pastes for _, pastes in made], self.device)
        return [(rows, of_rows) for (rows, _), of_rows in zip(made, pastes, strict=True)]

    def _queues(self) -> list[tuple[list[int], int]]:
        """Images that are shown in turn, and how many of them every step holds."""
        known, size = set(self.labelled), self.batch_size
        if not self._without:
            return [(list(self.indices), size)]
        without = [index for index in self.indices if index not in known]
        return [(self.labelled, size - self._without), (without, self._without)]

    def _chunks(self, generator: torch.Generator) -> list[list[int]]:
        """The images of each step of an epoch."""
        queues = []
        for indices, count in self._queues():
            order: list[int] = []
            while len(order) < count * self.steps_per_epoch:
                order += [indices[i] for i in torch.randperm(len(indices), generator=generator)]
            queues.append((order, count))
        return [
            [index for order, count in queues for index in order[step * count : (step + 1) * count]]
            for step in range(self.steps_per_epoch)
        ]

    def _shown(self, chunks: list[list[int]], epoch: int) -> list[list[Shown]]:
        """Which view of each image is shown: the next one whenever its turn comes, also within an epoch."""
        turns = {
            index: math.ceil(count * self.steps_per_epoch / len(indices))
            for indices, count in self._queues()
            for index in indices
        }
        before: Counter[int] = Counter()
        shown: list[list[Shown]] = []
        for chunk in chunks:
            shown.append([])
            for index in chunk:
                shown[-1].append(Shown(index, (epoch * turns[index] + before[index]) % self.recipe.views))
                before[index] += 1
        return shown

    def _batch(self, view: Tensor, labels: Tensor) -> Batch:
        factor = view.shape[2] // self.recipe.size[0]
        shown = converted(view, self._wanted, self._view)
        if factor == 1:
            return Batch(view, labels, shown)
        middle = slice(factor // 2, None, factor)
        return Batch(F.avg_pool2d(view, factor), labels[:, middle, middle].contiguous(), shown)


def hide_labels(labels: Tensor, indices: list[int], known: set[int]) -> None:
    """Say of every pixel of the images that are not ``known`` that it has no label; N x H x W, in place."""
    if blind := [row for row, index in enumerate(indices) if index not in known]:
        labels[blind] = UNLABELLED


def labelled_indices(images: TrainingImages, labelled: float | str) -> list[int]:
    """Which images' labels are used, in order.

    Args:
        labelled: a share, or a list file that names them.

    Raises:
        BadInput: the file cannot be read, or names an image that the split lacks, or fewer than two.
    """
    if not isinstance(labelled, str):
        return evenly_spaced(images.with_masks, labelled)
    try:
        lines = Path(labelled).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--labelled: list file '{labelled}' cannot be read ({error}): name a share, as 0.25, or a text file"
        ) from error
    asked = [Path(line.strip()).name for line in lines if line.strip() and not line.startswith("#")]
    by_name = {images.dataset.name_of(index): index for index in range(images.with_masks)}
    found = {name: by_name.get(name, by_name.get(Path(name).stem)) for name in asked}
    if unknown := [name for name, index in found.items() if index is None]:
        raise BadInput(
            f"--labelled: '{labelled}' names {len(unknown)} images that the training split lacks (first "
            f"'{unknown[0]:.80}'), expected names of its {images.with_masks} images: mend the list"
        )
    if len(found) < 2:
        raise BadInput(f"--labelled: '{labelled}' names {len(found)} images, expected at least 2")
    return sorted(index for index in found.values() if index is not None)


def evenly_spaced(count: int, share: float) -> list[int]:
    """At least two of 0 … count − 1, evenly spaced from 0 on: ``share`` of them, rounded."""
    chosen = max(2, round(count * share))
    return [index * count // chosen for index in range(chosen)]
