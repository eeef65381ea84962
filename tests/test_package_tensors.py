"""What a package says of its file's input and output, and which files it refuses."""

from __future__ import annotations

import pytest
from onnx import helper

from kdbench.errors import BadInput, Missing
from kdbench.package.tensors import Tensor, tensors_of
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree
from tests.onnx_models import FLOAT, UINT8, nchw_logits, nhwc_mask, save_model

ONNX = {"format": "onnx"}


@pytest.fixture
def tree(tmp_path):
    return RunTree(tmp_path / "runs", "shapes")


def test_names_types_and_extents_are_the_files_own(tree, tmp_path):
    image, mask = tensors_of(tree, nhwc_mask(tmp_path / "mask.onnx"), ONNX)
    assert (image, mask) == (Tensor("image", "uint8", (1, 8, 8, 3)), Tensor("ids", "int64", (1, 8, 8)))
    open_batch = nchw_logits(tmp_path / "open.onnx", height="rows", width=8)
    image, _ = tensors_of(tree, open_batch, ONNX)
    assert image.shape == (1, 3, -1, 8)
    assert str(image) == "1 x 3 x N x 8 float32"


def test_a_file_of_two_outputs_is_refused(tree, tmp_path):
    outputs = {"a": (FLOAT, [1]), "b": (FLOAT, [1])}
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in outputs]
    path = save_model(tmp_path / "two.onnx", {"x": (FLOAT, [1])}, outputs, nodes)
    with pytest.raises(BadInput, match="has 1 inputs and 2 outputs, expected one of each"):
        tensors_of(tree, path, ONNX)


def test_a_name_that_would_be_code_is_refused(tree, tmp_path):
    name = "x'); import os; ('"
    path = save_model(
        tmp_path / "odd.onnx", {name: (UINT8, [1])}, {"y": (UINT8, [1])}, [helper.make_node("Identity", [name], ["y"])]
    )
    with pytest.raises(BadInput, match="expected letters, digits and . / : _ - alone: rename it"):
        tensors_of(tree, path, ONNX)


def test_an_engine_has_the_tensors_of_the_very_network_that_it_was_built_from(tree, tmp_path):
    engine = tmp_path / "exports" / "trt-fp32" / "mask.engine"
    exported = tmp_path / "exports" / "onnx-fp32" / "mask.onnx"
    for folder in (engine.parent, exported.parent):
        folder.mkdir(parents=True)
    nhwc_mask(exported)
    about = {"file": "mask.onnx", "sha256": sha256(exported)}
    sidecar = {"format": "trt", "precision": "fp32", "method": "baseline", "network": about}
    image, _ = tensors_of(tree, engine, sidecar)
    assert image.name == "image"
    # Beside the engine lies the one that was quantised for it; another file of that name is not it.
    nchw_logits(engine.with_suffix(".onnx"))
    assert tensors_of(tree, engine, sidecar)[0].name == "image"
    beside = {**sidecar, "network": {**about, "sha256": sha256(engine.with_suffix(".onnx"))}}
    assert tensors_of(tree, engine, beside)[0].name == "pixels"
    nhwc_mask(exported, seed=1)
    with pytest.raises(Missing, match=r"`kdbench export --method baseline --format onnx,trt --dataset shapes`"):
        tensors_of(tree, engine, sidecar)
