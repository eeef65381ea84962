"""Response and feature distillation together.

What it does: adds both losses to cross-entropy, each with the weight that it has alone.
When it helps: where each of them does, and what they teach is not the same.
What it costs: what the two do; they share the teacher's forward pass.
Papers: those of response and feature.
"""

from kdbench.methods.base import METHODS, Method, Style
from kdbench.methods.feature import FEATURE
from kdbench.methods.response import RESPONSE

METHODS.add(
    Method(
        name="combined",
        title="Combined",
        help="CE, response and feature",
        style=Style("#009E73", (0, (1, 1)), "D"),
        terms=(RESPONSE, FEATURE),
        in_all=True,
    )
)
