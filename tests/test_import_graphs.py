"""Exports of imported files by value: what 8 bits do to a layer, float16, float32, names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.float32 import in_float32, names_read
from exporters.half_graph import half_graph
from exporters.import_file import ImportOptions, import_file
from exporters.onnx_sensitivity import layer_errors, output_channel, round_weight
from exporters.sensitivity import PERCENTILE
from exporters.wrap import BORDER, name_layers
from kdbench.backends.onnx_layout import Reading
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.data.normalisation import IMAGENET, MEAN, STD, Input
from kdbench.data.preprocessing import normalise
from kdbench.runs.tree import RunTree
from tests.imports import Painted, Stranger, weights
from tests.onnx_models import UINT8


@pytest.fixture
def wrapped(tmp_path):
    path = Stranger().write(tmp_path / "theirs.onnx")
    tree = RunTree(tmp_path / "runs", "painted")
    import_file(path, tree, Painted(), ImportOptions("theirs", Reading(mean=MEAN, std=STD)))
    return tree.export("theirs", "onnx", "fp32", "mask")


def test_what_8_bits_do_to_the_only_layer(wrapped):
    image = Painted()[0].image
    (error,) = layer_errors(wrapped, [image[None]])
    values = normalise(image[None], IMAGENET)[0]
    weight, bias = weights()
    low, high = np.quantile(values, [1 - PERCENTILE, PERCENTILE])
    scale = (max(high, 0) - min(low, 0)) / 255
    zero = round(-min(low, 0) / scale)
    rounded = (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale
    step = np.abs(weight).max(1, keepdims=True) / 127
    expected = np.einsum("khw,ck->chw", values, weight) + bias[:, None, None]
    got = np.einsum("khw,ck->chw", rounded, np.round(weight / step) * step) + bias[:, None, None]
    assert error.logit_error == pytest.approx(np.linalg.norm(got - expected) / np.linalg.norm(expected), rel=0.01)
    assert error.changed == pytest.approx((got.argmax(0) != expected.argmax(0)).mean(), abs=0.002)
    assert error.logit_error > 0.001


def test_the_dimension_of_output_channels():
    def channel(operator, dimensions, **attributes):
        return output_channel(helper.make_node(operator, ["x", "w"], ["y"], **attributes), dimensions)

    assert [channel("Conv", 4), channel("ConvTranspose", 4), channel("MatMul", 2), channel("MatMul", 3)] == [0, 1, 1, 2]
    assert [channel("Gemm", 2), channel("Gemm", 2, transB=1)] == [1, 0]
    weight = np.array([[1.0, -127.0], [0.4, 2.0]], np.float32)
    assert np.allclose(round_weight(weight, 0), [[1, -127], [25 * 2 / 127, 2]])
    assert np.allclose(round_weight(weight, 1)[:, 0], [1, 51 / 127])


def test_float16_inside_and_float32_at_the_border(wrapped, tmp_path):
    half = tmp_path / "half.onnx"
    half_graph(wrapped, half)
    model = onnx.load(half)
    onnx.checker.check_model(model, full_check=True)
    (layer,) = [node for node in model.graph.node if node.op_type == "Conv"]
    kinds = {constant.name: constant.data_type for constant in model.graph.initializer}
    assert kinds[layer.input[1]] == TensorProto.FLOAT16
    border = [node for node in model.graph.node if node.name.startswith(BORDER) and node.op_type in ("Sub", "Div")]
    assert [kinds[node.input[1]] for node in border] == [TensorProto.FLOAT] * 2
    engine = OnnxBackend.open(half, output="mask", threads=1)
    sample = Painted()[0]
    assert (engine.infer(sample.image[None])[0] == sample.label).mean() > 0.99


def test_float32_reaches_subgraphs_and_types():
    inner = helper.make_graph(
        [helper.make_node("Cast", ["outside"], ["cast"], to=TensorProto.FLOAT16),
         helper.make_node("Add", ["cast", "one"], ["y"])],
        "then", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(np.ones(1, np.float16), "one")],
    )  # fmt: skip
    node = helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT16, None)])
    model = helper.make_model(graph)
    in_float32(model)
    assert "FLOAT16" not in str(model)
    branch = model.graph.node[0].attribute[0].g
    assert branch.initializer[0].data_type == branch.node[0].attribute[0].i == TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {"flag", "outside"} <= names_read(model.graph.node[0])  # which pruning must not take away


def test_layers_are_named_after_their_weights():
    def layer(weight, name="", operator="Conv"):
        return helper.make_node(operator, ["x", weight], ["y"], name=name)

    nodes = [
        layer("net.encoder.0.weight", "net./encoder/0/Conv"), layer("net.encoder.0.weight"),
        layer("net.onnx::Conv_12", "net./head/Conv"), layer("t", "", "MatMul"),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.zeros(1, np.float32), n) for n in ("net.encoder.0.weight", "net.onnx::Conv_12")
    ]
    graph = helper.make_graph(nodes, "g", [], [], constants)
    name_layers(graph)
    assert [node.name for node in graph.node] == ["encoder.0", "encoder.0.2", "head.Conv", "MatMul_3"]


def test_a_mean_above_1_is_on_the_scale_of_pixels():
    assert Reading(mean=(104, 117, 123), std=(1, 1, 1), bgr=True).input({}, "x") == Input(
        (104, 117, 123), (1, 1, 1), 255, "BGR"
    )
    assert Reading(mean=(0.5,) * 3).input({}, "x") == Input((0.5,) * 3, STD)
    assert Reading(range=255).input({}, "x") == Input((0.0,) * 3, (1.0,) * 3, 255)
    assert Reading(bgr=True).input({}, "x") == Input(MEAN[::-1], STD[::-1], space="BGR")
    own = {"mean": [1, 2, 3], "std": [4, 5, 6], "range": 255, "space": "BGR"}
    assert Reading().input(own, "x") == Reading(bgr=True).input(own, "x") == Input((1, 2, 3), (4, 5, 6), 255, "BGR")
    assert Reading(bgr=False).input(own, "x") == Input((3, 2, 1), (6, 5, 4), 255, "RGB")
    assert Reading().input({"mean": 0.5, "std": 0.25}, "x") == Input((0.5,) * 3, (0.25,) * 3)  # one for all three
    assert Reading().input({}, "x") == IMAGENET


@pytest.mark.parametrize(
    "stranger",
    [
        Stranger(dtype=UINT8, channels_last=True, baked=Input()),
        Stranger(dtype=UINT8, channels_last=True, baked=Input(), out="ids", ids=UINT8),
        Stranger(out="ids", ids=UINT8),
    ],
    ids=["logits", "ids", "float image"],
)
def test_8_bits_meet_casts_alone(tmp_path, stranger):
    """TensorRT takes 8 bits at the border of a graph, in a Cast: an Identity there is refused."""
    path = stranger.write(tmp_path / "theirs.onnx")
    tree = RunTree(tmp_path / "runs", "painted")
    import_file(path, tree, Painted(), ImportOptions("theirs", Reading(mean=MEAN, std=STD)))
    graph = onnx.shape_inference.infer_shapes(onnx.load(tree.export("theirs", "onnx", "fp32", "mask"))).graph
    eight = {v.name for v in (*graph.input, *graph.output, *graph.value_info) if v.type.tensor_type.elem_type == UINT8}
    assert {graph.input[0].name, graph.output[0].name} <= eight
    touching = {node.op_type for node in graph.node if eight & {*node.input, *node.output}}
    assert touching <= {"Cast", "Transpose"}
    assert not [node for node in graph.node if node.op_type == "Identity"]
