"""Exports: real ONNX Runtime sessions and real engines, from a trained-like student on real images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from exporters.parity import Parity, compare_outputs, require_parity
from exporters.to_onnx import export_onnx
from exporters.to_tensorrt import export_tensorrt
from kdbench.artifacts import RunTree, load_checkpoint, save_checkpoint, sha256, sidecar_path, write_json
from kdbench.backends import load_backend
from kdbench.data.shapes import Shapes
from kdbench.errors import BackendUnavailable, BadInput, Missing, RunFailed
from kdbench.models.deploy import build_model

SIZE = (96, 128)
OUTPUTS = ("mask", "logits")


def make_student(tree, method, seed):
    """A student with BatchNorm statistics of real images, so that its masks have many classes."""
    scenes = Shapes("train")
    torch.manual_seed(seed)
    model = build_model("student", 10).train()
    images = torch.from_numpy(np.stack([scenes[i].image for i in range(8)])).permute(0, 3, 1, 2) / 255.0 - 0.5
    with torch.no_grad():
        for _ in range(20):
            model(4 * images)
    about = {
        "kind": "checkpoint", "method": method, "arch": "student", "dataset": "shapes", "data_root": None,
        "classes": list(scenes.classes), "palette": [list(c) for c in scenes.palette], "size": list(SIZE),
        "seed": 0, "epoch": 1, "epochs": 1,
    }  # fmt: skip
    save_checkpoint(tree.checkpoint(method), model.state_dict(), about)


@pytest.fixture(scope="module")
def images():
    return [Shapes("val")[i].image for i in range(4)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, images):
    """Two students; the first exported to ONNX and TensorRT with both outputs."""
    tree = RunTree(tmp_path_factory.mktemp("runs"), "shapes")
    make_student(tree, "baseline", 0)
    make_student(tree, "feature", 1)
    for output in OUTPUTS:
        export_onnx(tree, "baseline", output=output, size=None, images=images)
        export_tensorrt(tree, "baseline", output=output)
    return tree


@pytest.fixture
def tree(exported, tmp_path):
    """A copy that a test may break."""
    shutil.copytree(exported.runs, tmp_path / "runs")
    return RunTree(tmp_path / "runs", "shapes")


@pytest.mark.parametrize("output", OUTPUTS)
def test_onnx_runtime_agrees_with_torch(exported, images, output):
    torch_backend = load_backend("torch", exported.checkpoint("baseline"), output=output, threads=1)
    onnx_backend = load_backend("onnx", exported.export("baseline", "onnx", "fp32", output), output=output, threads=1)
    assert onnx_backend.size == SIZE
    parity = compare_outputs(torch_backend, onnx_backend, images)
    assert parity.pixel_agreement >= 0.999
    assert parity.finite
    if output == "logits":
        assert parity.max_logit_difference < 1e-3
    mask = onnx_backend.infer(onnx_backend.prepare(np.ascontiguousarray(images[0][:96, :128])))
    assert mask.shape == ((1, *SIZE) if output == "mask" else (1, 10, *SIZE))
    assert len(np.unique(mask)) > 2
    assert onnx_backend.details["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize("output", OUTPUTS)
def test_sidecar_says_what_the_file_is(exported, output):
    path = exported.export("baseline", "onnx", "fp32", output)
    sidecar = json.loads(sidecar_path(path).read_text())
    shape = [1, *SIZE, 3] if output == "mask" else [1, 3, *SIZE]
    assert sidecar["inputs"] == [{"name": "image", "dtype": "uint8" if output == "mask" else "float", "shape": shape}]
    assert sidecar["outputs"][0]["name"] == output
    assert sidecar["size"] == list(SIZE)
    assert sidecar["parity"]["pixel_agreement"] >= 0.999
    assert sidecar["bytes"] == path.stat().st_size
    assert (
        sidecar["checkpoint_sha256"]
        == json.loads((exported.method_dir("baseline") / "student.json").read_text())["sha256"]
    )


@pytest.mark.parametrize("output", OUTPUTS)
def test_graph_is_lean(exported, output):
    graph = onnx.load(exported.export("baseline", "onnx", "fp32", output)).graph
    kinds = [node.op_type for node in graph.node]
    assert not {"Identity", "BatchNormalization", "Gather", "Reshape"} & set(kinds)
    assert kinds.count("Resize") == 4


@pytest.mark.parametrize("output", OUTPUTS)
def test_engine_is_built_here_and_says_for_what(exported, output):
    path = exported.export("baseline", "trt", "fp32", output)
    sidecar = json.loads(sidecar_path(path).read_text())
    assert path.stat().st_size > 5e6
    assert sidecar["network_layers"] > 100
    assert sidecar["network_layers_by_output_type"]["float"] > 100
    assert sidecar["tf32"] in (True, False)
    if not torch.cuda.is_available():
        assert (sidecar["provider"], sidecar["built_for"]) == ("tensorrt_rtx", ["SM80", "SM86", "SM89", "SM120"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_engine_without_a_gpu_says_why_it_does_not_run(exported):
    with pytest.raises(
        BackendUnavailable, match="needs an NVIDIA GPU and its driver, which this machine does not have"
    ):
        load_backend("trt", exported.export("baseline", "trt", "fp32", "mask"), output="mask")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("output", OUTPUTS)
def test_engine_on_a_gpu_agrees_with_torch(exported, images, output):
    engine = load_backend("trt", exported.export("baseline", "trt", "fp32", output), output=output, device="cuda")
    reference = load_backend("torch", exported.checkpoint("baseline"), output=output, device="cuda")
    assert compare_outputs(reference, engine, images).pixel_agreement >= 0.99  # TF32


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_its_provider_names_the_fix(exported):
    with pytest.raises(BackendUnavailable, match="needs CUDAExecutionProvider: `pip install onnxruntime-gpu`"):
        load_backend("onnx", exported.export("baseline", "onnx", "fp32", "mask"), output="mask", device="cuda")


# What is refused


def test_a_drifted_export_is_not_kept_and_the_old_file_stays(tree, images, monkeypatch):
    """The graph that is written has another class bias than PyTorch's model, as a wrong exporter would make."""
    import exporters.to_onnx as to_onnx

    path = tree.export("baseline", "onnx", "fp32", "mask")
    before = path.read_bytes()

    def tampered(module, output, size, destination):
        graph = onnx.load(path)
        bias = max(
            (i for i in graph.graph.initializer if "bias" in i.name and list(i.dims) == [10]), key=lambda i: i.name
        )
        changed = onnx.numpy_helper.to_array(bias).copy()
        changed[3] += 0.5
        bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
        onnx.save(graph, destination)

    monkeypatch.setattr(to_onnx, "_write_graph", tampered)
    with pytest.raises(
        RunFailed, match=r"baseline onnx fp32 mask: \d+\.\d+% of pixels have PyTorch's class on 4 images"
    ):
        export_onnx(tree, "baseline", output="mask", size=None, images=images)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_require_parity():
    require_parity(Parity(1, 0.999, 0.0, True), "fp32", "x")
    with pytest.raises(RunFailed, match=r"99\.890% of pixels .* expected at least 99\.9% for fp32"):
        require_parity(Parity(1, 0.9989, 0.0, True), "fp32", "x")
    with pytest.raises(RunFailed, match="NaN or infinity"):
        require_parity(Parity(1, 1.0, None, False), "fp32", "x")


