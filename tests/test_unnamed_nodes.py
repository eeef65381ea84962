"""Files whose nodes have no names, as many exporters write them, are rounded to 8 bits as those with names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporters.layer_names import name_unnamed
from exporters.quantise import quantise_for_onnxruntime, quantise_for_tensorrt
from tests.onnx_models import FLOAT, INT64, save_model

SIDE = 8


def network(path, named):
    """Two layers, which an import names in any case, and nodes before, between and behind them."""
    rng = np.random.default_rng(0)
    constants = {
        "a": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=(8, 8, 1, 1)).astype(np.float32),
        "c": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["t0"], pads=[1] * 4, name="stem"),
        helper.make_node("Relu", ["t0"], ["t1"]),
        helper.make_node("Conv", ["t1", "b"], ["t2"], name="middle"),
        helper.make_node("Sigmoid", ["t2"], ["t3"]),
        helper.make_node("Mul", ["t2", "t3"], ["t4"]),
        helper.make_node("AveragePool", ["t4"], ["t5"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["t5", "c"], ["t6"], name="head"),
        helper.make_node("Resize", ["t6", "", "scales"], ["t7"], mode="linear"),
        helper.make_node("Softmax", ["t7"], ["t8"], axis=1),
        helper.make_node("ArgMax", ["t8"], ["ids"], axis=1, keepdims=0),
    ]
    for index, node in enumerate(nodes):
        node.name = node.name or ("" if not named else f"node {index}")
    save_model(
        path, {"image": (FLOAT, [1, 3, SIDE, SIDE])}, {"ids": (INT64, [1, SIDE, SIDE])}, nodes,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return path


def rounded(graph):
    """Operator and which of its first two inputs come out of a DequantizeLinear, node by node."""
    maker = {output: node.op_type for node in graph.node for output in node.output}
    return [
        (node.op_type, [maker.get(name) == "DequantizeLinear" for name in node.input[:2]])
        for node in graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    ]


@pytest.mark.parametrize("keep_float", [(), ("head",)], ids=["all", "without the head"])
@pytest.mark.parametrize(
    "quantise",
    [quantise_for_onnxruntime, pytest.param(quantise_for_tensorrt, marks=pytest.mark.needs("nncf"))],
    ids=["onnxruntime", "tensorrt"],
)
def test_the_same_operators_are_rounded_with_names_and_without(tmp_path, quantise, keep_float):
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(8)]
    found = []
    for named in (True, False):
        source, made = network(tmp_path / f"{named}.onnx", named), tmp_path / f"{named}-int8.onnx"
        quantise(source, made, batches, keep_float)
        found.append(rounded(onnx.load(made).graph))
    assert found[0] == found[1]
    assert {operator: any(inputs) for operator, inputs in found[1][-2:]} == {"Softmax": False, "ArgMax": False}
    convolutions = [inputs[0] for operator, inputs in found[1] if operator == "Conv"]
    assert convolutions == [True, True, not keep_float]


def test_names_are_given_once_and_kept():
    nodes = [
        helper.make_node(*about) for about in (("Relu", ["x"], ["y"]), ("Relu", ["y"], ["z"]), ("Neg", ["z"], ["w"]))
    ]
    nodes[1].name = "Relu_0"
    graph = helper.make_graph(nodes, "g", [], [])
    name_unnamed(graph)
    assert [node.name for node in graph.node] == ["Relu_0_", "Relu_0", "Neg_2"]
