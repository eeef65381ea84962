"""Logit regression: the student's logits are the teacher's, by mean squared error.

What it does: adds the squared difference of the logits, mean over classes and labelled pixels.
When it helps: where the teacher's logits say more than its probabilities, which forget their common offset.
What it costs: the teacher's forward pass in every step, and next to nothing beside it.
Paper: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, https://arxiv.org/abs/1312.6184
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdbench.methods import METHODS, PER_PIXEL, Method, RecipeField, Style, Term

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.models.segmentation import Taps
    from trainers.recipe import Recipe


def mse(student: Taps, teacher: Taps, labels: Tensor, recipe: Recipe) -> Tensor:
    from kdbench.models.pixels import masked_mean, resize, valid_mask

    difference = student.logits.float() - resize(teacher.logits.float(), student.logits)
    return masked_mean(difference.square().mean(1), valid_mask(labels, student.logits))


METHODS.add(
    Method(
        name="mse",
        title="Logit Regression",
        help="CE and squared error of the logits",
        style=Style("#117733", (0, (1, 3)), "h"),
        terms=(
            Term(
                name="mse",
                legend="squared error",
                style=Style("#332288", (0, (1, 3)), "h"),
                weight=RecipeField("mse_weight", 0.1, "weight of logit regression, in mse", at_least=0),
                loss=mse,
                scale=PER_PIXEL,
            ),
        ),
    )
)
