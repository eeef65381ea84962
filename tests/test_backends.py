"""Every backend of one checkpoint: the same masks, each computing in what it says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from exporters.proven_export import export_as
from kdbench.backends import artifact_of, load_backend
from kdbench.backends.precision_proof import require_precision, share_by_type
from kdbench.data.preprocessing import resize_image
from kdbench.data.shapes import Shapes
from kdbench.errors import BackendUnavailable, BadInput, NoSuchPrecision, RunFailed
from kdbench.runs.tree import RunTree
from tests.exports import SIZE, edit_sidecar, make_job


def load(tree, backend, precision="fp32", output="mask", **options):
    return load_backend(backend, artifact_of(tree, "baseline", backend, precision, output), output=output, threads=1,
                        **options)  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    return [resize_image(Shapes("val")[i].image, SIZE)[None] for i in range(4)]


@pytest.mark.parametrize(
    "backend",
    [
        "torch-channels-last",
        pytest.param("torch-compile", marks=pytest.mark.slow),
        "onnx",
        pytest.param("openvino", marks=pytest.mark.needs("openvino")),
    ],
)
def test_backends_agree_with_torch(exported, batches, backend):
    reference, candidate = load(exported, "torch"), load(exported, backend)
    expected = np.concatenate([reference.infer(batch) for batch in batches])
    got = [candidate.infer(batch) for batch in batches]
    assert candidate.size == SIZE
    assert (np.concatenate(got) == expected).mean() >= 0.999  # after all calls: none overwrote another's result
    assert candidate.details["operators"] == {"fp32": 1.0}
    candidate.close()


def test_torch_runs_contiguous_and_the_other_channels_last(exported, batches):
    seen = {}
    for name in ("torch", "torch-channels-last"):
        backend = load(exported, name)
        convolution = backend._module.model.encoder[0][0]
        convolution.register_forward_hook(lambda _, inputs, out, n=name: seen.update({n: inputs[0].stride()}))
        backend.infer(batches[0])
    assert seen["torch"] == (3 * 96 * 128, 96 * 128, 128, 1)
    assert seen["torch-channels-last"] == (3 * 96 * 128, 1, 3 * 128, 3)


def test_compiling_without_a_compiler_is_unavailable(exported, monkeypatch):
    def no_compiler(*arguments, **options):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda module: no_compiler)
    with pytest.raises(BackendUnavailable, match=r"torch-compile: .*No working C\+\+ compiler.*apt install g\+\+"):
        load(exported, "torch-compile")


# Proof of precision

INT8_BACKENDS = pytest.mark.parametrize(
    "backend", ["onnx", pytest.param("openvino", marks=pytest.mark.needs("openvino", "nncf"))]
)


@INT8_BACKENDS
def test_int8_rows_compute_in_int8(exported, backend):
    shares = load(exported, backend, "int8").details["operators"]
    assert shares["int8"] >= 0.5, shares
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_half_precision_that_the_cpu_provider_computes_in_float32_is_no_precision_of_its(exported):
    with pytest.raises(
        NoSuchPrecision, match=r"was to run in fp16, but its convolutions .* run as 100% fp32, .* at least 50%"
    ):
        load(exported, "onnx", "fp16")


def test_a_float_model_in_an_fp16_folder_is_a_failure(exported, tmp_path):
    """It is the file that is not what it says: another precision would have been computed on any processor."""
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(exported.root, tree.root)
    float_file, half_file = (tree.export("baseline", "onnx", precision, "mask") for precision in ("fp32", "fp16"))
    shutil.copy(float_file, half_file)
    edit_sidecar(half_file)
    with pytest.raises(RunFailed, match="was to run in fp16, but .* run as 100% fp32"):
        load(tree, "onnx", "fp16")


@INT8_BACKENDS
def test_a_float_model_in_an_int8_folder_is_a_failure(exported, tmp_path, backend):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(exported.root, tree.root)
    float_file, int8_file = (tree.export("baseline", backend, precision, "mask") for precision in ("fp32", "int8"))
    for suffix in {float_file.suffix, ".json", ".bin"} & {p.suffix for p in float_file.parent.iterdir()}:
        shutil.copy(float_file.with_suffix(suffix), int8_file.with_suffix(suffix))
    edit_sidecar(int8_file, precision="int8")
    with pytest.raises(RunFailed, match="was to run in int8, but .* run as 100% fp32"):
        load(tree, backend, "int8")


@pytest.mark.needs("openvino")
def test_openvino_would_have_run_bfloat16(exported, monkeypatch):
    """What the precision hint is for: without it this processor's bfloat16 is used, and the proof sees it."""
    import openvino

    compile_model = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model",
        lambda self, path, device, settings: compile_model(
            self, path, device, {**settings, "INFERENCE_PRECISION_HINT": "bf16"}
        ),
    )  # fmt: skip
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    with pytest.raises(RunFailed, match="was to run in fp32, but .* bf16"):
        load(exported, "openvino")


