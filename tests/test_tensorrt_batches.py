"""TensorRT engines with an open batch, on an engine and a GPU that are played: how many images their buffers hold."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdbench.backends.tensorrt_engine import TensorRTBackend
from kdbench.errors import RunFailed

HEIGHT, WIDTH, MOST = 2, 3, 8


class Context:
    """Writes each image's first channel to the output, in the buffers and the shape that it was given."""

    def __init__(self):
        self.buffers, self.addresses, self.shapes = {}, {}, []

    def empty(self, shape, *, dtype, device="", pin_memory=False):
        made = torch.zeros(shape, dtype=dtype)
        self.buffers[made.data_ptr()] = made
        return made

    def set_input_shape(self, name, shape):
        assert name == "image"
        if shape[0] <= MOST:
            self.shapes.append(list(shape))
        return shape[0] <= MOST

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        image, mask = (self.buffers[self.addresses[name]] for name in ("image", "mask"))
        assert list(image.shape) == self.shapes[-1]
        mask.copy_(image[..., 0])
        return True


@pytest.fixture
def backend(monkeypatch):
    context = Context()
    monkeypatch.setattr(torch, "empty", context.empty)
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    shapes = {"image": (-1, HEIGHT, WIDTH, 3), "mask": (-1, HEIGHT, WIDTH)}
    engine = SimpleNamespace(
        create_execution_context=lambda: context,
        num_io_tensors=2,
        get_tensor_name=lambda index: list(shapes)[index],
        get_tensor_mode=lambda name: "in" if name == "image" else "out",
        get_tensor_dtype=lambda name: np.uint8,
        get_tensor_shape=lambda name: shapes[name],
    )
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda kind: kind)
    made = TensorRTBackend(trt, engine, "mask", (HEIGHT, WIDTH), {"device": "a GPU"})
    made.context = context
    return made


def test_as_many_images_as_are_given(backend):
    batch = np.random.default_rng(0).integers(0, 255, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for count in (1, 4, 4, 5, 1):
        np.testing.assert_array_equal(backend.infer(batch[:count]), batch[:count, ..., 0])
    # Buffers are made anew only where the number changes.
    assert [shape[0] for shape in backend.context.shapes] == [1, 4, 5, 1]


def test_more_images_than_the_engine_was_built_for(backend):
    with pytest.raises(RunFailed, match=f"trt: the engine refused {MOST + 1} images at once"):
        backend.infer(np.zeros((MOST + 1, HEIGHT, WIDTH, 3), np.uint8))
    one = np.full((1, HEIGHT, WIDTH, 3), 7, np.uint8)
    np.testing.assert_array_equal(backend.infer(one), one[..., 0])  # and goes on with what it was built for
