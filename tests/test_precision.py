"""fp16 and int8 exports: what the graphs hold, which layers 8 bits hurt, and that naming them helps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.proven_export import export_as
from exporters.quantise import calibration_images, percentile_images
from exporters.sensitivity import layer_errors, round_activation, round_weight
from kdbench.backends.onnx_metadata import read_metadata
from kdbench.data import Sample
from kdbench.data.preprocessing import resize_image
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput, RunFailed
from kdbench.models.registry import load_model
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER
from tests.exports import SIZE, make_job, make_student, save_student

CONVOLUTIONS = 65
"""Layers of the student that int8 quantises."""
SPOILED = "encoder.3.block.2.0"
"""A 1 x 1 convolution behind a ReLU, whose input is made hard to round in ``spoiled``."""


def kinds(graph, operator, index=0):
    """Element types of the tensors that enter an operator's nodes."""
    types = {i.name: i.data_type for i in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
    return {types.get(node.input[index]) for node in graph.node if node.op_type == operator}


def sidecar_of(tree, export_format, precision):
    return json.loads(sidecar_path(tree.export("baseline", export_format, precision, "mask")).read_text())


def test_fp16_graph_computes_in_half_with_uint8_at_the_border(exported):
    model = onnx.shape_inference.infer_shapes(onnx.load(exported.export("baseline", "onnx", "fp16", "mask")))
    assert kinds(model.graph, "Conv") == kinds(model.graph, "Conv", 1) == {onnx.TensorProto.FLOAT16}
    assert [model.graph.input[0].type.tensor_type.elem_type, model.graph.output[0].type.tensor_type.elem_type] == [
        onnx.TensorProto.UINT8, onnx.TensorProto.UINT8,
    ]  # fmt: skip
    assert sidecar_of(exported, "onnx", "fp16")["parity"]["pixel_agreement"] >= 0.995


def test_fp16_logits_leave_as_float32(tmp_path):
    tree = RunTree(tmp_path, "shapes")
    make_student(tree, "baseline", 0)
    with make_job(tree, output="logits") as job:
        path = export_as(job, "onnx", "fp16")
    graph = onnx.load(path).graph
    assert {graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type} == {
        onnx.TensorProto.FLOAT
    }
    assert 0 < json.loads(sidecar_path(path).read_text())["parity"]["max_logit_difference"] < 0.5


def test_int8_graph_has_every_convolution_between_quantised_tensors(exported):
    graph = onnx.load(exported.export("baseline", "onnx", "int8", "mask")).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == CONVOLUTIONS
    for node in convolutions:
        assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"], node.name
    assert exported.export("baseline", "onnx", "int8", "mask").stat().st_size < 0.35 * 11.6e6


def require_room_for_pairs(weights):
    """Two products with uint8 activations fit into 16 bits, in which processors without VNNI add them."""
    assert len(weights) > CONVOLUTIONS / 2
    for name, values in weights.items():
        assert 255 * 2 * np.abs(values.astype(int)).max() <= np.iinfo(np.int16).max, name


def test_int8_weights_for_onnx_runtime_leave_room_for_a_pair_of_products(exported):
    graph = onnx.load(exported.export("baseline", "onnx", "int8", "mask")).graph
    tensors = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.dims) == 4}
    require_room_for_pairs(weights)


@pytest.mark.needs("openvino", "nncf")
def test_int8_weights_for_openvino_leave_room_for_a_pair_of_products(exported):
    import openvino

    model = openvino.Core().read_model(exported.export("baseline", "openvino", "int8", "mask"))
    constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    weights = {op.get_friendly_name(): op.data for op in constants if op.get_element_type() == openvino.Type.i8}
    require_room_for_pairs(weights)


