"""Feature distillation: the student's features resemble the teacher's, at three strides.

What it does: projects the student's features at stride 4, 8 and 16 to the teacher's channels by 1 x 1 convolutions,
which are trained with it and never deployed, and adds their distance: cosine, or Pearson's r of each channel.
When it helps: where the two networks are alike enough for their features to say the same; pearson asks less of it.
What it costs: the teacher's forward pass in every step, and the projections.
Papers: Romero et al., "FitNets", ICLR 2015, https://arxiv.org/abs/1412.6550; for pearson Cao et al., "PKD", NeurIPS
2022, https://arxiv.org/abs/2207.02039
"""

from kdbench.methods.base import METHODS, PER_PIXEL, Method, RecipeField, Style, Term

FEATURE = Term(
    name="feature",
    legend="feature",
    style=Style("#CC79A7", (0, (1, 1)), "D"),
    weight=RecipeField("gamma", 0.5, "weight of the feature loss, in feature and combined", at_least=0),
    loss="trainers.methods:feature",
    fields=(
        RecipeField("feature_loss", "cosine", "pearson standardises each channel first", choices=("cosine", "pearson")),
    ),
    adapted=True,
    scale=PER_PIXEL,
)

METHODS.add(
    Method(
        name="feature",
        title="Feature-Based",
        help="CE and the distance of features at three strides",
        style=Style("#D55E00", "-.", "^"),
        terms=(FEATURE,),
        in_all=True,
    )
)
