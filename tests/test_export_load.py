"""Loading an export: what is refused, and what the message says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kdbench.backends import load_backend
from kdbench.data.shapes import Shapes
from kdbench.errors import BackendUnavailable, BadInput, EngineRefused, RunFailed
from kdbench.runs.checkpoints import load_checkpoint, save_checkpoint
from kdbench.runs.tree import sidecar_path
from tests.conditions import ENGINE_BUILDER, HAS_GPU
from tests.exports import OUTPUTS, SIZE, edit_sidecar


@pytest.mark.needs(ENGINE_BUILDER)
def test_engine_without_a_gpu_says_why_it_does_not_run(exported):
    with pytest.raises(
        BackendUnavailable, match="needs an NVIDIA GPU and its driver, which this machine does not have"
    ):
        load_backend("trt", exported.export("baseline", "trt", "fp32", "mask"), output="mask")


@pytest.mark.gpu
@pytest.mark.needs(ENGINE_BUILDER)
@pytest.mark.parametrize("output", OUTPUTS)
def test_engine_on_a_gpu_agrees_with_torch(exported, output):
    from kdbench.comparison.parity import compare_outputs

    scenes = Shapes("val")
    try:
        engine = load_backend("trt", exported.export("baseline", "trt", "fp32", output), output=output, device="cuda")
    except EngineRefused as error:
        pytest.skip(str(error))
    reference = load_backend("torch", exported.checkpoint("baseline"), output=output, device="cuda")
    assert (
        compare_outputs(reference, engine, [scenes[i] for i in range(4)], scenes.classes).pixel_agreement >= 0.99
    )  # TF32


def test_cuda_without_its_provider_names_the_fix(exported, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="needs CUDAExecutionProvider: `pip install onnxruntime-gpu`"):
        load_backend("onnx", exported.export("baseline", "onnx", "fp32", "mask"), output="mask", device="cuda")


def test_a_file_cut_short(tree):
    path = tree.export("baseline", "onnx", "fp32", "mask")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=r"mask.onnx' is not the file that its sidecar describes \(sha256 differs\)"):
        load_backend("onnx", path, output="mask")


def test_a_file_that_is_no_onnx(tmp_path):
    from kdbench.backends.onnx_runtime import OnnxBackend

    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(BadInput, match="x.onnx' is not an ONNX model that this ONNX Runtime runs"):
        OnnxBackend.open(tmp_path / "x.onnx", output="mask")


def test_an_onnx_of_another_output(exported):
    from kdbench.backends.onnx_runtime import OnnxBackend

    with pytest.raises(
        BadInput, match=r"input 'image' is tensor\(float\) \[1, 3, 96, 128\], expected 1 x H x W x 3 uint8"
    ):
        OnnxBackend.open(exported.export("baseline", "onnx", "fp32", "logits"), output="mask")


def test_an_export_older_than_its_checkpoint(tree):
    state, about = load_checkpoint(tree.checkpoint("baseline"), "")
    state["classifier.bias"] += 0.1
    save_checkpoint(tree.checkpoint("baseline"), state, about)
    with pytest.raises(
        BadInput, match="exported before its checkpoint was trained again: export it with `kdbench export"
    ):
        load_backend("onnx", tree.export("baseline", "onnx", "fp32", "mask"), output="mask")


def test_a_checkpoint_changed_without_its_sidecar_counts_as_newer(tree):
    checkpoint = tree.checkpoint("baseline")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="exported before its checkpoint was trained again"):
        load_backend("onnx", tree.export("baseline", "onnx", "fp32", "mask"), output="mask")


def test_exports_run_without_their_checkpoint(tree, monkeypatch):
    """As on a machine that only got the exports, named by a path inside their folder."""
    for path in (tree.checkpoint("baseline"), sidecar_path(tree.checkpoint("baseline"))):
        path.unlink()
    monkeypatch.chdir(tree.export("baseline", "onnx", "fp32", "mask").parent)
    assert load_backend("onnx", Path("mask.onnx"), output="mask", threads=1).size == SIZE


@pytest.mark.parametrize(
    ("backend", "changes", "message"),
    [
        (
            "onnx",
            {"sha256": None},
            r"mask.json' is no sidecar of an export \(sha256: Field required\): make it again with",
        ),
        ("onnx", {"format": "trt"}, "mask.json' describes a file of format trt, expected the sidecar of an onnx"),
        pytest.param(
            "trt",
            {"provider": "cudnn"},
            "names the provider cudnn, expected tensorrt or tensorrt_rtx: build it again",
            marks=pytest.mark.needs(ENGINE_BUILDER),
        ),
        pytest.param(
            "trt",
            {"output": "logits"},
            "returns logits, --output mask was asked for: build it with `kdbench export",
            marks=pytest.mark.needs(ENGINE_BUILDER),
        ),
    ],
)
def test_a_sidecar_that_does_not_fit(tree, backend, changes, message):
    path = tree.export("baseline", backend, "fp32", "mask")
    edit_sidecar(path, **changes)
    with pytest.raises(BadInput, match=message):
        load_backend(backend, path, output="mask")


@pytest.mark.parametrize(("shape", "seen"), [([2, 3, 8, 8], "2, 3, 8, 8"), ([1, 3, "h", 8], "1, 3, 'h', 8")])
def test_an_onnx_without_a_static_batch_of_one(tmp_path, shape, seen):
    from kdbench.backends.onnx_runtime import OnnxBackend

    write_relu(tmp_path / "x.onnx", {"image": shape})
    with pytest.raises(BadInput, match=rf"input 'image' is tensor\(float\) \[{seen}\], expected 1 x 3 x H x W float32"):
        OnnxBackend.open(tmp_path / "x.onnx", output="logits")


def test_an_onnx_with_two_inputs(tmp_path):
    from kdbench.backends.onnx_runtime import OnnxBackend

    write_relu(tmp_path / "x.onnx", {"image": [1, 3, 8, 8], "other": [1, 3, 8, 8]})
    with pytest.raises(BadInput, match=r"has 2 inputs \(image, other\), expected one image"):
        OnnxBackend.open(tmp_path / "x.onnx", output="logits")


def write_relu(path, inputs):
    """A model that is no student: Relu of each float input."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    nodes = [onnx.helper.make_node("Relu", [name], [f"{name}_out"]) for name in inputs]
    results = [
        onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    graph = onnx.helper.make_graph(nodes, "relu", values, results)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_session_that_fell_back_to_the_cpu_is_a_failure(exported, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(
        RunFailed, match="asked for CUDAExecutionProvider, but the session runs on CPUExecutionProvider"
    ):
        load_backend("onnx", exported.export("baseline", "onnx", "fp32", "mask"), output="mask", device="cuda")


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.needs("tensorrt_rtx")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, BackendUnavailable, "tensorrt_rtx .* refused the engine on Some GPU: .*cudaError 35"),
        ({"provider_version": "1.0"}, BadInput, r"was built by tensorrt_rtx 1\.0, this is .*: build it again with"),
        ({"provider": "tensorrt"}, BackendUnavailable, "tensorrt cannot be imported .*: `pip install tensorrt`"),
    ],
)
def test_an_engine_that_the_runtime_refuses(tree, monkeypatch, changes, error, message):
    """PyTorch is made to claim a GPU; the TensorRT runtime is real and finds no driver."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    path = tree.export("baseline", "trt", "fp32", "mask")
    edit_sidecar(path, **changes)
    with pytest.raises(error, match=message) as caught:
        load_backend("trt", path, output="mask", device="cuda")
    assert len(str(caught.value).splitlines()) == 1


def test_another_size_says_how_to_export_it(exported):
    path = exported.export("baseline", "onnx", "fp32", "mask")
    with pytest.raises(BadInput, match=r"takes images of 96x128, 512x512 was asked for: export again .*--size 512x512"):
        load_backend("onnx", path, output="mask", size=(512, 512))
    backend = load_backend("onnx", path, output="mask")
    with pytest.raises(BadInput, match="got 64x64x3, the engine was built for 96x128x3"):
        backend.prepare(np.zeros((64, 64, 3), dtype=np.uint8))
