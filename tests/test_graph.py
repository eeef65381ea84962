"""Exported graphs hold no nodes that compute shapes: GPU engines run those on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from exporters.graph import describe_graph, remove_unused, resize_by_scales, scale_factor, write_graph
from kdbench.errors import RunFailed
from kdbench.models.deployed import deployable
from kdbench.models.registry import load_model
from tests.conditions import ENGINE_BUILDER
from tests.onnx_models import FLOAT, INT64

SHAPE_NODES = {"Shape", "Size", "Gather", "Concat", "Reshape", "Expand", "ConstantOfShape", "Range", "NonZero"}
ODD = (85, 151)
"""Height and width that no stride divides: each Resize has its own factors."""


def shape_nodes(graph):
    return {node.op_type for node in graph.node} & SHAPE_NODES


@pytest.mark.parametrize(
    ("export_format", "precision", "output"),
    [("onnx", "fp32", "mask"), ("onnx", "fp32", "logits"), ("onnx", "fp16", "mask"), ("onnx", "int8", "mask"),
     pytest.param("trt", "int8", "mask", marks=pytest.mark.needs("nncf", ENGINE_BUILDER))],
)  # fmt: skip
def test_static_files_compute_no_shape(exported, export_format, precision, output):
    graph = onnx.load(exported.export("baseline", export_format, precision, output).with_suffix(".onnx")).graph
    assert shape_nodes(graph) == set()
    constants = {constant.name for constant in graph.initializer}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert len(resizes) == 5
    assert all(set(node.input[1:]) <= {*constants, ""} for node in resizes)


def test_an_open_batch_computes_no_shape_either_and_gives_the_same(exported, tmp_path):
    model, _ = load_model(exported.checkpoint("baseline"), "")
    for name, dynamic in (("static", False), ("open", True)):
        write_graph(deployable(model, "logits"), "logits", ODD, tmp_path / f"{name}.onnx", dynamic_batch=dynamic)
    graphs = {name: onnx.load(tmp_path / f"{name}.onnx").graph for name in ("static", "open")}
    assert shape_nodes(graphs["open"]) == set()
    assert len(graphs["open"].node) == len(graphs["static"].node)
    images = np.random.default_rng(0).normal(size=(3, 3, *ODD)).astype(np.float32)
    static, together = (run(tmp_path / f"{name}.onnx") for name in ("static", "open"))
    expected = np.concatenate([static(images[i : i + 1]) for i in range(3)])
    assert np.abs(together(images) - expected).max() < 1e-5 * np.abs(expected).max()


def run(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def test_factors_by_value():
    assert scale_factor(6, 12) == 2
    assert scale_factor(90, 360) == 4
    assert scale_factor(12, 23) == np.float32(23 / 12) + np.spacing(
        np.float32(1.9)
    )  # float32(23 / 12) is below 23 / 12
    for small in range(1, 130):
        for large in range(1, 300):
            factor = scale_factor(small, large)
            # Engines multiply in 32 or 64 bits, and round down.
            assert int(np.float32(small) * factor) == int(small * float(factor)) == large
            assert abs(float(factor) * small / large - 1) < 2**-22


def resize_model(height, large):
    """A batch left open, 2 channels, height x 5 → large x 9: sizes put together as torch.onnx does."""
    nodes = [
        helper.make_node("Shape", ["x"], ["start"], start=0, end=2),
        helper.make_node("Concat", ["start", "sides"], ["sizes"], axis=0),
        helper.make_node(
            "Resize", ["x", "", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"
        ),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    values = [
        helper.make_tensor_value_info(name, FLOAT, ["batch", 2, *sides])
        for name, sides in (("x", (height, 5)), ("y", (large, 9)), ("z", (large, 9)))
    ]
    constants = [numpy_helper.from_array(np.array([large, 9], np.int64), "sides")]
    graph = helper.make_graph(nodes, "resize", values[:1], values[2:], constants, value_info=values[1:2])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("height", "large"), [(12, 23), (7, 31), (6, 12), (7, 3)])
def test_resize_by_scales_by_value(tmp_path, height, large):
    model = resize_model(height, large)
    onnx.save(model, tmp_path / "sizes.onnx")
    resize_by_scales(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "scales.onnx")
    assert [node.op_type for node in model.graph.node] == ["Resize", "Relu"]
    assert [constant.name for constant in model.graph.initializer] == ["scales_0"]
    image = np.random.default_rng(1).normal(size=(3, 2, height, 5)).astype(np.float32)
    before, after = run(tmp_path / "sizes.onnx")(image), run(tmp_path / "scales.onnx")(image)
    assert before.shape == after.shape == (3, 2, large, 9)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_an_open_height_has_no_factor():
    with pytest.raises(RunFailed, match=r"got a Resize from \['h', 5\] to \[9, 9\], expected a height and width"):
        resize_by_scales(resize_model("h", 9))


def test_a_graph_is_described_by_value():
    nodes = [
        helper.make_node(kind, [a], [b]) for kind, a, b in (("Relu", "x", "t"), ("Relu", "t", "u"), ("Neg", "u", "y"))
    ]
    values = [helper.make_tensor_value_info(name, FLOAT, ["batch", 3]) for name in "xy"]
    opsets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx", 17)]
    described = describe_graph(
        helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=opsets)
    )
    assert described == {
        "inputs": [{"name": "x", "dtype": "float", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float", "shape": ["batch", 3]}],
        "opset": 17, "nodes": 3, "operators": {"Relu": 2, "Neg": 1},
    }  # fmt: skip


def test_unused_nodes_go_with_what_only_they_read():
    nodes = [
        helper.make_node("Add", ["x", "a"], ["kept"]),
        helper.make_node("Add", ["x", "b"], ["dead"]),
        helper.make_node("Relu", ["dead"], ["deader"]),
    ]
    value = helper.make_tensor_value_info("x", INT64, [1])
    result = helper.make_tensor_value_info("kept", INT64, [1])
    constants = [numpy_helper.from_array(np.array([1]), name) for name in ("a", "b")]
    graph = helper.make_graph(nodes, "g", [value], [result], constants)
    remove_unused(graph)
    assert [node.output[0] for node in graph.node] == ["kept"]
    assert [constant.name for constant in graph.initializer] == ["a"]
