"""int8 for ONNX Runtime: the first convolution reads the image's bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from exporters.image_bytes import CENTRED, fold_normalisation
from exporters.quantise import quantise_for_onnxruntime
from tests.exports import make_job
from tests.onnx_models import FLOAT, UINT8, nhwc_mask, save_model

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def network(path, *, mean=MEAN, std=STD, reader="Conv", perm=(0, 3, 1, 2)):
    """uint8 image → normalise → 3 x 3 convolution of stride 2 → Relu → 1 x 1 convolution → logits."""
    rng = np.random.default_rng(0)
    values = {
        "mean": np.array(mean).reshape(1, -1, 1, 1), "std": np.array(std).reshape(1, -1, 1, 1),
        "w": rng.normal(size=(6, 3, 3, 3)) / 3, "b": rng.normal(size=6), "v": rng.normal(size=(4, 6, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=perm),
        helper.make_node("Sub", ["planes", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node(
            reader, ["normal", "w", "b"], ["first"], name="first", **({"pads": [1] * 4} | {"strides": [2, 2]})
        ),
        helper.make_node("Relu", ["first"], ["relu"]),
        helper.make_node("Conv", ["relu", "v"], ["logits"], name="last"),
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    return save_model(
        path, {"image": (UINT8, [1, 16, 16, 3])}, {"logits": (FLOAT, [1, 4, 8, 8])}, nodes, constants
    )  # fmt: skip


def answer(model, image):
    serialised = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]


def images(count=12):
    return [np.random.default_rng(i).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8) for i in range(count)]


def test_a_folded_network_is_the_same_but_for_its_border(tmp_path):
    path = network(tmp_path / "float.onnx")
    folded = onnx.load(path)
    assert fold_normalisation(folded) == 114  # the nearest byte to the mean of 123.675, 116.28 and 103.53
    onnx.checker.check_model(folded, full_check=True)
    assert [node.op_type for node in folded.graph.node] == ["Cast", "Transpose", "Sub", "Conv", "Relu", "Conv"]
    for image in images(3):
        expected, got = answer(path, image), answer(folded, image)
        np.testing.assert_allclose(got[..., 1:, 1:], expected[..., 1:, 1:], rtol=1e-4, atol=1e-4)
        border = np.abs(got - expected)[..., 0, :]
        assert 1e-3 < border.max() < 0.1 * np.abs(expected).max()


def test_where_every_channel_has_one_mean_the_border_is_the_same_too(tmp_path):
    path = network(tmp_path / "float.onnx", mean=(128, 128, 128), std=(128, 128, 128))
    folded = onnx.load(path)
    assert fold_normalisation(folded) == 128
    for image in images(2):
        np.testing.assert_allclose(answer(folded, image), answer(path, image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [{"perm": (0, 3, 2, 1)}, {"mean": (1.0,)}, {"std": (1.0,)}],
    ids=["turned", "one mean", "one deviation"],
)
def test_another_graph_stays_as_it_is(tmp_path, other):
    model = onnx.load(network(tmp_path / "float.onnx", **other))
    before = model.SerializeToString()
    assert fold_normalisation(model) is None
    assert model.SerializeToString() == before


def test_a_layer_that_stays_in_float_keeps_its_normalised_image(tmp_path):
    model = onnx.load(network(tmp_path / "float.onnx"))
    assert fold_normalisation(model, but_not_into={"first"}) is None
    assert fold_normalisation(model, but_not_into={"last"}) == 114


def test_a_second_reader_of_the_normalised_image_keeps_it(tmp_path):
    model = onnx.load(network(tmp_path / "float.onnx"))
    model.graph.node.append(helper.make_node("Relu", ["normal"], ["also"]))
    assert fold_normalisation(model) is None


def test_the_quantised_network_reads_the_bytes_and_is_nearer_for_it(tmp_path):
    path, quantised = network(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    quantise_for_onnxruntime(path, quantised, images(), ())
    graph = onnx.load(quantised).graph
    (first,) = [node for node in graph.node if "image" in node.input]
    assert first.op_type == "Transpose"
    assert not {"Cast", "Sub", "Div"} & {node.op_type for node in graph.node}
    assert CENTRED not in {name for node in graph.node for name in node.input}
    reads = next(node for node in graph.node if first.output[0] in node.input)
    values = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    assert [values[name].item() for name in reads.input[1:]] == [1.0, 114]
    for image in images(3):
        expected = answer(path, image)
        assert np.abs(answer(quantised, image) - expected)[..., 1:, 1:].max() < 0.03 * np.ptp(expected)


def test_the_last_layer_still_computes_in_8_bits(tmp_path):
    quantise_for_onnxruntime(
        nhwc_mask(tmp_path / "float.onnx"), tmp_path / "int8.onnx", [i[:, :8, :8] for i in images()], ()
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    convolution = kinds.index("Conv")
    assert kinds[convolution + 1 :] == ["QuantizeLinear", "DequantizeLinear", "ArgMax"]


@pytest.mark.needs("onnxruntime")
def test_an_open_batch_is_quantised_too(exported):
    with make_job(exported, dynamic_batch=True) as job:
        quantise_for_onnxruntime(job.graph(), exported.runs / "open.onnx", job.calibration_batches(), ())
        session = onnxruntime.InferenceSession(str(exported.runs / "open.onnx"), providers=["CPUExecutionProvider"])
        (exported.runs / "open.onnx").unlink()
    two = np.concatenate(job.calibration_batches()[:2])
    both = session.run(None, {"image": two})[0]
    assert both.shape[0] == 2
    for index in range(2):
        assert np.array_equal(both[index], session.run(None, {"image": two[index : index + 1]})[0][0])