def test_missing_checkpoint_and_missing_exports_name_their_commands(exported, images):
    with pytest.raises(Missing, match="kdbench train --method response --dataset shapes"):
        export_onnx(exported, "response", output="mask", size=None, images=images)
    with pytest.raises(Missing, match="kdbench export --method feature --format onnx --output mask"):
        load_backend("onnx", exported.export("feature", "onnx", "fp32", "mask"), output="mask")
    with pytest.raises(Missing, match="kdbench export --method feature --format onnx"):
        export_tensorrt(exported, "feature", output="mask")


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


def edit_sidecar(artifact, **changes):
    """Change fields of a sidecar; None takes a field away. The hash follows the file."""
    about = {**json.loads(sidecar_path(artifact).read_text()), "sha256": sha256(artifact), **changes}
    write_json(sidecar_path(artifact), {key: value for key, value in about.items() if value is not None})


@pytest.mark.parametrize(
    ("backend", "changes", "message"),
    [
        ("onnx", {"sha256": None}, "mask.json' lacks sha256, expected the sidecar of an onnx export: make it again"),
        ("onnx", {"format": "trt"}, "mask.json' describes a file of format trt, expected the sidecar of an onnx"),
        ("trt", {"provider": "cudnn"}, "names the provider cudnn, expected tensorrt or tensorrt_rtx: build it again"),
        ("trt", {"output": "logits"}, "returns logits, --output mask was asked for: build it with `kdbench export"),
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_session_that_fell_back_to_the_cpu_is_a_failure(exported, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(
        RunFailed, match="asked for CUDAExecutionProvider, but the session runs on CPUExecutionProvider"
    ):
        load_backend("onnx", exported.export("baseline", "onnx", "fp32", "mask"), output="mask", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
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


def test_a_network_that_the_parser_refuses_keeps_the_old_engine(tree, capfd):
    path, engine = (tree.export("baseline", kind, "fp32", "mask") for kind in ("onnx", "trt"))
    before = engine.read_bytes()
    graph = onnx.load(path)
    del graph.graph.node[0]  # the cast before Transpose, which TensorRT does not do on uint8
    graph.graph.node[0].input[0] = "image"
    onnx.save(graph, path)
    edit_sidecar(path)
    with pytest.raises(RunFailed, match=r"cannot parse '.*mask.onnx': .*Transpose.*UInt8") as caught:
        export_tensorrt(tree, "baseline", output="mask")
    assert len(str(caught.value).splitlines()) == 1
    assert engine.read_bytes() == before
    assert capfd.readouterr().out == ""


def test_a_resize_with_other_coordinates(exported):
    from exporters.to_onnx import _check_resizes

    graph = onnx.load(exported.export("baseline", "onnx", "fp32", "mask"))
    resize = next(node for node in graph.graph.node if node.op_type == "Resize")
    attribute = next(a for a in resize.attribute if a.name == "coordinate_transformation_mode")
    attribute.s = b"asymmetric"
    with pytest.raises(
        RunFailed, match="got a linear Resize with asymmetric coordinates, expected linear with half_pixel"
    ):
        _check_resizes(graph)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_seen(exported, images, wrong):
    backend = load_backend("onnx", exported.export("baseline", "onnx", "fp32", "logits"), output="logits", threads=1)

    class Broken:
        def infer(self, batch):
            logits = backend.infer(batch)
            logits[0, 0, 0, 0] = wrong
            return logits

    parity = compare_outputs(backend, Broken(), images[:1])
    assert (parity.finite, parity.max_logit_difference) == (False, None)
    with pytest.raises(RunFailed, match="x: outputs hold NaN or infinity"):
        require_parity(parity, "fp32", "x")


def test_another_size_says_how_to_export_it(exported):
    path = exported.export("baseline", "onnx", "fp32", "mask")
    with pytest.raises(BadInput, match=r"takes images of 96x128, 512x512 was asked for: export again .*--size 512x512"):
        load_backend("onnx", path, output="mask", size=(512, 512))
    backend = load_backend("onnx", path, output="mask")
    with pytest.raises(BadInput, match="got 64x64x3, the engine was built for 96x128x3"):
        backend.prepare(np.zeros((64, 64, 3), dtype=np.uint8))


def test_a_corrupt_checkpoint_is_named(tree, images):
    path = tree.checkpoint("baseline")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        BadInput, match=r"student.safetensors' is corrupt .*make it again with `kdbench train --method baseline"
    ):
        export_onnx(tree, "baseline", output="mask", size=None, images=images)


def test_export_command_after_training(tree, kdbench):
    done = kdbench("export", "--method", "feature", "--size", "64x96", "--runs", tree.runs)
    assert done.code == 0, done.err
    assert "feature onnx fp32" in done.out
    assert tree.export("feature", "onnx", "fp32", "mask").exists()
    assert tree.export("feature", "trt", "fp32", "mask").exists() or "skipped" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--method", "nothing"],
            "--method: got 'nothing', expected all or a comma-separated list of baseline, response",
        ),
        (["--method", "feature", "--format", "tflite"], "--format: got 'tflite'"),
        (["--method", "feature", "--precision", "int2"], "--precision: got 'int2'"),
        (["--method", "feature", "--output", "boxes"], "--output: got 'boxes'"),
        (["--method", "feature", "--size", "512"], "--size: got '512', expected HEIGHTxWIDTH"),
        (["--method", "combined"], "kdbench train --method combined --dataset shapes"),
    ],
)
def test_bad_export_flags_are_one_line(exported, kdbench, flags, message):
    done = kdbench("export", "--runs", exported.runs, *flags)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_nothing_trained_yet(kdbench, tmp_path):
    done = kdbench("export", "--method", "feature", "--runs", tmp_path)
    assert (done.code, done.err) == (
        2, f"kdbench: no trained model under '{tmp_path}': make one with `kdbench train --method all`\n"
    )  # fmt: skip
