"""Wilcoxon's signed-rank test turned into an estimate and bounds, exact for any number of values.

Where two sides are identical and a coin decides which one is called the candidate, every paired difference is as likely
as its negative, whatever the noise: the test needs nothing else. Source: Hollander, Wolfe, Chicken, Nonparametric
Statistical Methods, 3rd edition, sections 3.1 to 3.3.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class SignedRank:
    """Estimate and bounds of the centre of ``values``."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._count = len(values)
        rows, columns = np.triu_indices(self._count)
        self._averages = np.sort((values[rows] + values[columns]) / 2)

    @property
    def centre(self) -> float:
        """Hodges and Lehmann's: the median of the averages of all pairs, each value with itself included."""
        return float(np.median(self._averages))

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Lower and upper bound of the centre, each wrong with probability ``alpha`` at most.

        Infinite where there are too few values for such an ``alpha``: n values can do no better than 2**-n.
        """
        # The largest t with P(T <= t) <= alpha under the hypothesis; -1 where even T = 0 is too likely.
        t = int(np.searchsorted(_null_distribution(self._count), alpha * (1 + 1e-12), side="right")) - 1
        if t < 0:
            return -np.inf, np.inf
        return float(self._averages[t]), float(self._averages[-1 - t])


@lru_cache(maxsize=512)
def _null_distribution(n: int) -> NDArray[np.float64]:
    """P(T <= t) for t = 0 … n (n + 1) / 2: T sums those ranks 1 … n whose coin shows heads."""
    probability = np.ones(1)
    for rank in range(1, n + 1):
        shifted = np.zeros(len(probability) + rank)
        shifted[rank:] = probability
        shifted[: len(probability)] += probability
        probability = shifted / 2
    return np.cumsum(probability)
