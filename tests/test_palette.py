"""Colours of classes whose dataset has none: any two can be told apart, also blended over a photo."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.data.base import voc_palette
from kdbench.data.materials import Materials
from kdbench.data.palette import DARKEST, LIGHTEST, distinct_palette, oklab


def nearest(palette):
    """The least distance between two of them."""
    places = oklab(np.array(palette))
    between = np.linalg.norm(places[:, None] - places[None], axis=2)
    return between[~np.eye(len(palette), dtype=bool)].min()


def test_oklab_of_known_colours():
    """White, and red and blue as Ottosson's page has them."""
    found = oklab(np.array([(255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]))
    expected = [(1, 0, 0), (0.62796, 0.22486, 0.12585), (0.45201, -0.03246, -0.31153), (0, 0, 0)]
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize(("classes", "apart"), [(6, 0.25), (12, 0.18), (21, 0.12), (64, 0.07), (150, 0.045)])
def test_any_two_are_apart(classes, apart):
    palette = distinct_palette(classes)
    assert len(set(palette)) == classes
    assert nearest(palette) > apart
    assert nearest(palette) > nearest(voc_palette(classes))


def test_none_is_lost_over_a_photo_and_the_first_leaves_it_as_it_is():
    palette = distinct_palette(255)
    assert len(set(palette)) == 255
    assert palette[0] == (0, 0, 0)
    lightness = oklab(np.array(palette[1:]))[:, 0]
    assert lightness.min() >= DARKEST
    assert lightness.max() <= LIGHTEST
    assert (128, 128, 128) not in palette  # void's


def test_more_classes_keep_the_colours_of_fewer():
    assert distinct_palette(20)[:6] == distinct_palette(6) == Materials("val").palette
