"""Parity by value, on hand-made masks and logits: whether two engines are the same model, and how it is told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from exporters.proven_export import require_parity
from kdbench.comparison.parity import Parity, compare_outputs, drift
from kdbench.data import Sample
from kdbench.errors import BadInput, RunFailed

NOTHING = np.zeros((3, 3), dtype=np.int64)


def parity_of(agreement=1.0, before=None, after=None, finite=True):
    """A parity of 100,000 pixels with the given share of equal classes, and the IoU of the only class labelled."""
    same = round(100_000 * agreement)
    between = np.array([[same, 100_000 - same], [0, 0]])
    against = [np.diag([1, 1]) * 0 if miou is None else np.array([[round(1e6 * miou), round(1e6 * (1 - miou))], [0, 0]])
               for miou in (before, after)]  # fmt: skip
    return Parity(("a", "b"), against[0], against[1], between, 4, None, finite)


class Fixed:
    """A backend that returns what it was given, in turn."""

    def __init__(self, results, output="mask", size=(2, 2)):
        self.results, self.output, self.size = iter(results), output, size

    def prepare(self, image):
        return image

    def infer(self, batch):
        return next(self.results)


def masks(*maps):
    return [np.array(m, dtype=np.uint8)[None] for m in maps]


def test_by_hand():
    image = np.zeros((2, 2, 3), np.uint8)
    labels = [np.array(m, np.uint8) for m in ([[0, 0], [1, 1]], [[2, 2], [255, 255]])]
    samples = [Sample(str(i), image, label) for i, label in enumerate(labels)]
    reference = Fixed(masks([[0, 0], [1, 1]], [[2, 0], [0, 0]]))
    candidate = Fixed(masks([[0, 1], [1, 1]], [[2, 0], [1, 0]]))
    parity = compare_outputs(reference, candidate, samples, ("a", "b", "c"))
    counts = (parity.confusion_reference, parity.confusion_candidate, parity.confusion_between)
    assert [one.dtype for one in counts] == [np.int64] * 3
    report = parity.as_json()
    assert report["pixel_agreement"] == 6 / 8
    # class a: reference 2 right of 3 (one label c taken for a); candidate 1 right of 3
    assert report["iou_reference"] == pytest.approx([2 / 3, 1, 1 / 2])
    assert report["iou_candidate"] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert report["miou_reference"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert report["worse_classes"] == ["a", "b"]
    assert report["class_agreement"] == pytest.approx([3 / 5, 2 / 4, 1])
    assert (report["images"], report["max_logit_difference"], report["finite"]) == (2, None, True)


def test_without_labels_and_with_absent_classes():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 255, np.uint8))
    parity = compare_outputs(Fixed(masks([[0, 0], [0, 0]])), Fixed(masks([[0, 0], [0, 1]])), [sample], ("a", "b", "c"))
    report = parity.as_json()
    assert (report["miou_reference"], report["miou_candidate"], report["worse_classes"]) == (None, None, [])
    assert report["class_agreement"] == [3 / 4, 0, None]
    assert all(math.isnan(change) for change in parity.class_changes())
    json.dumps(report, allow_nan=False)


def test_logits_and_their_difference():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    logits = np.zeros((1, 3, 2, 2), np.float32)
    other = logits.copy()
    other[0, 2, 1, 1] = -0.25
    result = compare_outputs(Fixed([logits], "logits"), Fixed([other], "logits"), [sample], "abc")
    assert (result.max_logit_difference, result.pixel_agreement) == (0.25, 1)
    broken = other.copy()
    broken[0, 0, 0, 0] = np.nan
    result = compare_outputs(Fixed([logits], "logits"), Fixed([broken], "logits"), [sample], "abc")
    assert (result.finite, result.max_logit_difference) == (False, None)
    json.dumps(result.as_json(), allow_nan=False)


def lone(reference, candidate, label=0, **fixed):
    """A parity of one 2 x 2 image, from masks or from logits."""
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.full((2, 2), label, np.uint8))
    return compare_outputs(Fixed(reference, **fixed), Fixed(candidate, **fixed), [sample], "abc")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_told_of_whichever_side_it_is_on(side, value):
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    outputs = [[np.zeros((1, 3, 2, 2), np.float32) for _ in range(3)] for _ in range(2)]
    outputs[side][1][0, 2, 1, 1] = value
    outputs[1][0][0, 1, 0, 0] = 1
    reference, candidate = (Fixed(output, "logits") for output in outputs)
    parity = compare_outputs(reference, candidate, [sample] * 3, ("a", "b", "c"))
    # The second image ends it; the first one counts.
    assert (parity.finite, parity.images, parity.max_logit_difference, parity.logit_range) == (False, 2, None, None)
    assert parity.classes == ("a", "b", "c")
    assert parity.confusion_reference.tolist() == [[4, 0, 0], [0, 0, 0], [0, 0, 0]]
    for confusion in (parity.confusion_candidate, parity.confusion_between):
        assert confusion.tolist() == [[3, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert drift(parity, "fp32") == "outputs hold NaN or infinity, expected finite ones"


def test_logits_differ_by_the_most_of_all_images_and_range_over_all_of_the_references():
    sample = Sample("x", np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2), np.uint8))

    def logits(*values):
        return np.array(values, np.float32).reshape(1, 2, 1, 2)

    reference = [logits(5, 1, 2, 3), logits(1, -4, 0.5, 0), logits(1, 2, 3, 4)]
    candidate = [logits(5.5, 1.25, 2, 3), logits(1, -4.25, 0.5, -0.75), logits(1.5, 2, 3, 4)]
    parity = compare_outputs(
        Fixed(reference, "logits", (1, 2)), Fixed(candidate, "logits", (1, 2)), [sample] * 3, ("a", "b")
    )
    assert (parity.max_logit_difference, parity.logit_range, parity.finite, parity.images) == (0.75, 9.0, True, 3)
    report = parity.as_json()
    assert (report["max_logit_difference"], report["logit_range"], report["classes_seen"]) == (0.75, 9.0, 2)


def test_logits_are_compared_in_one_shape_alone_and_masks_have_none():
    one, two = (np.zeros((1, 2, side, side), np.float32) for side in (2, 4))
    sample = Sample("x", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    for reference, candidate in (
        (Fixed([one], "logits", (2, 2)), Fixed([two], "logits", (4, 4))),
        (Fixed([one], "logits", (2, 2)), Fixed([one[:, 0].astype(np.uint8)], "mask", (2, 2))),
        (Fixed([one[:, 0].astype(np.uint8)], "mask", (2, 2)), Fixed([one], "logits", (2, 2))),
    ):
        parity = compare_outputs(reference, candidate, [sample], ("a", "b"))
        assert (parity.max_logit_difference, parity.logit_range) == (None, None)
        assert parity.confusion_between.tolist() == [[4, 0], [0, 0]]  # at the reference's size
        assert parity.confusion_candidate.tolist() == [[16, 0], [0, 0]]  # at the label's


def test_a_candidate_of_another_size_is_compared_at_the_references():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [1, 1]], np.uint8))
    larger = np.zeros((4, 6), np.uint8)
    larger[2:, 3:] = 1
    parity = compare_outputs(Fixed(masks([[0, 1], [1, 1]])), Fixed([larger[None]], size=(4, 6)), [sample], ("a", "b"))
    assert parity.confusion_between.tolist() == [[1, 0], [2, 1]]
    assert parity.pixel_agreement == 0.5


def test_images_are_brought_to_each_engines_size():
    seen = []

    class Seeing(Fixed):
        def prepare(self, image):
            seen.append(image.shape)
            return image

    sample = Sample("x", np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))
    zeros = np.zeros((1, 2, 2), np.uint8)
    compare_outputs(Seeing([zeros]), Seeing([zeros.repeat(2, 1)], size=(4, 2)), [sample], ("a", "b"))
    assert seen == [(2, 2, 3), (4, 2, 3)]


@pytest.mark.parametrize(("after", "worse"), [(3, []), (2, []), (1, ["b"])])
def test_a_class_that_loses_more_than_two_points_is_marked(after, worse):
    """IoU of class b: 4 of 100 pixels before, and 0.02 − 0.04 is −0.02 to the last bit: not more than two points."""
    confusions = [np.array([[0, 0], [100 - right, right]]) for right in (4, after)]
    parity = Parity(("a", "b"), *confusions, np.eye(2, dtype=int), 1, None)
    assert parity.class_changes()[1] == after / 100 - 0.04
    assert parity.as_json()["worse_classes"] == worse


def test_the_value_255_is_a_class_of_masks_and_means_ignore_in_labels_alone():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.array([[0, 0], [255, 255]], np.uint8))
    parity = compare_outputs(
        Fixed(masks([[0, 255], [255, 255]])), Fixed(masks([[0, 0], [0, 255]])), [sample], range(256)
    )
    assert (parity.pixel_agreement, parity.classes_seen) == (2 / 4, 2)
    between = parity.confusion_between
    assert (between[0, 0], between[255, 0], between[255, 255], between.sum()) == (1, 2, 1, 4)
    assert parity.confusion_reference.sum() == 2  # the two pixels that have a label


def test_classes_seen_are_those_of_the_reference():
    for masks_of, seen in ((([[0, 0], [2, 2]], [[1, 1], [1, 1]]), 2), (([[1, 1], [1, 1]], [[0, 1], [2, 2]]), 1)):
        parity = lone(masks(masks_of[0]), masks(masks_of[1]))
        assert (parity.classes_seen, parity.as_json()["classes_seen"]) == (seen, seen)


def test_without_any_pixel_nothing_agrees_and_nothing_is_labelled():
    nothing = Parity(("a", "b", "c"), NOTHING, NOTHING, NOTHING, 0, None)
    assert (nothing.pixel_agreement, nothing.labelled, nothing.classes_seen) == (0, False, 0)
    assert (nothing.finite, nothing.logit_range) == (True, None)
    one = np.diag([0, 0, 1])
    single = Parity(("a", "b", "c"), one, one, one, 1, None)
    assert (single.pixel_agreement, single.labelled, single.miou_reference, single.miou_candidate) == (1, True, 1, 1)


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.001), ("fp16", 0.02), ("int8", 0.25)])
def test_where_masks_hold_one_class_logits_tell(precision, share):
    """A mask of one class agrees with any constant: the largest difference is held against the reference's range."""
    same = np.diag([100, 0])

    def found(difference, spread=8.0, between=same, labelled=same):
        parity = Parity(("a", "b"), labelled, labelled, between, 3, difference, logit_range=spread)
        return drift(parity, precision, "ONNX")

    assert found(8 * share) is None
    assert found(8 * share * 1.01) == (
        "ONNX has one class everywhere on 3 images, which proves nothing, and logits differ by up to "
        f"{8 * share * 1.01:.3g}, expected at most {8 * share:.3g} for {precision}"
    )
    assert found(100.0, between=np.diag([99, 1])) is None  # masks of two classes tell enough
    assert found(None) is None  # only masks are known
    assert "expected at most 0 for" in found(0.001, spread=None)
    assert found(0.0, spread=None) is None


