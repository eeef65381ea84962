"""The rule that turns block values into a verdict: pass, regression, or inconclusive.

A block's value is ln(candidate / baseline) from a fresh pair of processes. The hypothesis "not slower by more than the
margin" is rejected by the exact signed-rank test; the probability of being wrong is spent over a few looks that are
fixed in advance. A look may come earlier or later with the machine's speed: for identical sides the signs of the values
are coins whatever their sizes and durations, which is all that the test needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from kdbench.comparison.numbers import counted
from kdbench.regress.signed_rank import SignedRank

Verdict = Literal["pass", "regression", "inconclusive"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "regression": 1, "inconclusive": 3}
POWER = 0.95


@dataclass(frozen=True)
class Rule:
    """What counts as slower.

    Attributes:
        margin: slower by up to this share is no regression: 0.01 is 1%.
        tolerance: slower by this share or more is no pass.
        looks: (share of the time budget, probability of a wrong regression and of a wrong pass spent there).
    """

    margin: float = 0.01
    tolerance: float = 0.03
    looks: tuple[tuple[float, float], ...] = ((0.15, 0.001), (0.35, 0.001), (0.55, 0.002), (0.8, 0.002), (1.0, 0.004))


def can_decide(blocks: int, alpha: float) -> bool:
    """Whether so many blocks could reject anything: n coins all show heads with probability 2**-n."""
    return 0.5**blocks <= alpha


def too_few(blocks: int) -> str:
    return f"{counted(blocks, 'block')} {'is' if blocks == 1 else 'are'} too few"


@dataclass(frozen=True)
class Estimate:
    """Ratios of latency, candidate over baseline: 1.05 is 5% slower.

    Attributes:
        low, high: each wrong with the probability that the look had to spend.
        ci95: 95% interval for a reader; the verdict does not use it.
        smallest_seen: the smallest true ratio that this many blocks of this noise call a regression in 95 of 100 runs.
    """

    ratio: float
    low: float
    high: float
    ci95: tuple[float, float]
    smallest_seen: float


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    reason: str
    estimate: Estimate
    control: Estimate
    """The same of a second copy of the baseline, over the baseline."""


def estimate(values: NDArray[np.float64], alpha: float, rule: Rule) -> Estimate:
    """From ln ratios of blocks; see ``Estimate``."""
    ranks = SignedRank(values)
    centre, (low, high), (low95, high95) = ranks.centre, ranks.bounds(alpha), ranks.bounds(0.025)
    # The bound lies z(alpha) standard errors below the centre; to be above the margin with POWER takes z(POWER) more.
    reach = (centre - low) * (1 + norm.ppf(POWER) / norm.ppf(1 - alpha))
    return Estimate(
        ratio=math.exp(centre), low=math.exp(low), high=math.exp(high), ci95=(math.exp(low95), math.exp(high95)),
        smallest_seen=(1 + rule.margin) * math.exp(reach),
    )  # fmt: skip


def judge(candidate: NDArray[np.float64], control: NDArray[np.float64], alpha: float, rule: Rule) -> Judgement:
    """One look at the blocks so far.

    Args:
        candidate: ln(candidate / baseline) of every block.
        control: ln(second copy of the baseline / baseline) of the same blocks.
        alpha: what this look may spend.
    """
    found, check = estimate(candidate, alpha, rule), estimate(control, alpha, rule)
    at_least, at_most = 1 + rule.margin, 1 + rule.tolerance
    verdict: Verdict = "inconclusive"
    if check.low > 1 or check.high < 1:
        reason = (
            f"two copies of the baseline differ by {100 * (check.ratio - 1):+.1f}% in the same blocks: this machine "
            "is not fit to tell now: close what else runs, and run again"
        )
    elif found.low > at_least:
        verdict, reason = "regression", f"slower by more than {100 * rule.margin:g}%, of which chance is ruled out"
    elif found.high < at_most:
        verdict = "pass"
        reason = f"slower by {100 * rule.tolerance:g}% or more is ruled out"
        if found.high < 1:
            reason = "faster, of which chance is ruled out"
    elif math.isinf(found.high):
        reason = f"{too_few(len(candidate))} to bound the ratio: give it more time with --budget"
    else:
        reason = (
            f"the ratio may be anything from {found.low:.3f} to {found.high:.3f}: give it more time with --budget, or "
            "a quieter machine"
        )
    return Judgement(verdict, reason, found, check)


def judge_together(
    cells: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], Sequence[tuple[int, float]]]], rule: Rule
) -> list[Judgement]:
    """Every cell's last look, with the probability of a wrong regression anywhere held together (Holm's steps).

    A cell is first given its share of the error, that of one among all; each regression leaves its share to the
    others (Maurer and Bretz, Statistics in Biopharmaceutical Research 5, 2013, of looks in sequence).

    Args:
        cells: per cell the candidate's values, the control's, and the looks taken: (blocks, probability to spend).
    """
    judged: dict[int, Judgement] = {}
    open_cells = list(range(len(cells)))
    while open_cells:
        found = {i: _best_look(*cells[i], share=len(open_cells), rule=rule) for i in open_cells}
        slower = [i for i, judgement in found.items() if judgement.verdict == "regression"]
        judged |= found
        if not slower:
            break
        open_cells = [i for i in open_cells if i not in slower]
    return [judged[i] for i in range(len(cells))]


def _best_look(
    candidate: NDArray[np.float64],
    control: NDArray[np.float64],
    looks: Sequence[tuple[int, float]],
    share: int,
    rule: Rule,
) -> Judgement:
    """The first look that decides, else the last."""
    for blocks, alpha in looks:
        judgement = judge(candidate[:blocks], control[:blocks], alpha / share, rule)
        if judgement.verdict != "inconclusive":
            break
    return judgement
