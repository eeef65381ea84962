"""Graphs of networks that kdbench did not make: linear layers, attention, other resizes, operators that ONNX lacks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.graph import write_graph
from exporters.half import half_copy
from exporters.layer_names import LAYER_OPERATORS, nodes_named
from kdbench.backends.onnx_runtime import compute_types
from kdbench.data.normalisation import MEAN, STD
from kdbench.errors import RunFailed
from kdbench.models.deployed import deployable
from kdbench.models.layers import layer_weights
from kdbench.models.segmentation import SegmentationModel
from tests.exports import SIZE
from tests.foreign import LIBRARIES, MIXED_LAYERS, Foreign, Mixed, NoBessel, Positions, images, network
from tests.test_graph import run

ATTENTION = ["attention.scaled_dot_product_attention", "attention.scaled_dot_product_attention#2"]


def graph_of(model, path, output="mask", size=SIZE):
    write_graph(deployable(model, output), output, size, path)
    return onnx.load(path).graph


def layer_nodes(graph):
    return [node.name for node in graph.node if node.op_type in LAYER_OPERATORS]


# The contract of a network


def test_logits_of_the_images_size_are_not_resized():
    model = network("mixed").train()
    x = torch.randn(1, 3, 32, 48)
    assert model.logits(x).shape == (1, 10, 32, 48)
    model.lowest = None  # which an upsampling would read, and fail on
    assert torch.equal(model(x), model.logits(x))


def test_forward_asks_for_logits_and_never_for_taps():
    class Blind(Mixed):
        def taps(self, images):
            raise AssertionError("hooks are for training")

    torch.manual_seed(0)
    model = Blind(10).eval()
    image = torch.from_numpy(images(1))
    for elementwise in (False, True):
        mask = deployable(model, "mask", elementwise=elementwise)(image)
        assert mask.shape == (1, *SIZE)
    assert isinstance(model, SegmentationModel)


# Names


def test_layers_of_a_network():
    assert list(layer_weights(network("mixed"))) == MIXED_LAYERS


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_every_product_has_the_name_of_its_layer(tmp_path, half):
    model = network("mixed")
    graph = graph_of(half_copy(model) if half else model, tmp_path / "mixed.onnx")
    expected = [*MIXED_LAYERS[:2], *ATTENTION, *MIXED_LAYERS[2:]]
    assert layer_nodes(graph) == expected
    types = {"fp16"} if half else {"fp32"}
    assert set(compute_types(tmp_path / "mixed.onnx")) == types, "attention's products included"


def test_a_layer_that_is_called_twice_has_two_nodes(tmp_path):
    class Twice(Foreign):
        def __init__(self):
            super().__init__()
            self.stem, self.again, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Conv2d(8, 10, 1)

        def logits(self, x):
            x = self.stem(x).permute(0, 2, 3, 1)
            return self.head(self.again(self.again(x).relu()).permute(0, 3, 1, 2))

    names = layer_nodes(graph_of(Twice().eval(), tmp_path / "twice.onnx"))
    assert names == ["stem", "again", "again#2", "head"]
    others = ["again.more", "again/MatMulAddFusion", "stem/WithoutBiases"]
    assert nodes_named(["again"], [*names, *others]) == ["again", "again#2", "again/MatMulAddFusion"]


# Faithful


@pytest.mark.parametrize("output", ["mask", "logits"])
@pytest.mark.parametrize("mode", ["nearest", "corners"])
def test_other_resizes_are_exported_as_they_are(tmp_path, mode, output):
    class Resizing(Foreign):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 10, 1)
            options = {"mode": "nearest"} if mode == "nearest" else {"mode": "bilinear", "align_corners": True}
            self.grow = nn.Upsample(scale_factor=4, **options)

        def logits(self, x):
            return self.head(self.grow(self.stem(x)))

    torch.manual_seed(0)
    model = Resizing().eval()
    graph = graph_of(model, tmp_path / "resizing.onnx", output)
    assert [node.op_type for node in graph.node].count("Resize") == 2
    batch = images()
    if output == "logits":
        batch = ((batch / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    module = deployable(model, output)
    with torch.inference_mode():
        expected = np.concatenate([module(torch.from_numpy(one[None])).numpy() for one in batch])
    got = np.concatenate([run(tmp_path / "resizing.onnx")(one[None]) for one in batch])
    if output == "logits":
        expected, got = expected.argmax(1), got.argmax(1)
    assert len(np.unique(expected)) > 2
    assert (got == expected).mean() >= 0.9999


@pytest.mark.parametrize("name", ["mixed", *LIBRARIES])
def test_onnx_runtime_gives_the_networks_own_classes(tmp_path, name):
    model = network(name)
    graph = graph_of(model, tmp_path / "network.onnx", size=(64, 96))
    assert set(layer_weights(model)) <= set(layer_nodes(graph)), "every layer is found by its name"
    assert len(set(layer_nodes(graph))) == len(layer_nodes(graph))
    batch = images(2)[:, :64, :96]
    with torch.inference_mode():
        expected = deployable(model, "mask")(torch.from_numpy(batch)).numpy()
    got = np.concatenate([run(tmp_path / "network.onnx")(one[None]) for one in batch])
    assert len(np.unique(expected)) > 2
    assert (got == expected).mean() >= 0.9999


# Half precision


def test_float32_tensors_and_buffers_inside_a_network(tmp_path):
    torch.manual_seed(0)
    model = Positions(10).eval()
    assert half_copy(model).shift.dtype == torch.float16
    assert model.shift.dtype == torch.float32, "the original is left alone"
    graph_of(half_copy(model), tmp_path / "half.onnx")
    assert set(compute_types(tmp_path / "half.onnx")) == {"fp16"}
    with torch.inference_mode():
        expected = deployable(model, "mask")(torch.from_numpy(images(1))).numpy()
    assert len(np.unique(expected)) > 2
    assert (run(tmp_path / "half.onnx")(images(1)) == expected).mean() > 0.99


def test_what_half_precision_cannot_multiply_is_named(tmp_path):
    class Mixing(Foreign):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 10, 1)

        def logits(self, x):
            return self.head(x) @ torch.eye(x.shape[3])

    with pytest.raises(RunFailed, match=r"torch.onnx .* network.*: aten\.\w*m\w*: ") as caught:
        graph_of(half_copy(Mixing().eval()), tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(RunFailed, match="torch.onnx cannot export the network: .*bessel_j0") as caught:
        graph_of(half_copy(NoBessel(10).eval()), tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
