"""Imitation: the teacher's predictions are all that the student learns from, on whatever images.

What it does: trains with the response loss alone; cross-entropy is logged and has the weight 0.
When it helps: where labels are few or wrong; it shows how much of a gain comes from the teacher and not from labels.
What it costs: the teacher's forward pass in every step; no labels at all.
Paper: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022,
https://arxiv.org/abs/2106.05237
"""

from kdbench.methods.base import METHODS, Method, Style
from kdbench.methods.response import RESPONSE

METHODS.add(
    Method(
        name="imitation",
        title="Imitation (No Labels)",
        help="KL alone: learns from the teacher's predictions",
        style=Style("#882255", (0, (7, 1, 1, 1)), "*"),
        terms=(RESPONSE,),
        cross_entropy=False,
    )
)
