"""What is claimed of a method: checked by simulation with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.comparison.compare import pixel_agreement
from kdbench.comparison.evaluate import Evaluation
from kdbench.comparison.image_bootstrap import interval, miou_interval, miou_loss, resampled_mious
from kdbench.comparison.latency import summarise
from kdbench.comparison.metrics import mean_iou
from kdbench.comparison.seed_statistics import (
    bootstrap_standard_error,
    improvement_over,
    standard_error,
    verdict_of,
)


def evaluation(rng, accuracy, images=40, classes=4, pixels=500):
    """Confusions of a classifier that is right with ``accuracy``, image by image."""
    confusions = np.zeros((images, classes, classes), dtype=np.int64)
    for image in range(images):
        labels = rng.integers(0, classes, pixels)
        wrong = rng.uniform(size=pixels) > np.clip(accuracy + rng.normal(0, 0.05), 0, 1)
        predictions = np.where(wrong, rng.integers(0, classes, pixels), labels)
        np.add.at(confusions[image], (labels, predictions), 1)
    return Evaluation(confusions)


def arms(rng, gain, seeds, spread=0.01):
    """Baseline and method: mIoU varies by training with ``spread``, and the method is better by ``gain``."""
    base = {s: evaluation(rng, 0.7 + rng.normal(0, spread), images=10) for s in range(seeds)}
    other = {s: evaluation(rng, 0.7 + gain + rng.normal(0, spread), images=10) for s in range(seeds)}
    return base, other


def test_difference_and_standard_error_are_those_of_the_paired_seeds():
    rng = np.random.default_rng(0)
    base, other = arms(rng, 0.05, 5)
    result = improvement_over(base, other, "response")
    deltas = [other[s].miou - base[s].miou for s in range(5)]
    assert result.delta_miou == pytest.approx(np.mean(deltas))
    assert result.standard_error == pytest.approx(np.std(deltas, ddof=1) / np.sqrt(5))
    assert (result.seeds, result.standard_error_over) == (5, "seeds")


def test_only_common_seeds_are_paired():
    rng = np.random.default_rng(0)
    base, other = arms(rng, 0.05, 5)
    del base[1], other[3]
    assert improvement_over(base, other, "feature").seeds == 3
    assert improvement_over({0: base[0]}, {4: other[4]}, "feature") is None


def of_miou(right):
    """One image of 100 pixels and one class that labels have; its IoU, and so the mean, is ``right`` / 100."""
    return Evaluation(np.array([[[right, 100 - right], [0, 0]]]))


def test_means_are_over_shared_seeds_alone():
    base = {0: of_miou(50), 1: of_miou(60), 2: of_miou(40), 3: of_miou(90)}
    other = {2: of_miou(43), 1: of_miou(61), 0: of_miou(52), 9: of_miou(10)}
    found = improvement_over(base, other, "response", "student=x")
    assert found.model_dump(exclude_defaults=True) == {
        "method": "response", "variant": "student=x", "delta_miou": pytest.approx(0.02), "seeds": 3,
        "standard_error": pytest.approx(0.01 / np.sqrt(3)), "standard_error_over": "seeds",
        "baseline_miou": pytest.approx(0.5), "verdict": "gain",
    }  # fmt: skip
    assert improvement_over(base, other, "response").variant is None


def test_alike_differences_have_no_error():
    same = {seed: of_miou(50) for seed in range(3)}
    better = {seed: of_miou(75) for seed in range(3)}
    found = improvement_over(same, better, "x")
    assert (found.delta_miou, found.standard_error, found.verdict) == (0.25, 0.0, "gain")


def test_fewer_pairs_have_the_error_of_the_first_ones_images():
    rng = np.random.default_rng(11)
    base, other = arms(rng, 0.05, 2)
    base, other = {seed: base[1 - seed] for seed in (1, 0)}, {seed: other[1 - seed] for seed in (1, 0)}
    pair = base[0].confusions, other[0].confusions
    found = improvement_over(base, other, "x")
    assert found.standard_error == bootstrap_standard_error(*pair)
    drawn = resampled_mious(pair[1], 7) - resampled_mious(pair[0], 7)
    assert bootstrap_standard_error(*pair, resamples=7) == pytest.approx(np.std(drawn) * np.sqrt(7 / 6))
    assert bootstrap_standard_error(*pair) == bootstrap_standard_error(*pair, resamples=1000)
    assert bootstrap_standard_error(*pair) != bootstrap_standard_error(*pair, resamples=1001)


@pytest.mark.parametrize(
    ("differences", "error", "verdict"),
    [
        ([0.5], None, "no gain shown"),
        ([1.0, 3.0], 1.0, "no gain shown"),
        ([0.5, 0.5, 0.5], 0.0, "gain"),
        ([-0.5, -0.5, -0.5], 0.0, "loss"),
        ([0.0, 0.0, 0.0], 0.0, "no gain shown"),
        # Mean 2 and standard error 1: at two standard errors, not beyond; then a little more, and a little less.
        ([5.0, 1.0, 1.0, 1.0], 1.0, "no gain shown"),
        ([5.001, 1.001, 1.001, 1.001], 1.0, "gain"),
        ([-5.0, -1.0, -1.0, -1.0], 1.0, "no gain shown"),
        ([-5.001, -1.001, -1.001, -1.001], 1.0, "loss"),
    ],
)
def test_verdicts_by_hand(differences, error, verdict):
    assert standard_error(differences) == (None if error is None else pytest.approx(error))
    assert verdict_of(differences) == verdict


@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_is_claimed_of_fewer_than_three_seeds(seeds):
    rng = np.random.default_rng(0)
    result = improvement_over(*arms(rng, 0.2, seeds), "response")
    assert result.delta_miou > 0.1
    assert (result.verdict, result.standard_error_over) == ("no gain shown", "images")


def test_a_real_gain_is_shown_and_a_loss_is_called_one():
    rng = np.random.default_rng(1)
    assert improvement_over(*arms(rng, 0.1, 3), "response").verdict == "gain"
    assert improvement_over(*arms(rng, -0.1, 3), "response").verdict == "loss"


def test_without_a_gain_ten_seeds_claim_one_about_as_often_as_two_standard_errors_should():
    """|t| > 2 with 9 degrees of freedom happens in 7.7% of the cases without any effect."""
    rng = np.random.default_rng(2)
    trials = 150
    shown = sum(improvement_over(*arms(rng, 0.0, 10), "x").verdict != "no gain shown" for _ in range(trials))
    assert 0.02 < shown / trials < 0.15


def test_bootstrap_over_images_has_the_spread_of_new_images():
    """The standard error from one set of images against the spread over 150 fresh sets of them."""
    rng = np.random.default_rng(3)
    fresh = [evaluation(rng, 0.75).miou - evaluation(rng, 0.7).miou for _ in range(150)]
    estimates = []
    for _ in range(10):
        base, other = evaluation(rng, 0.7), evaluation(rng, 0.75)
        estimates.append(bootstrap_standard_error(base.confusions, other.confusions, resamples=300))
    assert np.mean(estimates) == pytest.approx(np.std(fresh), rel=0.25)


TWO_IMAGES = np.array([[[6, 2], [0, 0]], [[3, 0], [1, 4]]])
"""Labels by predictions. Alone: 6/8, for class 1 has no label; (3/4 + 4/5) / 2. Together: (9/12 + 4/7) / 2."""


def test_resampled_miou_by_hand():
    """Of two images a draw is the first twice, the second twice, or both: in 1/4, 1/4 and 1/2 of the cases."""
    expected = {0.75: 0.25, (3 / 4 + 4 / 5) / 2: 0.25, (9 / 12 + 4 / 7) / 2: 0.5}
    values = resampled_mious(TWO_IMAGES)
    for value, share in expected.items():
        assert np.isclose(values, value, rtol=0, atol=1e-12).mean() == pytest.approx(share, abs=0.05)
    assert miou_interval(TWO_IMAGES) == pytest.approx(((9 / 12 + 4 / 7) / 2, (3 / 4 + 4 / 5) / 2))


def test_the_loss_is_paired_by_hand():
    """The second model is perfect on the first image, and the same on the second."""
    better = TWO_IMAGES.copy()
    better[0] = [[8, 0], [0, 0]]
    both = (9 / 12 + 4 / 7) / 2 - (11 / 12 + 4 / 5) / 2
    loss = miou_loss(TWO_IMAGES, better, "torch fp32")
    assert loss.loss == pytest.approx(both)
    # The first image twice: 6/8 against 8/8; the second twice: no difference, whatever its own mIoU is.
    assert loss.ci95 == pytest.approx((-0.25, 0.0))
    assert loss.of == "torch fp32"


def test_the_bootstraps_draws_are_of_whole_images():
    """Each resample is the mIoU of a sum of the images' matrices, as ``mean_iou`` has it."""
    one = evaluation(np.random.default_rng(7), 0.7, images=5)
    draws = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), size=20)
    expected = [mean_iou(np.tensordot(draw, one.confusions, 1)) for draw in draws]
    assert resampled_mious(one.confusions, 20) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_miou_covers_that_of_many_images():
    rng = np.random.default_rng(8)
    truth = evaluation(rng, 0.7, images=4000).miou
    intervals = [miou_interval(evaluation(rng, 0.7).confusions) for _ in range(100)]
    assert 0.85 <= np.mean([low <= truth <= high for low, high in intervals]) <= 1


