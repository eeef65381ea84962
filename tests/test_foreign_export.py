"""Exports of networks that kdbench did not make: linear layers, attention, other resizes, operators that formats lack."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.export import export_all
from exporters.graph import write_graph
from exporters.half import half_copy
from exporters.layer_names import LAYER_OPERATORS, nodes_named
from exporters.proven_export import export_as
from exporters.sensitivity import layer_errors, round_activation, round_weight
from kdbench.backends.onnx_runtime import compute_types
from kdbench.data.normalisation import MEAN, STD
from kdbench.data.preprocessing import resize_image
from kdbench.data.shapes import Shapes
from kdbench.errors import RunFailed
from kdbench.kinds import PLUGINS
from kdbench.models.architectures import ARCHITECTURES
from kdbench.models.deployed import deployable
from kdbench.models.layers import layer_weights
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER
from tests.conftest import REPOSITORY
from tests.exports import SIZE, make_job, make_student, save_student
from tests.foreign import MIXED_LAYERS, NETWORKS, Foreign, Mixed, NoBessel, Positions, declare
from tests.test_graph import run

ATTENTION = ["attention.scaled_dot_product_attention", "attention.scaled_dot_product_attention#2"]
LIBRARIES = (
    pytest.param("unet", marks=pytest.mark.needs("segmentation_models_pytorch")),
    pytest.param("segformer", marks=pytest.mark.needs("transformers")),
)


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr(ARCHITECTURES, "_items", {name: ARCHITECTURES[name] for name in ARCHITECTURES.names()})
    declare()


def network(name, classes=10):
    torch.manual_seed(0)
    return NETWORKS[name](classes).eval()


def graph_of(model, path, output="mask", size=SIZE):
    write_graph(deployable(model, output), output, size, path)
    return onnx.load(path).graph


def images(count=4):
    return np.stack([resize_image(Shapes("val")[i].image, SIZE) for i in range(count)])


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


# 8 bits


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
    x = torch.from_numpy(((batch / 255 - MEAN) / STD).astype(np.float32))
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
                share = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.15}[attempt.precision]
                assert parity["max_logit_difference"] <= share * parity["logit_range"]


# One failure takes nothing else with it


@pytest.fixture
def no_bessel(monkeypatch, tmp_path):
    """Flags of commands on a trained network whose fp16 export fails, and which only a plugin declares."""
    monkeypatch.setattr(ARCHITECTURES, "_items", {name: ARCHITECTURES[name] for name in ARCHITECTURES.names()})
    declare()
    make_student(RunTree(tmp_path, "shapes"), "baseline", 0, "no_bessel")
    monkeypatch.setattr(ARCHITECTURES, "_items", {"student": ARCHITECTURES["student"]})
    monkeypatch.delitem(sys.modules, "kdbench_plugin_foreign_networks", raising=False)  # each test loads it anew
    monkeypatch.setenv(PLUGINS, "")  # which the commands set, for processes of their own
    return ("--method", "baseline", "--precision", "all", "--runs", tmp_path, "--json", tmp_path / "result.json")


PLUGIN = ("--plugin", REPOSITORY / "tests" / "plugins" / "foreign_networks.py")


@pytest.mark.needs(ENGINE_BUILDER, "openvino", "nncf")
def test_a_precision_that_fails_leaves_every_other(kdbench, no_bessel):
    done = kdbench(*PLUGIN, "export", *no_bessel, "--format", "all", "--allow-drift", "--size", "64x96")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("kdbench: 1 of 9 exports failed")
    rows = {(row["format"], row["precision"]): row for row in json.loads(no_bessel[-1].read_text())["exports"]}
    assert {key: row["status"] for key, row in rows.items() if row["status"] != "made"} == {
        ("onnx", "fp16"): "failed", ("trt", "fp16"): "skipped", ("openvino", "fp16"): "unsupported",
    }  # fmt: skip
    assert "bessel_j0" in rows["onnx", "fp16"]["reason"]
    assert rows["trt", "fp16"]["reason"] == "it is made from the onnx export, which was not made (failed)"


@pytest.mark.slow
def test_after_an_export_that_failed_the_other_rows_stand_in_compare(kdbench, no_bessel):
    assert kdbench(*PLUGIN, "export", *no_bessel, "--format", "onnx", "--allow-drift").code == 1
    done = kdbench(*PLUGIN, "compare", *no_bessel, "--backend", "torch,onnx", "--rounds", "10")
    assert done.code == 0, done.out + done.err
    rows = {(row["backend"], row["precision"]): row for row in json.loads(no_bessel[-1].read_text())["rows"]}
    assert {key for key, row in rows.items() if row["status"] == "ok"} == {
        ("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8"),
    }  # fmt: skip
    assert "does not exist" in rows["onnx", "fp16"]["reason"]


@pytest.mark.needs("openvino")
def test_a_bug_in_an_exporter_is_a_row_with_its_traceback_on_stderr(tree, kdbench, monkeypatch):
    from exporters import to_onnx

    def broken(*_):
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr(to_onnx, "finish_graph", broken)
    done = kdbench("export", "--method", "baseline", "--format", "onnx,openvino", "--runs", tree.runs)
    assert done.code == 1
    assert "baseline onnx fp32: failed: KeyError: 'a bug\\nof two lines'" in done.out
    assert "Traceback (most recent call last)" in done.err
    assert "in broken" in done.err
    assert "baseline openvino fp32: " in done.out
    assert done.err.splitlines()[-1].startswith("kdbench: 1 of 2 exports failed")


def test_a_method_that_cannot_be_read_leaves_the_next(tree, kdbench):
    path = tree.checkpoint("baseline")
    path.write_bytes(path.read_bytes()[:5000])
    done = kdbench("export", "--method", "baseline,feature", "--format", "onnx", "--runs", tree.runs, "--allow-drift")
    assert done.code == 2
    assert "baseline onnx fp32: failed: " in done.out
    assert "student.safetensors' is corrupt" in done.err
    assert tree.export("feature", "onnx", "fp32", "mask").exists()


# One class everywhere


@pytest.fixture
def dull(declared, tmp_path):
    """A network whose masks hold class 3 alone, by its last bias."""
    tree = RunTree(tmp_path, "shapes")
    torch.manual_seed(0)
    model = Mixed(10).eval()
    with torch.no_grad():
        model.head.bias[3] += 100
    save_student(tree, "baseline", model, "mixed")
    return tree


def test_where_masks_hold_one_class_the_logits_decide(dull, kdbench):
    path = dull.export("baseline", "onnx", "fp32", "mask")
    done = kdbench("export", "--method", "baseline", "--format", "onnx", "--runs", dull.runs)
    assert done.code == 0, done.out + done.err
    line = next(line for line in done.out.splitlines() if line.startswith("baseline onnx fp32: "))
    assert "(one class everywhere on these images: agreement proves little; logits differ by up to " in line
    parity = json.loads(sidecar_path(path).read_text())["parity"]
    assert (parity["pixel_agreement"], parity["classes_seen"]) == (1, 1)
    assert 0 < parity["max_logit_difference"] < 1e-3
    assert 90 < parity["logit_range"] < 130
    with make_job(dull) as job:
        graph = onnx.load(job.graph())
        bias = next(constant for constant in graph.graph.initializer if constant.name == "model.head.bias")
        bias.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.eye(10, dtype="f4")[5], bias.name)
        )
        onnx.save(graph, job.graph())
        message = r"PyTorch has one class everywhere on 4 images, which proves nothing, and logits differ by up to 1, "
        with pytest.raises(RunFailed, match=message):
            export_as(job, "onnx", "fp32")
