"""How numbers of accuracy are printed: mIoU and IoU are fractions with four decimals, and so are their differences."""

from __future__ import annotations

NOTHING = "–"
"""What stands where a number was not measured; never a zero."""


def fraction(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def difference(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.4f}"


def plus_minus(error: float | None) -> str:
    """What follows a mean: its standard error; empty where the spread is unknown."""
    return "" if error is None else f" ± {error:.4f}"


def counted(number: int, word: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