def test_images_that_say_nothing_have_no_interval():
    assert miou_interval(TWO_IMAGES[:1]) is None
    assert miou_loss(TWO_IMAGES[:1], TWO_IMAGES[:1], "torch fp32").ci95 is None
    void = np.zeros((2, 2, 2), np.int64)
    assert miou_interval(void) is None
    half = np.concatenate([void[:1], TWO_IMAGES[:1]])  # a draw of the void one alone has no mIoU, and is left out
    assert miou_interval(half) == (0.75, 0.75)
    assert interval(np.array([1.0, np.nan, 3.0])) == pytest.approx((1.05, 2.95))


def test_the_error_over_images_leaves_out_draws_without_a_label():
    """Of a void and a labelled image: the second alone and both together differ by 0.25 each, the first by nothing."""
    void = np.zeros((1, 2, 2), np.int64)
    worse, better = TWO_IMAGES[:1], np.array([[[8, 0], [0, 0]]])
    found = improvement_over(
        {0: Evaluation(np.concatenate([void, worse]))}, {0: Evaluation(np.concatenate([void, better]))}, "x"
    )
    assert (found.delta_miou, found.standard_error, found.standard_error_over) == (0.25, 0.0, "images")
    one = np.concatenate([void, worse]), np.concatenate([void, better])
    assert bootstrap_standard_error(*one, resamples=2) == 0.0  # one draw is left, or none: no spread is known


