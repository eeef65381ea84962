"""The gate's statistics: exact by value, and its error rates by simulation with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from kdbench.regress.rule import EXIT_CODES, Rule, can_decide, estimate, judge, judge_together, too_few
from kdbench.regress.signed_rank import SignedRank

RULE = Rule()


def bounds(x, alpha):
    return SignedRank(x).bounds(alpha)


def values(seed, n, shift=0.0, sd=0.03):
    return np.random.default_rng(seed).normal(shift, sd, n)


class TestSignedRank:
    def test_hodges_lehmann_of_three_values(self):
        # averages of pairs: 1, 2, 6, 1.5, 3.5, 4
        assert SignedRank(np.array([1.0, 2.0, 6.0])).centre == pytest.approx(2.75)

    @pytest.mark.parametrize("n", [5, 12, 30])
    @pytest.mark.parametrize("alpha", [0.05, 0.01])
    def test_bounds_invert_scipys_exact_test(self, n, alpha):
        x = values(n, n, 0.01)
        low, high = bounds(x, alpha)
        if math.isinf(low):
            assert wilcoxon(x + 1, alternative="greater", method="exact").pvalue > alpha
            return
        for bound, inside, alternative in ((low, -1, "greater"), (high, 1, "less")):
            outside = wilcoxon(x - bound - inside * -1e-9, alternative=alternative, method="exact").pvalue
            within = wilcoxon(x - bound - inside * 1e-9, alternative=alternative, method="exact").pvalue
            assert min(outside, within) <= alpha < max(outside, within)

    def test_too_few_values_bound_nothing(self):
        assert bounds(np.arange(1.0, 10.0), 0.001) == (-np.inf, np.inf)  # 2**-9 > 0.001
        low, high = bounds(np.arange(1.0, 11.0), 0.001)  # 2**-10 < 0.001: every value is above the bound
        assert (low, high) == (1.0, 10.0)

    def test_error_is_exact_over_all_signs(self):
        """Of all 2^10 sign patterns, at most the stated share puts the bound above 0."""
        sizes = np.random.default_rng(0).exponential(size=10)
        wrong = [bounds(sizes * signs, 0.05)[0] > 0 for signs in itertools.product((-1, 1), repeat=10)]
        assert 0.035 < np.mean(wrong) <= 0.05

    def test_many_values_do_not_overflow(self):
        low, high = bounds(values(0, 400), 0.001)
        assert -0.01 < low < 0 < high < 0.01

    def test_a_probability_that_is_met_exactly_is_enough(self):
        """10 coins all show heads with probability 2**-10, no more and no less: 10 blocks can decide at just that."""
        x = np.arange(1.0, 11.0)
        assert bounds(x, 2**-10) == (1.0, 10.0)
        assert bounds(x, 2**-10 * (1 - 1e-9)) == (-np.inf, np.inf)
        assert [can_decide(n, 2**-10) for n in (9, 10, 11)] == [False, True, True]
        # Of two values P(T <= 1) = 2/4: the second of the averages 1, 1.5 and 2.
        assert [bounds(x[:n], 0.5) for n in (1, 2)] == [(1.0, 1.0), (1.5, 1.5)]


class TestEstimate:
    X = np.array([-0.02, 0.01, 0.0, 0.03, 0.05, 0.02, -0.01, 0.04, 0.06, 0.015])

    def test_by_hand(self):
        """Of 10 values P(T = 0) is 1/1024, the bound at 0.001; P(T <= 8) = 25/1024, that at 0.025."""
        averages = sorted((self.X[i] + self.X[j]) / 2 for i in range(10) for j in range(i, 10))
        found = estimate(self.X, 0.001, Rule(margin=0.02))
        centre = np.median(averages)
        assert found.ratio == pytest.approx(math.exp(centre), rel=1e-12)
        assert (found.low, found.high) == pytest.approx((math.exp(-0.02), math.exp(0.06)), rel=1e-12)
        assert found.ci95 == pytest.approx((math.exp(averages[8]), math.exp(averages[-9])), rel=1e-12)
        # z of 0.95 and of 0.999, from a table.
        reach = (centre + 0.02) * (1 + 1.6448536 / 3.0902323)
        assert found.smallest_seen == pytest.approx(1.02 * math.exp(reach), rel=1e-7)

    def test_without_noise_all_is_one_number(self):
        found = estimate(np.full(12, math.log(1.05)), 0.01, RULE)
        assert (found.ratio, found.low, found.high, *found.ci95) == pytest.approx([1.05] * 5)
        assert found.smallest_seen == pytest.approx(1.01)


def test_the_rule_as_it_is_documented():
    assert EXIT_CODES == {"pass": 0, "regression": 1, "inconclusive": 3}
    shares, spent = zip(*RULE.looks, strict=True)
    assert list(shares) == sorted(set(shares))
    assert shares[-1] == 1
    assert sum(spent) == pytest.approx(0.01)
    assert (RULE.margin, RULE.tolerance) == (0.01, 0.03)
    assert [too_few(n) for n in (0, 1, 2)] == [
        "0 blocks are too few", "1 block is too few", "2 blocks are too few",
    ]  # fmt: skip


class TestJudge:
    def test_each_reason(self):
        def of(candidate, control=0.0, rule=RULE, n=12):
            found = judge(np.full(n, candidate), np.full(n, control), 0.001, rule)
            return found.verdict, found.reason

        differs = "two copies of the baseline differ by {} in the same blocks: this machine is not fit to tell now: close what else runs, and run again"
        assert of(0.5, math.log(1.5)) == ("inconclusive", differs.format("+50.0%"))
        # Faster is as bad: whatever made the second copy faster may have made the candidate faster.
        assert of(0.5, math.log(0.97)) == ("inconclusive", differs.format("-3.0%"))
        assert of(0.5) == ("regression", "slower by more than 1%, of which chance is ruled out")
        assert of(math.log(1.011))[0] == "regression"
        assert of(math.log(1.009))[0] == "pass"
        assert of(math.log(1.005)) == ("pass", "slower by 3% or more is ruled out")
        assert of(-0.1) == ("pass", "faster, of which chance is ruled out")
        assert of(0.5, rule=Rule(margin=0.025))[1] == "slower by more than 2.5%, of which chance is ruled out"
        assert of(0.5, n=9) == (
            "inconclusive",
            "9 blocks are too few to bound the ratio: give it more time with --budget",
        )
        noisy = judge(np.linspace(-1, 1, 12), np.zeros(12), 0.001, RULE)
        assert noisy.reason.startswith("the ratio may be anything from 0.")
        assert noisy.reason.endswith(": give it more time with --budget, or a quieter machine")

    def test_what_is_just_at_a_limit_is_not_beyond_it(self):
        """Every ratio is 1 to the last bit, and so are the limits of this rule."""
        alike = np.zeros(12)
        strict = judge(alike, alike, 0.001, Rule(margin=0.0, tolerance=0.0))
        assert strict.verdict == "inconclusive"
        assert strict.reason.startswith("the ratio may be anything from 1.000 to 1.000:")
        usual = judge(alike, alike, 0.001, RULE)
        assert (usual.verdict, usual.reason) == ("pass", "slower by 3% or more is ruled out")
        assert (usual.estimate.ratio, usual.control.ratio) == (1, 1)

    def test_clear_cases(self):
        quiet = values(1, 40, 0.0, 0.01)
        assert judge(values(2, 40, 0.05, 0.01), quiet, 0.002, RULE).verdict == "regression"
        assert judge(values(2, 40, 0.0, 0.01), quiet, 0.002, RULE).verdict == "pass"
        faster = judge(values(2, 40, -0.05, 0.01), quiet, 0.002, RULE)
        assert faster.verdict == "pass"
        assert "faster" in faster.reason
        assert judge(values(2, 12, 0.02, 0.05), quiet, 0.002, RULE).verdict == "inconclusive"

    @pytest.mark.parametrize("shift", [0.0, 0.05])
    def test_a_control_that_differs_is_never_a_verdict(self, shift):
        found = judge(values(2, 40, shift, 0.01), values(1, 40, 0.03, 0.01), 0.002, RULE)
        assert found.verdict == "inconclusive"
        assert "two copies of the baseline differ by +3" in found.reason

    def test_slower_by_less_than_the_margin_is_no_regression(self):
        sure = values(1, 400, math.log(1.008), 0.01)
        assert judge(sure, values(2, 400, 0, 0.01), 0.002, RULE).verdict == "pass"

    def test_the_smallest_slowdown_seen_is_called_in_95_of_100(self):
        rng = np.random.default_rng(0)
        n, sd, alpha, runs = 40, 0.03, 0.01, 1000
        seen = np.median([estimate(rng.normal(0, sd, n), alpha, RULE).smallest_seen for _ in range(100)])
        caught = [bounds(rng.normal(math.log(seen), sd, n), alpha)[0] > math.log(1.01) for _ in range(runs)]
        assert 0.93 < np.mean(caught) < 0.97


def one_run(rng, shift, noise, blocks=60, cells=1):
    """A run that looks after 20%, 40% ... of its blocks and stops when it decides: verdict."""
    x, control = noise(rng, blocks) + shift, noise(rng, blocks)
    for share, alpha in RULE.looks:
        n = int(share * blocks)
        found = judge(x[:n], control[:n], alpha / cells, RULE)
        if found.verdict != "inconclusive":
            break
    return found.verdict


def gaussian(rng, n):
    return rng.normal(0, 0.03, n)


def spiky(rng, n):
    """Now and then a process is 30% slower, on either side."""
    return rng.normal(0, 0.015, n) + 0.3 * rng.choice([-1, 0, 1], n, p=[0.1, 0.8, 0.1])


def drifting(rng, n):
    """Noise that grows while the run lasts: the blocks are far from alike."""
    return rng.normal(0, 1, n) * np.linspace(0.005, 0.08, n)


@pytest.mark.parametrize("noise", [gaussian, spiky, drifting])
def test_false_alarms_by_simulation(noise):
    rng = np.random.default_rng(7)
    verdicts = [one_run(rng, 0.0, noise) for _ in range(600)]
    assert verdicts.count("regression") <= 3  # expected: far under 1%, since the margin lies between


@pytest.mark.parametrize("noise", [gaussian, spiky, drifting])
def test_at_the_margin_itself_the_error_is_at_most_one_percent(noise):
    rng = np.random.default_rng(8)
    runs = 800
    alarms = [one_run(rng, math.log(1.01), noise) for _ in range(runs)].count("regression")
    assert alarms / runs <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)


@pytest.mark.parametrize(
    ("shift", "noise", "least"), [(0.05, gaussian, 0.95), (0.05, spiky, 0.95), (0.10, gaussian, 0.99)]
)
def test_detection_by_simulation(shift, noise, least):
    rng = np.random.default_rng(9)
    verdicts = [one_run(rng, math.log1p(shift), noise) for _ in range(300)]
    assert verdicts.count("regression") / 300 >= least
    assert verdicts.count("pass") == 0


class TestSeveralCells:
    def test_a_cell_is_judged_by_the_first_look_that_decides(self):
        slow, quiet = np.full(40, math.log(1.2)), np.zeros(40)
        slow[20:], noisy = -1.0, np.concatenate([np.zeros(20), np.full(20, 0.5)])
        (found,) = judge_together([(slow, noisy, [(5, 0.001), (20, 0.001), (40, 0.001)])], RULE)
        assert (found.verdict, found.estimate.ratio) == ("regression", pytest.approx(1.2))
        (found,) = judge_together([(slow, noisy, [(5, 0.001), (6, 0.001)])], RULE)  # none decides: the last
        assert found.reason.startswith("6 blocks are too few")
        assert [one.verdict for one in judge_together([(quiet, quiet, [(40, 0.001)])] * 3, RULE)] == ["pass"] * 3
        assert judge_together([], RULE) == []

    def test_the_error_is_shared(self):
        looks = [(40, 0.01)]
        quiet = values(1, 40, 0, 0.01)
        edge = next(
            x
            for seed in range(1000)
            if RULE.margin < (x := values(seed, 40, 0.025, 0.03)).mean()
            and bounds(x, 0.01)[0] > math.log(1.01) > bounds(x, 0.01 / 3)[0]
        )
        alone = judge_together([(edge, quiet, looks)], RULE)
        assert alone[0].verdict == "regression"
        beside = judge_together([(edge, quiet, looks), (quiet, quiet, looks), (quiet, quiet, looks)], RULE)
        assert [j.verdict for j in beside] == ["inconclusive", "pass", "pass"]

    def test_a_sure_regression_leaves_its_share_to_the_others(self):
        looks = [(40, 0.01)]
        quiet, slow = values(1, 40, 0, 0.01), values(2, 40, 0.2, 0.01)
        edge = next(
            x
            for seed in range(1000)
            if bounds(x := values(seed, 40, 0.025, 0.03), 0.01)[0] > math.log(1.01) > bounds(x, 0.005)[0]
        )
        found = judge_together([(edge, quiet, looks), (slow, quiet, looks)], RULE)
        assert [j.verdict for j in found] == ["regression", "regression"]

    def test_false_alarms_of_ten_cells_together(self):
        rng = np.random.default_rng(3)
        alarms = 0
        for _ in range(200):
            cells = [(gaussian(rng, 30) + math.log(1.01), gaussian(rng, 30), [(30, 0.01)]) for _ in range(10)]
            alarms += any(j.verdict == "regression" for j in judge_together(cells, RULE))
        assert alarms / 200 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 200)
