"""ONNX files from elsewhere: what is understood, and what is refused in one line."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import Reading
from kdbench.errors import BadInput
from tests.onnx_models import FLOAT, FLOAT16, INT64, UINT8, classifier, nchw_logits, nhwc_mask, save_model

IMAGE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def expected_logits(seed=0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """By hand: normalise, then the 1 x 1 convolution as a matrix product."""
    weight = onnx.numpy_helper.to_array(classifier(seed))[:, :, 0, 0]
    return np.einsum("hwk,ck->chw", (IMAGE / 255 - np.array(mean)) / np.array(std), weight)


def test_float_nchw_logits_with_imagenet_normalisation_assumed(tmp_path):
    backend = OnnxFile.open(nchw_logits(tmp_path / "a.onnx"))
    assert (backend.output, backend.classes, backend.size) == ("logits", 4, (8, 8))
    assert "ImageNet's mean 0.485/0.456/0.406" in backend.assumption
    logits = backend.infer(backend.prepare(IMAGE))
    assert np.allclose(logits[0], expected_logits(), atol=1e-4)
    assert np.array_equal(backend.class_map(IMAGE), expected_logits().argmax(0))


def test_named_normalisation(tmp_path):
    backend = OnnxFile.open(nchw_logits(tmp_path / "a.onnx"), Reading(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)))
    assert backend.assumption is None
    wanted = expected_logits(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert np.allclose(backend.infer(backend.prepare(IMAGE))[0], wanted, atol=1e-4)


def test_uint8_nhwc_class_ids(tmp_path):
    backend = OnnxFile.open(nhwc_mask(tmp_path / "a.onnx"))
    assert (backend.output, backend.classes, backend.assumption) == ("mask", None, None)
    assert np.array_equal(backend.class_map(IMAGE), expected_logits().argmax(0))


def test_a_coarser_grid_is_upsampled_bilinearly(tmp_path):
    import torch
    import torch.nn.functional as F

    path = save_model(
        tmp_path / "a.onnx", {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 4, 4])},
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
    )  # fmt: skip
    backend = OnnxFile.open(path, Reading(mean=(0, 0, 0), std=(1, 1, 1)))
    pooled = (IMAGE / 255).reshape(4, 2, 4, 2, 3).mean((1, 3)).transpose(2, 0, 1)[None].astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(pooled), size=(8, 8), mode="bilinear", align_corners=False).numpy()
    assert np.allclose(backend.infer(backend.prepare(IMAGE)), wanted, atol=1e-5)


def test_half_precision_and_open_dimensions(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    shape = ["n", 3, "h", "w"]
    path = save_model(tmp_path / "a.onnx", {"x": (FLOAT16, shape)}, {"y": (FLOAT16, shape)}, nodes)
    backend = OnnxFile.open(path, Reading(size=(16, 24)))
    assert backend.infer(backend.prepare(np.zeros((16, 24, 3), np.uint8))).shape == (1, 3, 16, 24)


def relu(path, inputs, outputs=None):
    outputs = outputs or {"y": next(iter(inputs.values()))}
    nodes = [helper.make_node("Relu", [name], [f"{name}_out" if i else "y"]) for i, name in enumerate(inputs)]
    return save_model(path, inputs, outputs, nodes)


def two_inputs(path):
    relu(path, {"image": (FLOAT, [1, 3, 8, 8]), "mask": (FLOAT, [1, 3, 8, 8])})


def wrong_rank(path):
    relu(path, {"image": (FLOAT, [3, 8, 8])})


def gray(path):
    relu(path, {"image": (FLOAT, [1, 1, 8, 8])})


def batch_of_two(path):
    relu(path, {"image": (FLOAT, [2, 3, 8, 8])})


def open_size(path):
    relu(path, {"image": (FLOAT, [1, 3, "h", "w"])})


def integers(path):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    save_model(path, {"x": (INT64, [1, 3, 8, 8])}, {"y": (INT64, [1, 3, 8, 8])}, nodes)


def classification(path):
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    save_model(path, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 1, 1])}, nodes)


def unknown_operator(path):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    nodes = [helper.make_node("Sharpen", ["x"], ["y"], domain="com.example")]
    save_model(path, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 8, 8])}, nodes, opsets=opsets)


def future_opset(path):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    about = {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 8, 8])}
    save_model(path, *about, nodes, opsets=[helper.make_opsetid("", 999)])


def cut_short(path):
    nchw_logits(path, classes=400)
    path.write_bytes(path.read_bytes()[:-300])


def external_data_missing(path):
    nchw_logits(path, classes=400, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


def of_metadata(entry):
    def make(path):
        model = onnx.load(nchw_logits(path))
        model.metadata_props.add(key="kdbench", value=entry)
        onnx.save(model, path)

    return make


REFUSED = [
    (of_metadata('{"schema_version": 1, "cla'), "its metadata entry 'kdbench' is damaged or of another kdbench"),
    (of_metadata('{"schema_version": 2}'), "expected JSON with schema_version 1: export it again with `kdbench"),
    (lambda path: relu(path, {"image": (FLOAT, [1, 3, 99999, 99999])}), "expected at most 16384 pixels a side"),
    (two_inputs, "has 2 inputs (image, mask), expected one image"),
    (wrong_rank, "input 'image' is tensor(float) [3, 8, 8], expected an RGB image, N x 3 x H x W or N x H x W x 3"),
    (gray, "[1, 1, 8, 8], expected an RGB image"),
    (batch_of_two, "[2, 3, 8, 8], expected a batch of 1 or an open one"),
    (open_size, "whose height and width are open: give --size HEIGHTxWIDTH"),
    (integers, "input 'x' is tensor(int64) [1, 3, 8, 8], expected uint8, float or float16"),
    (classification, "output 'y' is float32 [1, 3, 1, 1], expected logits N x C x h x w with at least 2 classes"),
    (unknown_operator, "is not an ONNX model that this ONNX Runtime runs"),
    (future_opset, "is not an ONNX model that this ONNX Runtime runs"),
    (cut_short, "cannot be decoded as an ONNX model: it was cut short or is another kind of file"),
    (external_data_missing, "keeps its weights in 'weights.bin', which is missing"),
    (lambda path: path.write_text("hello, this is text\n" * 40), "cannot be decoded as an ONNX model"),
    (lambda path: path.write_bytes(b""), "is empty, expected an ONNX model"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a git-lfs pointer"),
    (lambda path: path.mkdir(), "is a folder, expected an .onnx file"),
    (lambda path: None, "does not exist, expected an .onnx file: check the path"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[m.__name__ + str(i) for i, (m, _) in enumerate(REFUSED)])
def test_refused_in_one_line_by_parity_and_predict(tmp_path, kdbench, make, message):
    path = tmp_path / "model.onnx"
    make(path)
    good = nchw_logits(tmp_path / "good.onnx")
    (tmp_path / "photo.png").write_bytes(b"not reached")
    for arguments in (["parity", good, path, "--images", tmp_path], ["predict", path, tmp_path / "photo.png"]):
        done = kdbench(*arguments)
        assert done.code == 2, done.err
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1


def test_channels_without_a_batch_are_no_mask(tmp_path):
    """C x H x W was read as one channel that is above or below a threshold."""
    path = save_model(
        tmp_path / "a.onnx", {"pixels": (FLOAT, [1, 3, 8, 8])}, {"scores": (FLOAT, [4, 8, 8])},
        [helper.make_node("Conv", ["pixels", "w"], ["batch"]), helper.make_node("Squeeze", ["batch", "axes"], ["scores"])],
        [classifier(), onnx.numpy_helper.from_array(np.array([0]), "axes")],
    )  # fmt: skip
    with pytest.raises(BadInput, match="expected logits N x C x h x w"):
        OnnxFile.open(path)


def test_class_ids_beyond_uint8(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("ReduceSum", ["f", "axes"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["y"], to=INT64),
    ]
    axes = onnx.numpy_helper.from_array(np.array([3]), "axes")
    path = save_model(tmp_path / "a.onnx", {"x": (UINT8, [1, 8, 8, 3])}, {"y": (INT64, [1, 8, 8])}, nodes, [axes])
    backend = OnnxFile.open(path)
    with pytest.raises(Exception, match="got class ids 765 to 765, expected 0 to 255"):
        backend.class_map(np.full((8, 8, 3), 255, np.uint8))


def test_size_that_the_file_does_not_leave_open(tmp_path):
    with pytest.raises(BadInput, match=r"--size 16x16 was asked for: leave --size out"):
        OnnxFile.open(nchw_logits(tmp_path / "a.onnx"), Reading(size=(16, 16)))


def test_nan_logits_are_no_prediction(tmp_path, kdbench):
    from PIL import Image

    nodes = [helper.make_node("Sqrt", ["x"], ["y"])]
    path = save_model(tmp_path / "nan.onnx", {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (FLOAT, [1, 3, 8, 8])}, nodes)
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")  # negative after normalisation
    done = kdbench("predict", path, tmp_path / "black.png", "--output-dir", tmp_path / "out")
    assert done.code == 1
    assert "the engine returned NaN or infinite logits, expected finite ones" in done.err
    assert not (tmp_path / "out").exists()
