"""Response distillation: the student imitates the teacher's softened predictions.

What it does: adds the Kullback-Leibler divergence from the teacher's class probabilities, softened by a temperature.
When it helps: where classes resemble each other, since a teacher's second guess says which ones do.
What it costs: the teacher's forward pass in every step, and next to nothing beside it.
Paper: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.methods.base import METHODS, PER_PIXEL, Method, RecipeField, Style, Term


def scale(recipe: Mapping[str, Any]) -> str:
    return "response summed over pixels" if recipe.get("kl_reduction") == "batchmean" else PER_PIXEL


RESPONSE = Term(
    name="response",
    legend="response",
    style=Style("#0072B2", "-.", "^"),
    weight=RecipeField("beta", 0.7, "weight of the response loss, in response and combined", at_least=0),
    loss="trainers.methods:response",
    fields=(
        RecipeField("temperature", 4.0, "T that softens logits in the response loss", above=0),
        RecipeField("kl_reduction", "pixel", "batchmean is the guide's literal form", choices=("pixel", "batchmean")),
    ),
    scale=scale,
    features=False,
)

METHODS.add(
    Method(
        name="response",
        title="Response-Based",
        help="CE and KL on softened logits",
        style=Style("#0072B2", "--", "s"),
        terms=(RESPONSE,),
        in_all=True,
    )
)
