"""Exports of imported files by value: what 8 bits do to a layer, float16, float32, names."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.float32 import in_float32, names_read
from exporters.half_graph import half_graph
from exporters.import_file import ImportOptions, import_file
from exporters.onnx_sensitivity import layer_errors, output_channel, round_weight
from exporters.quantise import SHARE_INSIDE
from exporters.wrap import BORDER, name_layers
from kdbench.backends.onnx_layout import Reading
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.data.normalisation import IMAGENET, MEAN, STD, Input
from kdbench.data.preprocessing import normalise
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree
from tests.imports import SIZE, Painted, Stranger, weights
from tests.onnx_models import FLOAT, UINT8, save_model


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
    low, high = np.quantile(values, [1 - SHARE_INSIDE, SHARE_INSIDE])
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
    ("said", "message"),
    [
        (
            Reading(mean=(104, 117, 123), bgr=True),
            "--mean: got it alone, for pixels of 0 to 255, expected --std as well",
        ),
        (Reading(std=(58.4, 57.1, 57.4)), "--std: got it alone, for pixels of 0 to 255, expected --mean as well"),
        (Reading(mean=(0.4,) * 3, range=255), "--mean: got it alone, for pixels of 0 to 255, expected --std as well"),
    ],
)
def test_half_a_normalisation_of_pixels_is_not_completed_by_that_of_fractions(said, message):
    with pytest.raises(BadInput, match=message):
        said.input({}, "x")
    assert said.input({"mean": [1, 2, 3], "std": [4, 5, 6]}, "x").range == 255  # the file itself says the other


def half_size_and_back(path, resize, constants, opset):
    """A stranger's network on half the grid, scaled up again by ``resize``, and the classes that its own file gives."""
    weight, bias = weights()
    arrays = {"w": weight[:, :, None, None], "b": bias, **constants}
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        *resize,
    ]
    height, width = SIZE
    save_model(
        path, {"pixels": (FLOAT, [1, 3, height, width])}, {"scores": (FLOAT, [1, 4, height, width])}, nodes,
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        opsets=[helper.make_opsetid("", opset)],
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"pixels": normalise(image[None], IMAGENET)})[0][0].argmax(0)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_files_of_old_opsets_keep_the_pixels_that_they_took(tmp_path, operator, opset, mode):
    scales = np.array([1, 1, 2, 2], np.float32)
    resize = [helper.make_node(operator, ["half", "scales"], ["scores"], mode=mode)]
    classes = half_size_and_back(tmp_path / "old.onnx", resize, {"scales": scales}, opset)
    tree = RunTree(tmp_path / "runs", "painted")
    split = Painted(label=classes)
    found = import_file(tmp_path / "old.onnx", tree, split, ImportOptions("old", Reading(mean=MEAN, std=STD)))
    assert found.parity.pixel_agreement == 1


@pytest.mark.parametrize("as_nodes", [True, False], ids=["constant nodes", "initializers"])
def test_scales_that_are_not_given_stay_so_in_float16(tmp_path, as_nodes):
    """As PyTorch's exporter of opset 11 writes F.interpolate(size=...)."""
    constants = {
        "roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32), "sizes": np.array([1, 4, *SIZE], np.int64)
    }  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in constants.items()
    ]
    resize = helper.make_node(
        "Resize", ["half", "roi", "scales", "sizes"], ["scores"], mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    )  # fmt: skip
    parts = ([*nodes, resize], {}) if as_nodes else ([resize], constants)
    classes = half_size_and_back(tmp_path / "theirs.onnx", *parts, 11)
    tree, split = RunTree(tmp_path / "runs", "painted"), Painted(label=classes)
    import_file(tmp_path / "theirs.onnx", tree, split, ImportOptions("theirs", Reading(mean=MEAN, std=STD)))
    half = tmp_path / "half.onnx"
    half_graph(tree.export("theirs", "onnx", "fp32", "mask"), half)
    engine = OnnxBackend.open(half, output="mask", threads=1)
    assert (engine.infer(split[0].image[None])[0] == split[0].label).mean() > 0.99


def test_weights_that_are_nodes_are_weights(tmp_path):
    """As Paddle's exporter writes them: counted, named, and ranked for 8 bits."""
    model = onnx.load(Stranger().write(tmp_path / "theirs.onnx"))
    nodes = [helper.make_node("Constant", [], [one.name], value=one) for one in model.graph.initializer]
    del model.graph.initializer[:]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, tmp_path / "theirs.onnx")
    tree = RunTree(tmp_path / "runs", "painted")
    found = import_file(tmp_path / "theirs.onnx", tree, Painted(), ImportOptions("x", Reading(mean=MEAN, std=STD)))
    assert found.sidecar["params"] == 4 * 3 + 4
    assert len(layer_errors(tree.export("x", "onnx", "fp32", "mask"), [Painted()[0].image[None]])) == 1


def test_weights_that_are_computed_are_ranked_as_none(tmp_path):
    model = onnx.load(Stranger().write(tmp_path / "theirs.onnx"))
    (layer,) = [node for node in model.graph.node if node.op_type == "Conv"]
    (weight,) = [one for one in model.graph.initializer if one.name == layer.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "small"))
    model.graph.node.insert(0, helper.make_node("Cast", ["small"], [layer.input[1]], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "theirs.onnx")
    tree, split = RunTree(tmp_path / "runs", "painted"), Painted()
    import_file(tmp_path / "theirs.onnx", tree, split, ImportOptions("x", Reading(mean=MEAN, std=STD)))
    assert layer_errors(tree.export("x", "onnx", "fp32", "mask"), [split[0].image[None]]) == []


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
