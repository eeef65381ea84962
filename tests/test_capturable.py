"""No pass makes a tensor on the CPU: a CUDA graph could not capture it. Seen on the meta device, which needs no GPU."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.models.architectures import ARCHITECTURES
from kdbench.models.deployed import deployable
from kdbench.models.registry import build_model


class OnCpu(TorchDispatchMode):
    """Lists the operators that read or return a tensor of the CPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(func))
        return result


class FromPython(TorchFunctionMode):
    """Lists the calls that copy Python's numbers, which lie on the CPU, to the device below what a dispatch mode sees."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("new_tensor", "tensor", "as_tensor"):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def operators_on_cpu(module, image):
    with torch.inference_mode(), OnCpu() as operators, FromPython() as calls:
        module(image)
    return operators.found + calls.found


@functools.cache
def built(arch):
    """A network whose weights were drawn once, for the six ways in which it is asked. Copy it before changing it."""
    return build_model(arch, 5).eval()


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("output", "elementwise"), [("mask", False), ("mask", True), ("logits", False)])
@pytest.mark.parametrize("arch", [*ARCHITECTURES.names(), "student+fpn_resnet18"])
def test_no_pass_makes_a_tensor_on_the_cpu(arch, output, elementwise, half):
    model = copy.deepcopy(built(arch))
    module = deployable(model.half() if half else model, output, elementwise=elementwise).to("meta")
    image = torch.empty((2, 64, 96, 3), dtype=torch.uint8, device="meta")
    if output == "logits":
        image = torch.empty((2, 3, 64, 96), device="meta")
    assert operators_on_cpu(module, image) == []


def test_tensors_made_on_the_cpu_are_seen():
    images = torch.empty(3, device="meta")
    assert "aten.arange.default" in operators_on_cpu(lambda x: x + torch.arange(3).to(x), images)
    assert operators_on_cpu(lambda x: x + x.new_tensor(1.0), images) == ["new_tensor"]
