"""Confusion matrix and IoU: by hand, and against torchmetrics and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdbench.comparison.metrics import confusion_matrix, iou_per_class, mean_iou, overlap_per_class
from kdbench.errors import BadInput

RNG = np.random.default_rng(0)


def array(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def random_pair(classes: int, shape: tuple[int, ...] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    """A label with ignored pixels, and a prediction that agrees with it on about half of the pixels."""
    label = RNG.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(RNG.random(shape) < 0.5, label, RNG.integers(0, classes, shape)).astype(np.uint8)
    label[RNG.random(shape) < 0.1] = 255
    return label, prediction


def test_two_by_two_by_hand():
    confusion = confusion_matrix(array([[0, 0], [1, 1]]), array([[0, 1], [1, 1]]), 2)
    np.testing.assert_array_equal(confusion, [[1, 1], [0, 2]])  # row = label, column = prediction
    np.testing.assert_allclose(iou_per_class(confusion), [1 / 2, 2 / 3])
    assert mean_iou(confusion) == pytest.approx(7 / 12)


def test_ignored_pixels_count_nowhere():
    confusion = confusion_matrix(array([[0, 255], [1, 255]]), array([[0, 1], [0, 0]]), 2)
    np.testing.assert_array_equal(confusion, [[1, 0], [1, 0]])
    everything = confusion_matrix(array([[255, 255]]), array([[0, 1]]), 2)
    assert everything.sum() == 0
    assert math.isnan(mean_iou(everything))


def test_the_mean_is_over_the_classes_that_labels_have():
    # Class 2 is in neither; class 3 is predicted once and labelled nowhere: it costs class 1 a pixel, and is no zero.
    confusion = confusion_matrix(array([[0, 1, 1, 1]]), array([[0, 1, 1, 3]]), 4)
    np.testing.assert_allclose(iou_per_class(confusion), [1, 2 / 3, np.nan, np.nan])
    assert mean_iou(confusion) == pytest.approx((1 + 2 / 3) / 2)
    np.testing.assert_allclose(overlap_per_class(confusion), [1, 2 / 3, np.nan, 0])


def test_all_models_of_a_split_are_a_mean_over_the_same_classes():
    label = array([[0, 0, 1, 1]])
    tidy, stray = (confusion_matrix(label, array([row]), 3) for row in ([0, 0, 1, 0], [0, 0, 1, 2]))
    # Both get one pixel of class 1 wrong; the one that calls it class 2 keeps class 0 whole.
    assert mean_iou(tidy) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mean_iou(stray) == pytest.approx((1 + 1 / 2) / 2)
    np.testing.assert_array_equal(np.isnan(iou_per_class(tidy)), np.isnan(iou_per_class(stray)))


def test_perfect_and_disjoint():
    label = array([[0, 1], [2, 2]])
    assert mean_iou(confusion_matrix(label, label, 3)) == 1.0
    assert mean_iou(confusion_matrix(label, (label + 1) % 3, 3)) == 0.0


def test_many_classes_do_not_overflow():
    label = np.full((2, 2), 254, dtype=np.uint8)
    confusion = confusion_matrix(label, label, 255)
    assert confusion.shape == (255, 255)
    assert confusion[254, 254] == 4
    assert confusion.dtype == np.int64


def test_a_split_is_the_sum_of_its_images_not_their_mean():
    pairs = [random_pair(5, (8, 9 + i)) for i in range(4)]
    whole = sum(confusion_matrix(label, prediction, 5) for label, prediction in pairs)
    label, prediction = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    np.testing.assert_array_equal(whole, confusion_matrix(label, prediction, 5))


def test_leading_dimensions_are_kept():
    confusions = np.stack([confusion_matrix(*random_pair(4), 4) for _ in range(6)]).reshape(2, 3, 4, 4)
    confusions[0, 1, 2], confusions[0, 1, :, 2] = 0, 0
    batched = iou_per_class(confusions)
    assert batched.shape == (2, 3, 4)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(batched[i, j], iou_per_class(confusions[i, j]))
    assert np.isnan(batched[0, 1, 2])
    assert np.isnan(batched).sum() == 1


@pytest.mark.parametrize("classes", [2, 11, 21])
def test_against_torchmetrics(classes):
    import kdbench.torchvision_compat  # noqa: F401 -- torchmetrics imports torchvision

    functional = pytest.importorskip("torchmetrics.functional.classification", reason="pip install torchmetrics")
    label, prediction = random_pair(classes)
    if classes > 2:
        keep = prediction != 1
        label[label == 1], prediction[~keep] = 0, 0  # class 1 absent from both
    confusion = confusion_matrix(label, prediction, classes)
    inputs = (torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(label.astype(np.int64)))
    options = {"num_classes": classes, "ignore_index": 255}
    oracle = functional.multiclass_confusion_matrix(*inputs, **options).numpy()
    np.testing.assert_array_equal(confusion, oracle)
    per_class = functional.multiclass_jaccard_index(*inputs, average="none", **options).numpy()
    np.testing.assert_allclose(np.nan_to_num(iou_per_class(confusion)), per_class, atol=1e-6)
    macro = functional.multiclass_jaccard_index(*inputs, average="macro", **options).item()
    assert mean_iou(confusion) == pytest.approx(macro, abs=1e-6)


def test_against_scikit_learn_with_a_class_that_only_predictions_have():
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn")
    label, prediction = random_pair(7)
    label[label == 3] = 255  # predicted by about every fourteenth pixel, labelled nowhere
    assert (prediction[label != 255] == 3).any()
    confusion = confusion_matrix(label, prediction, 7)
    labelled, there = label != 255, [0, 1, 2, 4, 5, 6]
    pair = label[labelled], prediction[labelled]
    per_class = metrics.jaccard_score(*pair, labels=there, average=None)
    np.testing.assert_allclose(iou_per_class(confusion)[there], per_class, atol=1e-9)
    assert mean_iou(confusion) == pytest.approx(metrics.jaccard_score(*pair, labels=there, average="macro"), abs=1e-9)
    assert np.isnan(iou_per_class(confusion)[3])


def test_a_prediction_outside_the_classes_is_refused():
    with pytest.raises(
        BadInput, match=r"prediction: got class 7, expected 0 to 2: the model was trained for another set"
    ):
        confusion_matrix(np.zeros((2, 2), np.uint8), np.array([[0, 1], [2, 7]], np.uint8), 3)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_first_class_too_many_is_refused_and_the_last_one_counted(classes):
    """Class C itself would be counted as class 0 of the next label's row."""
    label = np.zeros((1, 2), np.uint8)
    confusion = confusion_matrix(label, array([[0, classes - 1]]), classes)
    assert (confusion.sum(), confusion[0, classes - 1]) == (2, 2 if classes == 1 else 1)
    with pytest.raises(BadInput) as caught:
        confusion_matrix(label, array([[0, classes]]), classes)
    assert str(caught.value) == (
        f"prediction: got class {classes}, expected 0 to {classes - 1}: "
        "the model was trained for another set of classes than the dataset's"
    )


def test_no_pixel_is_no_count():
    nothing = np.zeros((0, 4), np.uint8)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]
