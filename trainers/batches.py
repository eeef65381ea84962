"""Training batches: augmentation runs on whole batches of tensors, on the device that trains.

Which images a batch holds and how they are augmented depends on (seed, epoch) alone, so every method sees the same
pixels in the same order, and a resumed run sees what it would have seen. Several processes share each batch.

Images without labels are those that a recipe's ``labelled`` leaves out of the split, and those that were never labelled
(``--unlabelled``). Two kinds of batches come from such data, with the same number of steps of the same size: those of
the labelled images alone, which a baseline trains on, and mixed ones, which distilled methods train on: all images in
one shuffled order, so that a step holds labelled images in the share that they have of all, or as many without labels
in every step as ``unlabelled_share`` says. Every pixel of an image without labels has the label 254, but for padding,
which has 255 as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.labels import IGNORE, UNLABELLED
from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput
from trainers.images import TrainingImages
from trainers.processes import rank, world_size
from trainers.recipe import Recipe


class Batch(NamedTuple):
    """What one step trains on.

    Attributes:
        images: N x 3 x H x W float32, normalised, channels-last.
        labels: N x H x W int64, 255 = ignore (padding included), 254 = no label.
        view: what the teacher sees: ``images``, or at a larger size the view that they are the exact reduction of.
    """

    images: Tensor
    labels: Tensor
    view: Tensor


class TrainingBatches:
    """Batches of a training split by a recipe.

    Args:
        images: the split at the recipe's ``view_size``.
        recipe: size, batch size, seed and augmentation are read from it.
        unlabelled: whether images without labels are among them.
        wanted: how the networks that train on them want images normalised.
        view: how the teacher wants them; None = the same.
    """

    def __init__(
        self,
        images: TrainingImages,
        recipe: Recipe,
        *,
        unlabelled: bool = False,
        wanted: Input = IMAGENET,
        view: Input | None = None,
    ) -> None:
        self.recipe, self.device, self._images, self._wanted = recipe, images.device, images, wanted
        self._view = view or wanted
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
        size, mine = self.batch_size, slice(rank(), None, world_size())
        chunks = [chunk[mine] for chunk in self._chunks(generator)]
        drawn = [draw(size, self.recipe, generator) for _ in chunks]
        drawn = [Augmentation(*(values[mine] for values in one)) for one in drawn]
        moved = to_device(drawn, self.device)
        known = set(self.labelled)
        for step, (images, labels) in enumerate(self._images.batches(chunks)):
            if len(known) < self._images.count:
                blind = [row for row, index in enumerate(chunks[step]) if index not in known]
                labels[blind] = UNLABELLED
            yield self._batch(*augment(images, labels, moved[step], moves(drawn[step]), self._wanted))

    def _chunks(self, generator: torch.Generator) -> list[list[int]]:
        """The images of each step of an epoch."""
        known, size = set(self.labelled), self.batch_size
        parts = [(list(self.indices), size)]
        if self._without:
            without = [index for index in self.indices if index not in known]
            parts = [(self.labelled, size - self._without), (without, self._without)]
        queues = []
        for indices, count in parts:
            order: list[int] = []
            while len(order) < count * self.steps_per_epoch:
                order += [indices[i] for i in torch.randperm(len(indices), generator=generator)]
            queues.append((order, count))
        return [
            [index for order, count in queues for index in order[step * count : (step + 1) * count]]
            for step in range(self.steps_per_epoch)
        ]

    def _batch(self, view: Tensor, labels: Tensor) -> Batch:
        factor = view.shape[2] // self.recipe.size[0]
        shown = converted(view, self._wanted, self._view)
        if factor == 1:
            return Batch(view, labels, shown)
        middle = slice(factor // 2, None, factor)
        return Batch(F.avg_pool2d(view, factor), labels[:, middle, middle].contiguous(), shown)


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


class Augmentation(NamedTuple):
    """What happens to each of N images; on the CPU, whatever the device, so that a run is the same on both.

    Attributes:
        zoom: N, above 1 is closer.
        mirror: N, −1 for the images that are flipped, else 1.
        shift: N x 2, of the source's centre in x and y; the source spans −1 to 1.
        contrast, shade: N x 1 x 1 x 1 factor, and N x 3 x 1 x 1 summand of brightness and colour, of normalised pixels.
    """

    zoom: Tensor
    mirror: Tensor
    shift: Tensor
    contrast: Tensor
    shade: Tensor


def draw(n: int, recipe: Recipe, generator: torch.Generator) -> Augmentation:
    """Random zoom with crop or padding, flip, and colour jitter, by the recipe."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    low, high = math.log(recipe.scale_min), math.log(recipe.scale_max)
    zoom = torch.exp(low + (high - low) * uniform(n))
    mirror = torch.where(uniform(n) < 0.5, -1.0, 1.0) if recipe.flip else torch.ones(n)
    shift = (2 * uniform(n, 2) - 1) * (1 - 1 / zoom).abs()[:, None]
    contrast, shade = torch.ones(n, 1, 1, 1), torch.zeros(n, 3, 1, 1)
    if recipe.jitter > 0:
        contrast = 1 + recipe.jitter * (2 * uniform(n, 1, 1, 1) - 1)
        brightness = recipe.jitter * (2 * uniform(n, 1, 1, 1) - 1)
        shade = brightness + 0.5 * recipe.jitter * (2 * uniform(n, 3, 1, 1) - 1)
    return Augmentation(zoom, mirror, shift, contrast, shade)


