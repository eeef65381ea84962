"""CutMix: a rectangle of another image in the place of an image's own, its labels with it (Yun et al., ICCV 2019).

As segmentation has it (French et al., BMVC 2020): the rectangle covers half of the image, lies whole within it, and
varies in proportions and place. It is pasted before anybody looks, so that a teacher answers for the mixed image, and
its sides are whole pixels of the student's, which thus stays the exact reduction of a larger view. Contrast and colour
come afterwards: an image and what is pasted into it share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.recipe import Recipe

AREA = 0.5
"""Of an image, what is pasted: a half, as in the scripts of French et al. (Yun et al. draw it between 0 and 1)."""


class Pastes(NamedTuple):
    """What is pasted into each of N images.

    Attributes:
        source: N int64, the number of the image that a rectangle comes from; an image's own where nothing is pasted.
        box: N x 4 int64, the rectangle's top, bottom, left and right in pixels of the view, the far sides excluded.
    """

    source: Tensor
    box: Tensor


def draw_pastes(count: int, recipe: Recipe, generator: torch.Generator, apart: Sequence[int] = ()) -> Pastes:
    """With the recipe's probability for each of ``count`` images, a rectangle of another one.

    Args:
        apart: images that take theirs from one another alone.
    """
    everyone = torch.arange(count)
    chosen = torch.rand(count, generator=generator) < recipe.cutmix
    which, shape, top, left = torch.rand(4, count, generator=generator)
    source = another(everyone, which)
    if apart:
        members = torch.tensor(apart)
        source[members] = another(members, which[members])
    (rows, columns), factor = recipe.size, recipe.view_size[0] // recipe.size[0]
    height = (rows * AREA**shape).round()  # from half of the rows to all of them, log-uniform
    width = (AREA * rows * columns / height).round().clamp(max=columns)
    top, left = (top * (rows - height + 1)).floor(), (left * (columns - width + 1)).floor()
    box = torch.stack([top, top + height, left, left + width], dim=1)
    return Pastes(torch.where(chosen, source, everyone), box.long() * factor)


def another(members: Tensor, which: Tensor) -> Tensor:
    """For each of M numbers another one of them, by M random numbers from 0 to 1; of one alone, itself."""
    count = len(members)
    onward = 1 + (which * (count - 1)).long()
    return members[(torch.arange(count) + onward) % count]


def with_sources(images: Sequence[int], pastes: Pastes) -> tuple[list[int], Pastes]:
    """``images``, then those that rectangles of theirs come from, and what is pasted by places in that list."""
    rows = list(images)
    sources = pastes.source[rows].tolist()
    needed = list(dict.fromkeys([*rows, *sources]))
    place = {image: at for at, image in enumerate(needed)}
    return needed, Pastes(torch.tensor([place[source] for source in sources]), pastes.box[rows])


def paste(images: Tensor, labels: Tensor, pastes: Pastes) -> tuple[Tensor, Tensor]:
    """Paste into the first N of M images and labels, and return those.

    Args:
        images: M x 3 x H x W.
        labels: M x H x W.
        pastes: for N ≤ M images, on their device, by their places.
    """
    count, (height, width) = len(pastes.source), labels.shape[1:]
    box = pastes.box[:, :, None]
    y, x = (torch.arange(side, device=labels.device) for side in (height, width))
    rows = (y >= box[:, 0]) & (y < box[:, 1])
    columns = (x >= box[:, 2]) & (x < box[:, 3])
    inside = rows[:, :, None] & columns[:, None, :]
    mixed = torch.where(inside[:, None], images.index_select(0, pastes.source), images[:count])
    return mixed, torch.where(inside, labels.index_select(0, pastes.source), labels[:count])
