"""Every backend of one checkpoint: the same masks, each computing in what it says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from exporters.export import export_all
from exporters.to_openvino import export_openvino
from kdbench.artifacts import RunTree, read_json, sidecar_path
from kdbench.backends import artifact_of, load_backend
from kdbench.backends.precision_proof import require_precision, share_by_type
from kdbench.data.preprocessing import resize_image
from kdbench.data.shapes import Shapes
from kdbench.errors import BackendUnavailable, BadInput, RunFailed
from tests.exports import SIZE, edit_sidecar, make_job


@pytest.fixture(scope="module")
def engines(tmp_path_factory, exported):
    """A copy of the exported tree with OpenVINO in fp32 and int8, and ONNX in fp16 and int8."""
    tree = RunTree(tmp_path_factory.mktemp("engines") / "runs", "shapes")
    shutil.copytree(exported.runs, tree.runs)
    with make_job(tree, allow_drift=True) as job:
        export_all(job, ("openvino",), ("fp32", "int8"))
        export_all(job, ("onnx",), ("fp16", "int8"))
    return tree


def load(tree, backend, precision="fp32", output="mask", **options):
    return load_backend(backend, artifact_of(tree, "baseline", backend, precision, output), output=output, threads=1,
                        **options)  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    return [resize_image(Shapes("val")[i].image, SIZE)[None] for i in range(4)]


@pytest.mark.parametrize(
    ("backend", "agreement"),
    [("torch-channels-last", 0.999), ("torch-compile", 0.999), ("onnx", 0.999), ("openvino", 0.999)],
)
def test_backends_agree_with_torch(engines, batches, backend, agreement):
    reference, candidate = load(engines, "torch"), load(engines, backend)
    expected = np.concatenate([reference.infer(batch) for batch in batches])
    got = [candidate.infer(batch) for batch in batches]
    assert candidate.size == SIZE
    assert (np.concatenate(got) == expected).mean() >= agreement  # after all calls: none overwrote another's result
    assert candidate.details["operators"] == {"fp32": 1.0}
    candidate.close()


def test_torch_runs_contiguous_and_the_other_channels_last(engines, batches):
    seen = {}
    for name in ("torch", "torch-channels-last"):
        backend = load(engines, name)
        convolution = backend._module.model.encoder[0][0]
        convolution.register_forward_hook(lambda _, inputs, out, n=name: seen.update({n: inputs[0].stride()}))
        backend.infer(batches[0])
    assert seen["torch"] == (3 * 96 * 128, 96 * 128, 128, 1)
    assert seen["torch-channels-last"] == (3 * 96 * 128, 1, 3 * 128, 3)


def test_compiling_without_a_compiler_is_unavailable(engines, monkeypatch):
    def no_compiler(*arguments, **options):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda module: no_compiler)
    with pytest.raises(BackendUnavailable, match=r"torch-compile: .*No working C\+\+ compiler.*apt install g\+\+"):
        load(engines, "torch-compile")


# Proof of precision


def test_int8_rows_compute_in_int8(engines):
    for backend in ("onnx", "openvino"):
        shares = load(engines, backend, "int8").details["operators"]
        assert shares["int8"] >= 0.5, (backend, shares)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_half_precision_that_the_cpu_provider_computes_in_float32_is_a_failure(engines):
    with pytest.raises(
        RunFailed, match=r"was to run in fp16, but its convolutions .* run as 100% fp32, .* at least 50%"
    ):
        load(engines, "onnx", "fp16")


def test_a_float_model_in_an_int8_folder_is_a_failure(engines, tmp_path):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(engines.root, tree.root)
    for backend in ("onnx", "openvino"):
        float_file, int8_file = (tree.export("baseline", backend, precision, "mask") for precision in ("fp32", "int8"))
        for suffix in {float_file.suffix, ".json", ".bin"} & {p.suffix for p in float_file.parent.iterdir()}:
            shutil.copy(float_file.with_suffix(suffix), int8_file.with_suffix(suffix))
        edit_sidecar(int8_file, precision="int8")
        with pytest.raises(RunFailed, match="was to run in int8, but .* run as 100% fp32"):
            load(tree, backend, "int8")


def test_openvino_would_have_run_bfloat16(engines, monkeypatch):
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
        load(engines, "openvino")


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
def openvino_tree(engines, tmp_path):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(engines.root, tree.root)
    return tree


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


def test_openvino_file_that_is_no_model(openvino_tree):
    xml = openvino_tree.export("baseline", "openvino", "fp32", "mask")
    xml.write_text("<net>")
    edit_sidecar(xml)
    with pytest.raises(BadInput, match="is no OpenVINO model that this OpenVINO reads") as caught:
        load(openvino_tree, "openvino")
    assert len(str(caught.value).splitlines()) == 1


def test_openvino_runs_on_the_cpu_alone(engines):
    with pytest.raises(BackendUnavailable, match="openvino: runs on the CPU here: use --device cpu"):
        load(engines, "openvino", device="cuda")


def test_openvino_logits(tmp_path, exported):
    tree = RunTree(tmp_path, "shapes")
    shutil.copytree(exported.root, tree.root)
    with make_job(tree, output="logits") as job:
        export_openvino(job, "fp32")
    logits = load(tree, "openvino", output="logits").infer(np.zeros((1, 3, *SIZE), np.float32))
    assert (logits.shape, logits.dtype) == ((1, 10, *SIZE), np.float32)


# Through the command line


def test_compare_has_a_row_per_backend_and_precision(trained_runs, kdbench, tmp_path):
    tree = RunTree(tmp_path / "runs", "folder")
    shutil.copytree(trained_runs, tree.runs)
    flags = ("--method", "baseline", "--precision", "all", "--runs", tree.runs)
    done = kdbench("export", *flags, "--format", "onnx,openvino", "--allow-drift")
    assert done.code == 0, done.err
    file = tmp_path / "compare.json"
    done = kdbench("compare", *flags, "--backend", "torch,onnx,openvino", "--rounds", "10", "--json", file)
    assert done.code == 0, done.err
    rows = {(r["backend"], r["precision"]): r for r in json.loads(file.read_text())["rows"]}
    assert list(rows) == [
        ("torch", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"),
        ("openvino", "int8"),
    ]  # fmt: skip
    assert {key: row["status"] for key, row in rows.items() if row["status"] != "ok"} == {("onnx", "fp16"): "failed"}
    assert "100% fp32" in rows["onnx", "fp16"]["reason"]
    for key, row in rows.items():
        if row["status"] == "ok":
            assert row["engine"]["operators"][key[1]] >= 0.5
            assert row["latency"]["rounds"] == 10
    sidecar = read_json(sidecar_path(tree.export("baseline", "openvino", "int8", "mask")), "")
    assert rows["openvino", "int8"]["artifact"]["sha256"] == sidecar["sha256"]
