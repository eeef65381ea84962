"""8 bits in linear layers, attention and transposed convolutions: what they hurt, and what --keep-float keeps."""

from __future__ import annotations

import json

import onnx
import pytest
import torch
from torch import nn

from exporters.export import export_all
from exporters.layer_names import nodes_named
from exporters.proven_export import export_as
from exporters.sensitivity import layer_errors, round_activation, round_weight
from kdbench.comparison.parity import LOGIT_SHARE
from kdbench.data.preprocessing import normalise
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER
from tests.exports import make_job, make_student
from tests.foreign import LIBRARIES, MIXED_LAYERS, Foreign, images, network


def test_the_error_of_a_linear_layer_by_value():
    class One(Foreign):
        def __init__(self):
            super().__init__()
            self.only, self.unused = nn.Linear(3, 10), nn.Linear(3, 4)

        def logits(self, x):
            return self.only(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    torch.manual_seed(0)
    model = One().eval()
    batch = images(2)
    x = torch.from_numpy(normalise(batch, model.input)).permute(0, 2, 3, 1)
    with torch.no_grad():
        expected = model.only(x)
        got = round_activation(x) @ round_weight(model.only.weight).T + model.only.bias
    (error,) = layer_errors(model, list(batch))  # the logits do not come through the other
    assert error.layer == "only"
    assert error.logit_error == pytest.approx(float((got - expected).norm() / expected.norm()), rel=1e-3)


def test_output_channels_of_a_transposed_convolution_are_its_second_dimension():
    weight = torch.tensor([[[[127.0]], [[1.27]]], [[[63.4]], [[0.634]]]])  # inputs x outputs x 1 x 1
    rounded = round_weight(weight, channel=1)
    assert torch.allclose(rounded, torch.tensor([[[[127.0]], [[1.27]]], [[[63.0]], [[0.63]]]]))


def test_every_layer_has_an_error_and_none_is_left_rounded():
    model = network("mixed")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    errors = layer_errors(model, list(images(2)))
    assert sorted(error.layer for error in errors) == sorted(MIXED_LAYERS)
    assert all(error.logit_error > 0 for error in errors)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.fixture
def mixed(declared, tmp_path):
    tree = RunTree(tmp_path, "shapes")
    make_student(tree, "baseline", 0, "mixed")
    return tree


def in_float(graph, layer):
    """Whether the layer's nodes read what no DequantizeLinear made."""
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    nodes = [node for node in graph.node if node.name in nodes_named([layer], [node.name])]
    assert nodes, layer
    return all("DequantizeLinear" not in (made_by.get(name) for name in node.input[:2]) for node in nodes)


def test_a_linear_layer_is_quantised_or_kept_in_float_for_onnx_runtime(mixed):
    with make_job(mixed, allow_drift=True) as job:
        for job.keep_float in ((), ("head",)):
            path = export_as(job, "onnx", "int8")
            graph = onnx.load(path).graph
            kept = {layer for layer in ("stem", "attention.out_proj", "mlp.0", "head") if in_float(graph, layer)}
            assert kept == set(job.keep_float)
            about = json.loads(sidecar_path(path).read_text())
            assert about["parity"]["pixel_agreement"] > 0.8
            assert {error["layer"] for error in about["layer_errors"]} == set(MIXED_LAYERS)


@pytest.mark.needs("openvino", "nncf")
def test_the_same_for_openvino(mixed):
    import openvino

    with make_job(mixed, allow_drift=True) as job:
        for job.keep_float in ((), ("head", "grow")):
            model = openvino.Core().read_model(export_as(job, "openvino", "int8"))
            products = [
                op for op in model.get_ordered_ops() if op.get_type_name() in ("MatMul", "ConvolutionBackpropData")
            ]
            rounded = [reads_rounded(op) for op in (products[-1], products[-2])]  # head, grow
            assert [products[-1].get_type_name(), products[-2].get_type_name()] == ["MatMul", "ConvolutionBackpropData"]
            assert rounded == ([False, False] if job.keep_float else [True, True])


def reads_rounded(operator):
    """Whether an operator's first input comes out of a FakeQuantize, through what only moves numbers."""
    source = operator.input_value(0).get_node()
    while source.get_type_name() in ("Transpose", "Reshape"):
        source = source.input_value(0).get_node()
    return source.get_type_name() == "FakeQuantize"


@pytest.mark.needs(ENGINE_BUILDER, "nncf")
def test_the_same_for_tensorrt(mixed):
    with make_job(mixed, allow_drift=True) as job:
        for job.keep_float in ((), ("mlp.0",)):
            path = export_as(job, "trt", "int8").with_suffix(".onnx")
            assert in_float(onnx.load(path).graph, "mlp.0") == bool(job.keep_float)


def test_messages_name_both_kinds_of_layers(mixed, kdbench):
    flags = ("export", "--method", "baseline", "--precision", "int8", "--runs", mixed.runs, "--keep-float")
    done = kdbench(*flags, "attention.sideways")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "got 'attention.sideways', expected a number, or names of convolutions and linear layers such as" in done.err
    done = kdbench(*flags, "5")
    assert "got 5 of 8 convolutions and linear layers, expected at most half of them" in done.err


@pytest.mark.slow
@pytest.mark.needs(ENGINE_BUILDER, "openvino", "nncf")
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_format_and_precision_of_a_librarys_network(declared, tmp_path, name):
    tree = RunTree(tmp_path, "shapes")
    make_student(tree, "baseline", 0, name)
    attempts = []
    with make_job(tree, allow_drift=True) as job:
        export_all(job, ("onnx", "trt", "openvino"), ("fp32", "fp16", "int8"), attempts.append)
    statuses = {(attempt.format, attempt.precision): (attempt.status, attempt.reason) for attempt in attempts}
    assert statuses.pop(("openvino", "fp16"))[0] == "unsupported"
    assert set(statuses.values()) == {("made", None)}
    for attempt in attempts:
        if attempt.sidecar:
            parity = attempt.sidecar["parity"]
            print(name, attempt.format, attempt.precision, parity["pixel_agreement"], parity["max_logit_difference"],
                  parity["logit_range"], parity["classes_seen"])  # fmt: skip
            # Classes of an untrained network lie close to each other; its logits tell more.
            assert parity["pixel_agreement"] >= {"fp32": 0.9999, "fp16": 0.98, "int8": 0.7}[attempt.precision]
            if attempt.format != "openvino":
                assert parity["max_logit_difference"] <= LOGIT_SHARE[attempt.precision] * parity["logit_range"]
