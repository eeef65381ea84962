"""The procedural scenes: reproducible from anywhere, and hard in the way they claim to be."""

from __future__ import annotations

import colorsys
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdbench.data.base import Sample
from kdbench.data.shapes import CLASSES, Shapes

GOLDEN_COUNTS = [14142, 0, 215, 1155, 0, 0, 0, 828, 0, 44]
GOLDEN_COLOUR = [27.8, 99.6, 103.0]


def digest(sample: Sample) -> str:
    return hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()


def test_sample_is_what_every_dataset_gives():
    sample = Shapes("val")[3]
    assert sample.name == "val-00003"
    assert (sample.image.shape, sample.image.dtype) == ((128, 128, 3), np.uint8)
    assert (sample.label.shape, sample.label.dtype) == ((128, 128), np.uint8)
    assert sample.label.max() < len(CLASSES)


def test_lengths_and_bounds():
    assert (len(Shapes("train")), len(Shapes("val"))) == (2000, 200)
    for index in (-1, 200):
        with pytest.raises(IndexError):
            Shapes("val")[index]


def test_same_in_any_order_thread_and_process():
    scenes = Shapes("train")
    forward = [digest(scenes[i]) for i in range(24)]
    backward = [digest(scenes[i]) for i in reversed(range(24))][::-1]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda i: digest(scenes[i]), range(24)))
    program = (
        "import hashlib; from kdbench.data.shapes import Shapes; s = Shapes('train')\n"
        "for x in (s[23], s[5]): print(hashlib.sha256(x.image.tobytes() + x.label.tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert forward == backward == threaded
    assert fresh.stdout.split() == [forward[23], forward[5]]


def test_no_scene_occurs_twice():
    digests = [digest(Shapes(split)[i]) for split in ("train", "val") for i in range(50)]
    assert len(set(digests)) == len(digests)


def test_first_validation_scene_is_the_one_that_published_numbers_used():
    # Tolerances allow for another Pillow or numpy; whoever changes the scenes must change every figure too.
    sample = Shapes("val")[0]
    counts = np.bincount(sample.label.ravel(), minlength=len(CLASSES))
    np.testing.assert_allclose(counts, GOLDEN_COUNTS, atol=12)
    np.testing.assert_allclose(sample.image.mean((0, 1)), GOLDEN_COLOUR, atol=1.0)


def test_every_class_occurs_and_the_thin_and_small_ones_are_rare():
    labels = np.stack([Shapes("val")[i].label for i in range(100)])
    share = dict(zip(CLASSES, np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size, strict=True))
    assert 0.7 < share["background"] < 0.88
    assert 0.001 < share["dot"] < 0.004
    assert 0.005 < share["wire"] < 0.015
    assert all(0.01 < share[name] < 0.06 for name in CLASSES if name not in ("background", "dot", "wire"))


def test_wires_are_thin():
    label = np.concatenate([Shapes("val")[i].label for i in range(30)])
    wire = label == CLASSES.index("wire")
    # A pixel whose four neighbours at distance 2 are all wire would lie in a line at least 4 pixels thick.
    thick = wire[2:-2, 2:-2] & wire[:-4, 2:-2] & wire[4:, 2:-2] & wire[2:-2, :-4] & wire[2:-2, 4:]
    assert wire.sum() > 1000
    assert thick.sum() < 0.02 * wire.sum()  # crossings only


def test_objects_occlude_each_other():
    touching = 0
    for i in range(30):
        label = Shapes("val")[i].label
        left, right = label[:, :-1], label[:, 1:]
        touching += np.count_nonzero((left != right) & (left > 0) & (right > 0)) > 0
    assert touching > 15


def test_backgrounds_are_textured():
    for i in range(10):
        sample = Shapes("val")[i]
        assert sample.image[sample.label == 0].std(axis=0).max() > 8


def test_colour_hints_at_the_class_and_no_more():
    """The best guess from a pixel's hue alone: better than chance (1 in 9), far from enough."""
    bins, classes = 36, len(CLASSES)

    def hues(sample: Sample) -> np.ndarray:
        flat = sample.image.reshape(-1, 3)[::7] / 255.0
        return np.array([int(colorsys.rgb_to_hsv(*pixel)[0] * bins) % bins for pixel in flat.tolist()])

    def counts(split: str, images: int) -> np.ndarray:
        table = np.zeros((bins, classes))
        for i in range(images):
            sample = Shapes(split)[i]
            np.add.at(table, (hues(sample), sample.label.ravel()[::7]), 1)
        return table[:, 1:] / table[:, 1:].sum(0)  # background left out, classes weighted alike

    guess = counts("train", 120).argmax(1)
    seen = counts("val", 60)
    recall = seen[np.arange(bins), guess].sum() / (classes - 1)
    assert 0.2 < recall < 0.5