def test_shares_and_threshold_by_value():
    assert share_by_type(["int8", "fp32", "int8", "int8"]) == {"int8": 0.75, "fp32": 0.25}
    require_precision({"int8": 0.5, "fp32": 0.5}, "int8", "x")
    require_precision({}, "fp16", "an engine without convolutions")
    with pytest.raises(RunFailed, match="x was to run in int8, but its convolutions .* as 51% fp32, 49% int8"):
        require_precision({"fp32": 0.51, "int8": 0.49}, "int8", "x")
    with pytest.raises(RunFailed, match="99% fp32, 1% bf16, expected all in fp32"):
        require_precision({"fp32": 0.99, "bf16": 0.01}, "fp32", "x")


# OpenVINO's two files


@pytest.fixture
def openvino_tree(exported, tmp_path):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(exported.root, tree.root)
    return tree


@pytest.mark.needs("openvino")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda xml: xml.with_suffix(".bin").unlink(), "mask.bin', the weights of 'mask.xml', is missing"),
        (lambda xml: xml.with_suffix(".bin").write_bytes(b"x"), r"mask.bin', .* \(sha256 differs\): make both again"),
        (lambda xml: xml.write_text("<net>"), "mask.xml' is not the file that its sidecar describes"),
    ],
)
def test_openvino_files_that_do_not_fit(openvino_tree, harm, message):
    harm(openvino_tree.export("baseline", "openvino", "fp32", "mask"))
    with pytest.raises(BadInput, match=message):
        load(openvino_tree, "openvino")


@pytest.mark.needs("openvino")
def test_openvino_file_that_is_no_model(openvino_tree):
    xml = openvino_tree.export("baseline", "openvino", "fp32", "mask")
    xml.write_text("<net>")
    edit_sidecar(xml)
    with pytest.raises(BadInput, match="is no OpenVINO model that this OpenVINO reads") as caught:
        load(openvino_tree, "openvino")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.needs("openvino")
def test_openvino_runs_on_the_cpu_alone(exported):
    with pytest.raises(BackendUnavailable, match="openvino: runs on the CPU here: use --device cpu"):
        load(exported, "openvino", device="cuda")


@pytest.mark.needs("openvino")
def test_openvino_logits(tmp_path, exported):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(exported.root, tree.root)
    with make_job(tree, output="logits") as job:
        export_as(job, "openvino", "fp32")
    logits = load(tree, "openvino", output="logits").infer(np.zeros((1, 3, *SIZE), np.float32))
    assert (logits.shape, logits.dtype) == ((1, 10, *SIZE), np.float32)


@pytest.mark.needs("openvino")
def test_openvino_compiles_an_open_batch_for_each_number_of_images(openvino_tree, monkeypatch):
    import openvino

    with make_job(openvino_tree, dynamic_batch=True) as job:
        export_as(job, "openvino", "fp32")
        images = np.concatenate(job.calibration_batches()[:2])
    compile_model, shapes = openvino.Core.compile_model, []

    def noted(core, model, *arguments):
        shapes.append(model.input(0).get_partial_shape())
        return compile_model(core, model, *arguments)

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    backend = load(openvino_tree, "openvino")
    one = [backend.infer(images[i : i + 1]) for i in (0, 1)]
    for _ in range(2):
        assert np.array_equal(backend.infer(images), np.concatenate(one))
    assert [(shape.is_static, shape[0].get_length()) for shape in shapes] == [(True, 1), (True, 2)]