def moves(drawn: Augmentation) -> bool:
    """Whether any pixel changes its place."""
    return bool((drawn.zoom != 1).any() or (drawn.mirror != 1).any())


def to_device(drawn: list[Augmentation], device: torch.device) -> list[Augmentation]:
    """The same on ``device``, by one copy of each field for all steps of an epoch."""
    if device.type == "cpu":
        return drawn
    fields = [torch.stack(values).pin_memory().to(device, non_blocking=True) for values in zip(*drawn, strict=True)]
    return [Augmentation(*(values[step] for values in fields)) for step in range(len(drawn))]


@lru_cache
def statistics(device: torch.device, wanted: Input) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels from 0 to 255, each 1 x 3 x 1 x 1: made once, a copy makes a GPU wait."""
    mean, std = (
        wanted.scale * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (wanted.mean, wanted.std)
    )
    return mean, std


@lru_cache
def conversion(device: torch.device, made: Input, wanted: Input) -> tuple[Tensor, Tensor]:
    """(factor, summand), each 1 x 3 x 1 x 1, that turn images normalised as ``made`` into ``wanted``, in its order."""
    (mean, std), (other_mean, other_std) = statistics(device, made), statistics(device, wanted)
    if made.space != wanted.space:
        mean, std = mean.flip(1), std.flip(1)
    return std / other_std, (mean - other_mean) / other_std


def converted(images: Tensor, made: Input, wanted: Input) -> Tensor:
    """The same images normalised for another network; N x 3 x H x W."""
    if made == wanted:
        return images
    factor, summand = conversion(images.device, made, wanted)
    ordered = images if made.space == wanted.space else images.flip(1)
    turned = torch.addcmul(summand, ordered, factor)
    return turned.contiguous(memory_format=torch.channels_last)


def augment(
    images: Tensor, labels: Tensor, drawn: Augmentation, resample: bool, wanted: Input = IMAGENET
) -> tuple[Tensor, Tensor]:
    """Normalise and augment, with one resampling for the whole batch.

    Args:
        images: N x 3 x H x W uint8.
        labels: N x H x W uint8.
        drawn: on the images' device.
        resample: whether ``drawn`` moves any pixel; given, because looking makes a GPU wait.
        wanted: how the images are normalised.

    Returns:
        images (float32, normalised, channels-last) and labels (int64); pixels outside the source are 0 and 255.
    """
    n, _, height, width = images.shape
    device = images.device
    mean, std = statistics(device, wanted)
    pixels = (images.flip(1) if wanted.turns_channels else images).float().sub_(mean)
    if resample:
        # Output coordinates in [-1, 1] → source coordinates: x' = mirror/zoom · x + shift
        x, y = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (width, height))
        grid = torch.empty(n, height, width, 2, device=device)
        grid[..., 0] = ((drawn.mirror / drawn.zoom)[:, None] * x + drawn.shift[:, :1])[:, None, :]
        grid[..., 1] = ((1 / drawn.zoom)[:, None] * y + drawn.shift[:, 1:])[:, :, None]
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # +1, because what lies outside is sampled as 0
        shifted = F.grid_sample(labels[:, None].float().add_(1), grid, mode="nearest", align_corners=False)
        target = shifted[:, 0].long().sub_(1)
        target.masked_fill_(target < 0, IGNORE)
    else:
        target = labels.long()
    shade = drawn.shade
    if wanted != IMAGENET:  # what is drawn is in units of ImageNet's std
        shade = shade * statistics(device, IMAGENET)[1]
        shade = (shade.flip(1) if wanted.turns_channels else shade) / std
    pixels = torch.addcmul(shade, pixels, drawn.contrast / std)
    return pixels.contiguous(memory_format=torch.channels_last), target
