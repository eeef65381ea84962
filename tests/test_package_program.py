"""A package's run.py and its requirements, of a file that nobody had to train."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kdbench.data.decoding import read_image
from kdbench.data.normalisation import Input
from kdbench.errors import BadInput
from kdbench.package.runner import program, requirements
from kdbench.package.tensors import Tensor
from tests.onnx_models import nhwc_mask

SIDE, CLASSES = 8, 4


def run(folder, image):
    """The exit code, stderr, and the mask where one was written."""
    shipped = SimpleNamespace(
        name="theirs", format="onnx", on_gpu=False, sidecar={}, size=(SIDE, SIDE), input=Input(),
        palette=[(index, 0, 0) for index in range(CLASSES)], path=nhwc_mask(folder / "mask.onnx", classes=CLASSES),
        image=Tensor("image", "uint8", (1, SIDE, SIDE, 3)), result=Tensor("ids", "int64", (1, SIDE, SIDE)),
    )  # fmt: skip
    (folder / "run.py").write_text(program(shipped), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, folder / "run.py", image, folder / "out.png"], capture_output=True, text=True
    )
    mask = np.asarray(Image.open(folder / "out.png")) if (folder / "out.png").exists() else None
    return done.returncode, done.stderr, mask


@pytest.mark.parametrize("deep", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_refused_as_predict_refuses_them(tmp_path, deep):
    image = tmp_path / "deep.tif"
    Image.fromarray(np.linspace(0, 60_000, 64 * 64).reshape(64, 64).astype(deep)).save(image)
    with pytest.raises(BadInput) as refused:
        read_image(image)
    assert run(tmp_path, image) == (1, f"{refused.value}\n", None)


def test_images_of_8_bits_are_segmented(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code, said, mask = run(tmp_path, tmp_path / "photo.png")
    assert (code, said, mask.shape, len(np.unique(mask)) > 1) == (0, "", (SIDE, SIDE), True)


@pytest.mark.parametrize(
    ("installed", "on_gpu", "line"),
    [
        ({"onnxruntime-gpu": "1.23.2"}, False, "onnxruntime==1.23.2"),
        ({"onnxruntime": "1.23.1", "onnxruntime-gpu": "1.23.2"}, False, "onnxruntime==1.23.1"),
        ({"onnxruntime": "1.23.1", "onnxruntime-gpu": "1.23.2"}, True, "onnxruntime-gpu==1.23.2"),
        ({"onnxruntime": "1.23.1"}, True, "onnxruntime-gpu==1.23.1"),
        ({}, False, "onnxruntime"),
    ],
)
def test_the_engine_is_required_in_the_version_of_either_distribution(installed, on_gpu, line):
    comparison = SimpleNamespace(environment={"versions": {"numpy": "2.4.6", **installed}})
    shipped = SimpleNamespace(comparison=comparison, format="onnx", on_gpu=on_gpu, sidecar={})
    assert requirements(shipped).splitlines() == ["numpy==2.4.6", "pillow>=10.1", line]
