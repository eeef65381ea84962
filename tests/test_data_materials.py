"""The demo's scenes: reproducible from anywhere, with every class, and with materials that hue alone does not tell."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdbench.data import open_dataset
from kdbench.data.materials import CLASSES, FINISHES, SIZE, Materials

GOLDEN_COUNTS = [6579, 1337, 846, 454, 0, 0]
GOLDEN_COLOUR = [142.3, 151.2, 148.4]


def digest(sample):
    return hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()


def test_sample_is_what_every_dataset_gives():
    sample = open_dataset("materials", "val")[3]
    assert sample.name == "val-00003"
    assert (sample.image.shape, sample.image.dtype) == ((*SIZE, 3), np.uint8)
    assert (sample.label.shape, sample.label.dtype) == (SIZE, np.uint8)
    for index in (-1, 100):
        with pytest.raises(IndexError):
            Materials("val")[index]


def test_same_in_any_order_and_thread():
    scenes = Materials("train")
    forward = [digest(scenes[i]) for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: digest(scenes[i]), range(16))) == forward
    assert [digest(scenes[i]) for i in reversed(range(16))][::-1] == forward
    assert len({*forward, *(digest(Materials("val")[i]) for i in range(16))}) == 32


def test_first_validation_scene_is_the_one_that_published_numbers_used():
    """Other bytes would be another dataset; means, because the last bit may differ between builds of numpy."""
    scene = Materials("val")[0]
    assert np.bincount(scene.label.ravel(), minlength=len(CLASSES)).tolist() == GOLDEN_COUNTS
    np.testing.assert_allclose(scene.image.reshape(-1, 3).mean(0), GOLDEN_COLOUR, atol=0.2)


def test_every_class_is_in_the_labels_and_none_is_rare():
    pixels = sum(np.bincount(Materials("val")[i].label.ravel(), minlength=len(CLASSES)) for i in range(40))
    assert (pixels / pixels.sum() > 0.03).all()


def test_a_neighbour_in_hue_is_another_material():
    """Sorted by hue, no two finishes of one material stand side by side."""
    number = np.arange((len(CLASSES) - 1) * FINISHES)
    around = number[np.argsort(number * 0.618034 % 1)] // FINISHES
    assert (around != np.roll(around, 1)).all()
