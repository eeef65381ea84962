"""Training batches: every image is decoded and resized once, augmentation runs on whole batches of tensors.

Which images a batch holds and how they are augmented depends on (seed, epoch) alone, so every method sees the same
pixels in the same order, and a resumed run sees what it would have seen. Several processes share each batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import SegmentationDataset
from kdbench.data.preprocessing import MEAN, STD, resize_image, resize_label
from kdbench.errors import BadInput
from kdbench.metrics import IGNORE
from kdbench.progress import progress_bar
from trainers.processes import rank, world_size

if TYPE_CHECKING:  # loops are measured where pydantic is missing
    from trainers.recipe import Recipe

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class TrainingBatches:
    """A training split at the recipe's size.

    Decoded images stay in memory when they take less than half of what is free, else they are decoded when needed.

    Args:
        dataset: the training split.
        recipe: size, batch size, seed and augmentation are read from it.
        device: where batches are made and returned.
    """

    def __init__(self, dataset: SegmentationDataset, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self._dataset = recipe, device, dataset
        self.images = min(len(dataset), recipe.images or len(dataset))
        if self.images < 2:
            raise BadInput(f"dataset '{dataset.name}': {self.images} training images, expected at least 2")
        if min(self.images, recipe.batch_size) < world_size():
            raise BadInput(
                f"--batch-size: got {recipe.batch_size} (of {self.images} images) for {world_size()} processes, "
                "expected at least one image for each: it is the batch of all processes together"
            )
        self.steps_per_epoch = max(1, self.images // recipe.batch_size)
        height, width = recipe.size
        self._cache: list[Arrays] | None = None
        # Every process may need every image, and the processes of a machine start at the same time.
        if self.images * height * width * 4 * world_size() < psutil.virtual_memory().available / 2:
            with ThreadPoolExecutor() as pool, progress_bar(f"decode {dataset.name}", self.images) as bar:
                self._cache = []
                for arrays in pool.map(self._decode, range(self.images)):
                    self._cache.append(arrays)
                    bar.advance()

    def _decode(self, index: int) -> Arrays:
        sample = self._dataset[index]
        return resize_image(sample.image, self.recipe.size), resize_label(sample.label, self.recipe.size)

    def class_frequencies(self) -> Tensor:
        """Median-frequency weights, capped at 5 and 0 for a class without pixels: C float (Eigen & Fergus 2015)."""
        classes = len(self._dataset.classes)
        counts = np.zeros((2, classes))  # pixels of the class; valid pixels of the images that have the class
        for index in range(self.images):
            _, label = self._cache[index] if self._cache else self._decode(index)
            pixels = np.bincount(label[label != IGNORE], minlength=classes)
            counts[0] += pixels
            counts[1] += np.where(pixels > 0, pixels.sum(), 0)
        frequency = np.divide(counts[0], counts[1], out=np.zeros(classes), where=counts[1] > 0)
        median = np.median(frequency[frequency > 0])
        weights = np.divide(median, frequency, out=np.zeros(classes), where=frequency > 0)
        return torch.tensor(weights.clip(max=5.0), dtype=torch.float32)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The augmented batches of one epoch, of each the rows that this process trains on.

        A last, smaller batch is left out: its BatchNorm statistics would be noise.

        Yields:
            images: N x 3 x H x W float32, normalised, channels-last.
            labels: N x H x W int64, 255 = ignore (padding included).
        """
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(self.images, generator=generator).tolist()
        size = min(self.recipe.batch_size, self.images)
        chunks = [order[step * size : (step + 1) * size] for step in range(self.steps_per_epoch)]
        mine = slice(rank(), None, world_size())
        with ThreadPoolExecutor(max_workers=2) as pool:
            # One batch ahead: the next one is gathered (and decoded, if need be) while the current one trains.
            following = pool.submit(self._gather, chunks[0][mine])
            for step in range(self.steps_per_epoch):
                images, labels = following.result()
                if step + 1 < self.steps_per_epoch:
                    following = pool.submit(self._gather, chunks[step + 1][mine])
                drawn = draw(size, self.recipe, generator)
                rows = Augmentation(*(values[mine] for values in drawn))
                yield augment(images.to(self.device), labels.to(self.device), rows)

    def _gather(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        arrays = [self._cache[i] if self._cache else self._decode(i) for i in indices]
        images = torch.from_numpy(np.stack([image for image, _ in arrays])).permute(0, 3, 1, 2)
        return images, torch.from_numpy(np.stack([label for _, label in arrays]))


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


def augment(images: Tensor, labels: Tensor, drawn: Augmentation) -> tuple[Tensor, Tensor]:
    """Normalise and augment, with one resampling for the whole batch.

    Args:
        images: N x 3 x H x W uint8.
        labels: N x H x W uint8.

    Returns:
        images (float32, normalised, channels-last) and labels (int64); pixels outside the source are 0 and 255.
    """
    n, _, height, width = images.shape
    device = images.device
    contrast, shade = drawn.contrast.to(device), drawn.shade.to(device)
    mean = 255.0 * torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = 255.0 * torch.tensor(STD, device=device).view(1, 3, 1, 1)
    pixels = images.float().sub_(mean)
    if (drawn.zoom != 1).any() or (drawn.mirror != 1).any():
        # Output coordinates in [-1, 1] → source coordinates: x' = mirror/zoom · x + shift
        x, y = ((2 * torch.arange(side) + 1) / side - 1 for side in (width, height))
        grid = torch.empty(n, height, width, 2)
        grid[..., 0] = ((drawn.mirror / drawn.zoom)[:, None] * x + drawn.shift[:, :1])[:, None, :]
        grid[..., 1] = ((1 / drawn.zoom)[:, None] * y + drawn.shift[:, 1:])[:, :, None]
        grid = grid.to(device)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # +1, because what lies outside is sampled as 0
        shifted = F.grid_sample(labels[:, None].float().add_(1), grid, mode="nearest", align_corners=False)
        target = shifted[:, 0].long().sub_(1)
        target.masked_fill_(target < 0, IGNORE)
    else:
        target = labels.long()
    pixels = torch.addcmul(shade, pixels, contrast / std)
    return pixels.contiguous(memory_format=torch.channels_last), target
