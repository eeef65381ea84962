"""DIST: the student keeps the teacher's relations, not its exact probabilities.

What it does: adds 1 − Pearson's r of the two networks' predictions, over the classes of a pixel and over the pixels
of a class.
When it helps: where the teacher is much stronger than the student, which cannot match its probabilities.
What it costs: the teacher's forward pass in every step, and next to nothing beside it.
Paper: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, https://arxiv.org/abs/2205.10536;
weight and temperature are those of its segmentation code.
"""

from kdbench.methods.base import METHODS, Method, RecipeField, Style, Term

METHODS.add(
    Method(
        name="dist",
        title="Relations (DIST)",
        help="CE and correlations of predictions, over classes and pixels",
        style=Style("#CC79A7", (0, (3, 3)), "P"),
        terms=(
            Term(
                name="dist",
                legend="relations",
                style=Style("#D55E00", (0, (3, 3)), "P"),
                weight=RecipeField("dist_weight", 1.0, "weight of both relations of DIST, in dist", at_least=0),
                loss="trainers.methods:dist",
                fields=(RecipeField("dist_temperature", 1.0, "its τ, in the softmax over classes", above=0),),
                features=False,
            ),
        ),
    )
)
