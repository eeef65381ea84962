"""The teacher's own training: a larger network on the same labels.

What it does: trains the recipe's [teacher] with cross-entropy; the distilled methods then learn from it.
When it helps: distilled methods need it; it should lead the baseline by some points of mIoU.
What it costs: more than a student's training, once for all methods and seeds.
"""

from kdbench.methods.base import METHODS, Method, Style

METHODS.add(
    Method(
        name="teacher",
        title="Teacher",
        help="the network that distilled methods learn from",
        style=Style("#56B4E9", "-", ""),
        in_all=True,
        student=False,
    )
)
