"""The baseline: cross-entropy alone.

What it does: trains the student on the labels, without a teacher.
When it helps: always needed, since gains are differences from it.
What it costs: a forward and a backward pass of the student per step, the least of all methods.
"""

from kdbench.methods.base import METHODS, Method, Style

METHODS.add(
    Method(
        name="baseline",
        title="Without KD (Baseline)",
        help="cross-entropy alone",
        style=Style("#000000", "-", "o"),
        in_all=True,
    )
)