def test_bootstrap_is_zero_for_equal_models():
    one = evaluation(np.random.default_rng(4), 0.7)
    assert bootstrap_standard_error(one.confusions, one.confusions, resamples=50) == 0
    assert improvement_over({0: one}, {0: one}, "x").delta_miou == 0


def test_miou_is_of_the_whole_split_not_a_mean_over_images():
    one = evaluation(np.random.default_rng(5), 0.7)
    assert one.miou == mean_iou(one.confusions.sum(0))
    assert one.miou != pytest.approx(np.mean([mean_iou(c) for c in one.confusions]))


def test_pixel_agreement_weighs_pixels_not_images():
    a = [np.zeros((10, 10), np.uint8), np.zeros((1, 10), np.uint8)]
    b = [np.zeros((10, 10), np.uint8), np.ones((1, 10), np.uint8)]
    assert pixel_agreement(a, b) == pytest.approx(100 / 110)


def test_latency_statistics_by_value():
    milliseconds = np.arange(1.0, 101.0)
    latency = summarise(milliseconds)
    assert (latency.median_ms, latency.mean_ms, latency.rounds) == (50.5, 50.5, 100)
    assert latency.std_ms == pytest.approx(np.std(milliseconds, ddof=1))
    assert latency.p95_ms == pytest.approx(np.percentile(milliseconds, 95))
    assert latency.p99_ms is None  # one round of 100 lies beyond: no basis
    assert summarise(np.arange(500.0)).p99_ms is not None


def test_the_medians_interval_covers_it():
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(200):
        low, high = summarise(rng.lognormal(0, 0.3, 60)).ci95_ms
        inside += low <= 1.0 <= high
    assert 0.90 <= inside / 200 <= 0.99


def test_a_constant_latency_has_a_point_interval():
    assert summarise(np.full(10, 2.5)).ci95_ms == (2.5, 2.5)


def test_latencies_of_a_throttled_process_are_named():
    from kdbench.comparison.latency import throttled_notes
    from kdbench.comparison.results import Row

    def row(method, share):
        latency = summarise(np.full(10, 2.5)).model_copy(update={"throttled": share})
        return Row(method=method, backend="onnx", precision="fp32", output="mask", status="ok", latency=latency)

    assert throttled_notes([row("baseline", 0.0), row("response", 0.02)]) == []
    (note,) = throttled_notes([row("baseline", 0.31), row("response", 0.02), row("feature", 0.12)])
    assert "stopped the engine for up to 31% of the time of baseline onnx fp32, feature onnx fp32: " in note
