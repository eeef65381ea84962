"""Channel-wise distillation (CWD): the student looks for a class where the teacher does.

What it does: turns each class's logits into a distribution over the image's pixels, and adds the KL of the two.
When it helps: where small or rare classes count, since every class weighs the same however few pixels it has.
What it costs: the teacher's forward pass in every step, and next to nothing beside it.
Paper: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
https://arxiv.org/abs/2011.13256; weight and temperature are the authors'.
"""

from kdbench.methods.base import METHODS, Method, RecipeField, Style, Term

METHODS.add(
    Method(
        name="cwd",
        title="Channel-Wise (CWD)",
        help="CE and channel-wise distillation of the logits",
        style=Style("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v"),
        terms=(
            Term(
                name="cwd",
                legend="channel-wise",
                style=Style("#009E73", (0, (5, 1, 1, 1, 1, 1)), "v"),
                weight=RecipeField("cwd_weight", 3.0, "weight of channel-wise distillation, in cwd", at_least=0),
                loss="trainers.methods:cwd",
                fields=(RecipeField("cwd_temperature", 4.0, "its τ, in the softmax over positions", above=0),),
                features=False,
            ),
        ),
    )
)
