"""The one preprocessing, against torchvision's."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data.normalisation import MEAN, STD
from kdbench.data.preprocessing import normalise, parse_size, resize_image, resize_label
from kdbench.errors import BadInput
from kdbench.torchvision_compat import torchvision

F = importlib.import_module(f"{torchvision.__name__}.transforms.v2.functional")
BILINEAR, NEAREST = (F.InterpolationMode.BILINEAR, F.InterpolationMode.NEAREST_EXACT)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (37, 53, 3)).astype(np.uint8)


@pytest.mark.parametrize(("text", "size"), [("512x512", (512, 512)), ("360X480", (360, 480)), ("32x4096", (32, 4096))])
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "512", "512x", "31x512", "512x512x3", "-64x64", "6.4e1x64", "5²x64", "a x b"])
def test_parse_size_refuses(text):
    with pytest.raises(BadInput, match="expected HEIGHTxWIDTH of 32 to 16384 each") as caught:
        parse_size(text)
    assert f"--size: got '{text}'" in str(caught.value)


@pytest.mark.parametrize("size", [(64, 80), (20, 30), (37, 30), (1, 1)])
def test_resize_image_is_antialiased_bilinear(size):
    resized = resize_image(IMAGE, size)
    assert (resized.shape, resized.dtype) == ((*size, 3), np.uint8)
    np.testing.assert_array_equal(resized, np.asarray(F.resize(Image.fromarray(IMAGE), size, BILINEAR)))
    tensor = F.resize(torch.from_numpy(IMAGE).permute(2, 0, 1), size, BILINEAR, antialias=True).permute(1, 2, 0)
    # Both round intermediate results to integers, in another order of rows and columns.
    assert np.abs(resized.astype(int) - tensor.numpy().astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(74, 106), (20, 30), (37, 30)])
def test_resize_label_takes_the_nearest_pixel_centre(size):
    label = RNG.integers(0, 12, (37, 53)).astype(np.uint8)
    label[::5] = 255
    resized = resize_label(label, size)
    oracle = F.resize(torch.from_numpy(label)[None], size, NEAREST)[0].numpy()
    np.testing.assert_array_equal(resized, oracle)
    assert set(np.unique(resized)) <= set(np.unique(label))


def test_resize_to_the_same_size_is_free():
    label = IMAGE[..., 0]
    assert resize_image(IMAGE, (37, 53)) is IMAGE
    assert resize_label(label, (37, 53)) is label


def test_normalise():
    batch = RNG.integers(0, 256, (2, 9, 11, 3)).astype(np.uint8)
    result = normalise(batch)
    assert (result.shape, result.dtype) == ((2, 3, 9, 11), np.float32)
    assert result.flags.c_contiguous
    floats = F.to_dtype(torch.from_numpy(batch).permute(0, 3, 1, 2), torch.float32, scale=True)
    np.testing.assert_allclose(result, F.normalize(floats, list(MEAN), list(STD)).numpy(), atol=2e-6)


def test_normalise_by_hand():
    pixel = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(pixel)[0, :, 0, 0], expected, rtol=1e-6)