@pytest.mark.needs(ENGINE_BUILDER, "nncf")
def test_int8_graph_for_tensorrt_is_symmetric(exported):
    graph = onnx.load(exported.export("baseline", "trt", "int8", "mask").with_suffix(".onnx")).graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    zero_points = [values[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear" and len(n.input) > 2]
    assert len(zero_points) > 50
    assert all((zero == 0).all() for zero in zero_points)
    sidecar = sidecar_of(exported, "trt", "int8")
    assert sidecar["network"]["file"] == "mask.onnx"
    assert sidecar["network_layers_by_output_type"]["int8"] > 50


@pytest.mark.parametrize(
    "export_format",
    [
        "onnx",
        pytest.param("trt", marks=pytest.mark.needs(ENGINE_BUILDER, "nncf")),
        pytest.param("openvino", marks=pytest.mark.needs("openvino", "nncf")),
    ],
)
def test_sidecars_name_calibration_and_the_layers_that_hurt(exported, export_format):
    sidecar = sidecar_of(exported, export_format, "int8")
    assert (sidecar["calibration_images"], sidecar["keep_float"]) == (8, [])
    errors = [e["logit_error"] for e in sidecar["layer_errors"]]
    assert len(errors) == CONVOLUTIONS
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0
    assert sidecar["parity"]["pixel_agreement"] > 0.8


def test_the_onnx_file_carries_what_predict_needs(exported):
    model = onnx.load(exported.export("baseline", "onnx", "int8", "mask"))
    about = read_metadata({p.key: p.value for p in model.metadata_props}, Path("model.onnx"))
    assert (about["classes"], about["precision"], about["output"]) == (list(Shapes("val").classes), "int8", "mask")
    assert about["size"] == list(SIZE)
    assert about["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert set(about["git"]) == {"revision", "dirty"}
    assert about["training"]["epochs"] == 1
    assert "data_root" not in about["training"]


# Sensitivity


def test_rounding_by_value():
    weight = torch.tensor([[[[1.27]], [[-0.634]]], [[[0.0]], [[0.0]]]])
    assert torch.allclose(round_weight(weight), torch.tensor([[[[1.27]], [[-0.63]]], [[[0.0]], [[0.0]]]]))
    values = torch.linspace(0, 255, 256) + 0.3
    values[0] = 0
    rounded = round_activation(values)
    assert rounded[0] == 0
    assert (rounded - values).abs().max() <= 255.3 / 255 / 2 + 1e-4
    outlier = torch.cat([torch.rand(99_999), torch.tensor([1000.0])])
    assert round_activation(outlier)[-1] <= 1.0  # one value in 100,000 does not stretch the range


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A student of the same function, but one input channel of a layer is 200 times as large as it was."""
    tree = RunTree(tmp_path_factory.mktemp("spoiled"), "shapes")
    make_student(tree, "baseline", 0)
    model, _ = load_model(tree.checkpoint("baseline"), "")
    norm, layer = model.get_submodule("encoder.3.block.1.1"), model.get_submodule(SPOILED)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(layer, nn.Conv2d)
    with torch.no_grad():  # ReLU between them: what is scaled before can be divided after
        norm.weight[0] *= 200
        norm.bias[0] = 200 * norm.bias[0].abs() + 50
        layer.weight[:, 0] /= 200
    save_student(tree, "baseline", model)
    return tree


def test_the_layer_that_8_bits_spoil_is_named_first(spoiled):
    model, _ = load_model(spoiled.checkpoint("baseline"), "")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = [resize_image(Shapes("val")[i].image, SIZE) for i in range(2)]
    errors = layer_errors(model, images)
    assert SPOILED in [error.layer for error in errors[:2]]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len({error.layer for error in errors}) == CONVOLUTIONS


@pytest.mark.slow
@pytest.mark.needs(ENGINE_BUILDER, "openvino", "nncf")
def test_layers_kept_in_float_bring_the_model_back(spoiled):
    with make_job(spoiled, allow_drift=True) as job:
        for name in ("onnx", "openvino", "trt"):
            agreement = {}
            for job.keep_float in ((), 3):
                sidecar = json.loads(sidecar_path(export_as(job, name, "int8")).read_text())
                agreement[job.keep_float] = sidecar["parity"]["pixel_agreement"]
                assert len(sidecar["keep_float"]) == (3 if job.keep_float else 0)
            assert agreement[3] > agreement[()] + 0.01, (name, agreement)
            print(name, agreement)


def test_int8_that_lost_too_much_is_not_kept(spoiled):
    """Labels are PyTorch's own masks, so its mIoU is 1 and what int8 loses is seen in full."""
    path = spoiled.export("baseline", "onnx", "int8", "mask")
    path.unlink(missing_ok=True)
    with make_job(spoiled) as job:
        images = [resize_image(sample.image, SIZE) for sample in job.samples]
        job.samples = [Sample(str(i), image, job.reference.infer(image[None])[0]) for i, image in enumerate(images)]
        message = (
            r"baseline onnx int8 mask: mIoU 0\.\d{4} on 4 images, PyTorch has 1\.0000, expected to lose at most 0\.0100"
        )
        with pytest.raises(RunFailed, match=message):
            export_as(job, "onnx", "int8")
    assert not path.exists()


def test_calibration_needs_real_images(exported):
    with make_job(exported, calibration=[]) as job, pytest.raises(BadInput, match="int8: got no training image"):
        export_as(job, "onnx", "int8")


def test_calibration_images_are_spread_over_the_split():
    assert calibration_images(3) == [0, 1, 2]
    # Of the whole split, a multiple of 8 where there are so many.
    for count, used in ((3, 3), (12, 8), (63, 32), (120, 32)):
        chosen = percentile_images(count)
        assert (len(set(chosen)), chosen[0], chosen[-1]) == (used, 0, count - 1)
    chosen = calibration_images(1464)
    assert (len(chosen), chosen[0], chosen[-1]) == (120, 0, 1463)
    assert np.ptp(np.diff(chosen)) <= 1


@pytest.mark.slow
def test_dynamic_batch(exported, tmp_path):
    tree = RunTree(tmp_path, "shapes")
    make_student(tree, "baseline", 0)
    with make_job(tree, dynamic_batch=True) as job:
        path = export_as(job, "onnx", "fp32")
        engine = export_as(job, "trt", "fp32")
    assert engine.exists()
    sidecar = json.loads(sidecar_path(path).read_text())
    assert (sidecar["batch"], sidecar["inputs"][0]["shape"]) == ("dynamic", ["batch", *SIZE, 3])
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    images = np.stack([resize_image(Shapes("val")[i].image, SIZE) for i in range(3)])
    together = session.run(None, {"image": images})[0]
    apart = np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(3)])
    assert together.shape == (3, *SIZE)
    assert (together == apart).mean() > 0.9999
