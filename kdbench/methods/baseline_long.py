"""The time-matched baseline: as many epochs as fit in the wall-clock of a distilled method.

What it does: trains as the baseline does, its schedule stretched over more epochs (``trainers/time_match.py``).
When it helps: to tell what a teacher gave from what longer training would have given anyway.
What it costs: the wall-clock of the distilled method that it is matched with.
"""

from kdbench.methods.base import METHODS, Method, Style

METHODS.add(
    Method(
        name="baseline-long",
        title="Baseline, Time-Matched",
        help="the baseline, in a distilled method's time",
        style=Style("#808080", (0, (9, 2)), "X"),
        time_matched=True,
    )
)
