"""Augmentation of whole batches of tensors, on the device that trains: zoom, flip and colour, and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.labels import IGNORE
from kdbench.data.normalisation import IMAGENET, Input
from trainers.cutmix import Pastes, paste
from trainers.recipe import Recipe


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


Drawn = TypeVar("Drawn", Augmentation, Pastes)


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


def to_device(drawn: list[Drawn], device: torch.device) -> list[Drawn]:
    """The same on ``device``, by one copy of each field for all steps of an epoch."""
    if device.type == "cpu":
        return drawn
    counts = [len(one[0]) for one in drawn]
    fields = [torch.cat(values).pin_memory().to(device, non_blocking=True) for values in zip(*drawn, strict=True)]
    return [type(drawn[0])(*values) for values in zip(*(field.split(counts) for field in fields), strict=True)]


def rows_of(drawn: Drawn, rows: Sequence[int] | slice) -> Drawn:
    """What was drawn for some of the images."""
    return type(drawn)(*(values[rows] for values in drawn))


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
    images: Tensor,
    labels: Tensor,
    drawn: Augmentation,
    resample: bool,
    wanted: Input = IMAGENET,
    pastes: Pastes | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalise and augment, with one resampling for the whole batch.

    Args:
        images: N x 3 x H x W uint8.
        labels: N x H x W uint8.
        drawn: on the images' device.
        resample: whether ``drawn`` moves any pixel; given, because looking makes a GPU wait.
        wanted: how the images are normalised.
        pastes: of the first images, on their device: only these are returned, the others are there to paste from.

    Returns:
        images (float32, normalised, channels-last) and labels (int64); pixels outside the source are 0 and 255.
    """
    centred, target = moved(centre(images, wanted), labels, drawn, resample)
    if pastes is not None:
        centred, target = paste(centred, target, pastes)
        drawn = rows_of(drawn, slice(len(target)))
    return shaded(centred, drawn, wanted), target


def centre(images: Tensor, wanted: Input) -> Tensor:
    """N x 3 x H x W RGB pixels from 0 to 255, in the order of ``wanted`` and less its mean."""
    pixels = (images.flip(1) if wanted.turns_channels else images).to(torch.float32, copy=True)
    return pixels.sub_(statistics(images.device, wanted)[0])


def moved(centred: Tensor, labels: Tensor, drawn: Augmentation, resample: bool) -> tuple[Tensor, Tensor]:
    """Zoom, shift and flip: N x 3 x H x W, which are 0 outside of the source, and int64 labels, which are 255 there."""
    n, _, height, width = centred.shape
    device = centred.device
    if not resample:
        return centred, labels.long()
    # Output coordinates in [-1, 1] → source coordinates: x' = mirror/zoom · x + shift
    x, y = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (width, height))
    grid = torch.empty(n, height, width, 2, device=device)
    grid[..., 0] = ((drawn.mirror / drawn.zoom)[:, None] * x + drawn.shift[:, :1])[:, None, :]
    grid[..., 1] = ((1 / drawn.zoom)[:, None] * y + drawn.shift[:, 1:])[:, :, None]
    pixels = F.grid_sample(centred, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # +1, because what lies outside is sampled as 0
    shifted = F.grid_sample(labels[:, None].float().add_(1), grid, mode="nearest", align_corners=False)
    target = shifted[:, 0].long().sub_(1)
    return pixels, target.masked_fill_(target < 0, IGNORE)


def shaded(centred: Tensor, drawn: Augmentation, wanted: Input) -> Tensor:
    """Contrast, brightness and colour, and the normalisation of ``wanted``; N x 3 x H x W, channels-last."""
    _, std = statistics(centred.device, wanted)
    shade = drawn.shade
    if wanted != IMAGENET:  # what is drawn is in units of ImageNet's std
        shade = shade * statistics(centred.device, IMAGENET)[1]
        shade = (shade.flip(1) if wanted.turns_channels else shade) / std
    pixels = torch.addcmul(shade, centred, drawn.contrast / std)
    return pixels.contiguous(memory_format=torch.channels_last)


def shown_to(network: Input, levels: Tensor, drawn: Augmentation) -> Tensor:
    """N x 3 x H x W RGB pixels from 0 to 255, shaded and as a network wants them.

    Contrast is drawn about ImageNet's mean whoever looks, so that networks of different inputs see the same picture.
    """
    return converted(shaded(centre(levels, IMAGENET), drawn, IMAGENET), IMAGENET, network)
