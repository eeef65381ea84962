"""Stands for TensorRT in a process of its own: an engine whose mask is class 1 where red is above 127."""

import ctypes

PIXELS = 64 * 64


class Logger:
    pass


class Runtime:
    def __init__(self, logger):
        self.bound = {}

    def deserialize_cuda_engine(self, data):
        assert data == b"an engine"
        return self

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        assert (name, shape) == ("image", (1, 64, 64, 3))

    def set_tensor_address(self, name, address):
        self.bound[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7
        image = (ctypes.c_uint8 * (3 * PIXELS)).from_address(self.bound["image"])
        mask = (ctypes.c_uint8 * PIXELS).from_address(self.bound["mask"])
        for index in range(PIXELS):
            mask[index] = image[3 * index] > 127
        return True