def test_a_precision_without_a_tolerance_is_not_judged():
    assert drift(Parity(("a", "b"), *[np.diag([9, 0])] * 3, 3, 99.0, logit_range=1.0), "bf16") is None
    assert drift(parity_of(0.5), "bf16") is None


def test_the_reference_is_named_in_each_reason():
    assert drift(parity_of(0.5), "fp32") == (
        "50.000% of pixels have PyTorch's class on 4 images, expected at least 99.9% for fp32"
    )
    assert drift(parity_of(0.5), "fp16", "'a.onnx'").startswith("50.000% of pixels have 'a.onnx''s class")
    assert drift(parity_of(1.0, 0.9, 0.5), "int8", "'a.onnx'") == (
        "mIoU 0.5000 on 4 images, 'a.onnx' has 0.9000, expected to lose at most 0.0100"
    )
    assert drift(parity_of(1.0, 0.9, 0.5), "fp32") is None  # of fp32 the pixels tell
    assert drift(parity_of(1.0, 0.02, 0.01), "int8") is None  # exactly what it may lose


def test_no_image_says_what_is_expected():
    with pytest.raises(BadInput) as caught:
        compare_outputs(Fixed([]), Fixed([]), [], "ab")
    assert str(caught.value) == "parity: got no image, expected at least one real image to compare on"


@pytest.mark.parametrize(
    ("parity", "precision", "message"),
    [
        (parity_of(0.999), "fp32", None),
        (parity_of(0.9989), "fp32", "99.890% of pixels have PyTorch's class on 4 images, expected at least 99.9%"),
        (parity_of(0.995), "fp16", None),
        (parity_of(0.9949), "fp16", "99.490% of pixels have PyTorch's class on 4 images, expected at least 99.5%"),
        (parity_of(0.5), "int8", None),  # without labels int8 cannot be judged
        (parity_of(0.5, 0.9, 0.89001), "int8", None),
        (
            parity_of(1.0, 0.9, 0.88),
            "int8",
            "mIoU 0.8800 on 4 images, PyTorch has 0.9000, expected to lose at most 0.0100",
        ),
        (parity_of(1.0, finite=False), "int8", "outputs hold NaN or infinity"),
    ],
)
def test_tolerances(parity, precision, message):
    if message is None:
        assert drift(parity, precision) is None
        require_parity(parity, precision, "x")
    else:
        with pytest.raises(RunFailed, match="--allow-drift") as caught:
            require_parity(parity, precision, "x")
        assert message in str(caught.value)
