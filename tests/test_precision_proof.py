"""What an engine computes in, as each engine tells it, and what becomes of a row that does not keep its word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from exporters.proven_export import export_as
from kdbench.backends import load_backend
from kdbench.backends.onnx_runtime import compute_types as onnx_types
from kdbench.backends.onnx_runtime import require_provider
from kdbench.backends.precision_proof import require_precision, share_by_type
from kdbench.backends.tensorrt_layers import compute_types, tensor_type
from kdbench.comparison.results import Comparison
from kdbench.errors import BadInput, RunFailed
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER
from tests.exports import make_job

# TensorRT's inspector


def layer(kind, described, tactic="", parameter="", key="Format/Datatype"):
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 64, 8, 8]}
    tensors = [{**tensor, **(described if isinstance(described, dict) else {key: described})}]
    about = {"Name": "features.0 + relu", "LayerType": kind, "Inputs": tensors, "Outputs": tensors}
    return {**about, "ParameterType": parameter, "TacticName": tactic, "StreamId": 0, "Metadata": ""}


ENGINE = {
    "Layers": [
        layer("Reformat", "Row major linear FP32", parameter="Reformat"),
        layer(
            "CaskConvActPool", "Row major Int8 format", "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32", "Convolution"
        ),
        layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format", parameter="Convolution"),
        layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0", parameter="Convolution"),
        layer("PointWiseV2", "Row major linear FP16 format", parameter="PointWise"),
        layer("gemm", "Half", "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n"),
        layer("CaskConvolution", "Row major linear FP32", "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32"),
        layer("CaskConvolution", "Row major linear FP32", "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32"),
        layer("Constant", "Float"),
        {"Name": "shape", "LayerType": "gemm", "Inputs": [], "Outputs": []},
    ],
    "Bindings": ["image", "mask"],
}


def test_tensorrt_layers_by_value():
    assert list(compute_types(json.dumps(ENGINE))) == ["int8", "int8", "fp16", "fp16", "fp32", "tf32"]


def test_tensorrt_11_tells_type_and_format_apart():
    layers = [
        layer("CaskConvolution", {"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Half"}),
        layer("gemm", {"Format": "kLINEAR", "DataType": "BFloat16"}),
        layer("MatrixMultiply", {"Format": "kLINEAR", "DataType": "Float"}),
    ]
    information = json.dumps({"Layers": layers, "I/O Tensors": [{"Name": "image", "DataType": "UInt8"}]})
    assert list(compute_types(information)) == ["fp16", "bf16", "fp32"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Channel major BF16 format where channel % 8 == 0", "bf16"),
        ("BFloat16", "bf16"),
        ("Four wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP8 format where channel % 16 == 0", "fp8"),
        ("N/A due to dynamic shapes", None),
        ("Int64", None),
    ],
)
def test_tensorrt_type_names(text, expected):
    assert tensor_type({"Format/Datatype": text}) == expected


def test_an_engine_that_tells_names_alone_proves_nothing():
    assert list(compute_types(json.dumps({"Layers": ["features.0 + relu", "features.1"]}))) == []


def test_tf32_counts_as_fp32_and_bfloat16_does_not():
    require_precision(share_by_type(["tf32", "tf32", "fp32"]), "fp32", "trt: 'x'")
    with pytest.raises(RunFailed, match="was to run in fp16, but its convolutions .* run as 100% tf32"):
        require_precision({"tf32": 1.0}, "fp16", "trt: 'x'")
    with pytest.raises(RunFailed, match="expected all in fp32"):
        require_precision({"tf32": 0.99, "bf16": 0.01}, "fp32", "trt: 'x'")


# ONNX Runtime


@pytest.fixture
def graph(tmp_path):
    """Write a graph of (operator, type of its weight or None for one that is computed), return its path."""

    def write(*operators):
        nodes, weights = [], []
        for index, (operator, dtype) in enumerate(operators):
            nodes.append(helper.make_node(operator, ["x", f"w{index}"], [f"y{index}"]))
            if dtype is not None:
                values = np.zeros((1,), helper.tensor_dtype_to_np_dtype(dtype))
                weights.append(onnx.numpy_helper.from_array(values, f"w{index}"))
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], weights)), tmp_path / "optimised.onnx")
        return tmp_path / "optimised.onnx"

    return write


def test_onnx_types_by_value(graph):
    path = graph(
        ("Conv", TensorProto.FLOAT), ("FusedConv", TensorProto.FLOAT16), ("QLinearConv", TensorProto.INT8),
        ("NhwcFusedConv", TensorProto.FLOAT16), ("Conv", None), ("MatMulIntegerToFloat", TensorProto.INT8),
        ("Add", TensorProto.FLOAT16),
    )  # fmt: skip
    assert list(onnx_types(path)) == ["fp32", "fp16", "int8", "fp16", "fp32", "int8"]


def test_onnx_tells_which_provider_runs_each_operator(exported):
    backend = load_backend("onnx", exported.export("baseline", "onnx", "fp32", "mask"), output="mask", threads=1)
    assert backend.details["operators_by_provider"] == {"CPUExecutionProvider": 1.0}


def test_single_operators_left_to_the_cpu_are_a_failure():
    require_provider({}, "CUDAExecutionProvider", Path("mask.onnx"))
    require_provider({"CUDAExecutionProvider": 1.0}, "CUDAExecutionProvider", Path("mask.onnx"))
    shares = share_by_type(["CUDAExecutionProvider"] * 9 + ["CPUExecutionProvider"])
    with pytest.raises(RunFailed, match="run 90% on CUDAExecutionProvider, 10% on CPUExecutionProvider, expected all"):
        require_provider(shares, "CUDAExecutionProvider", Path("mask.onnx"))


# An export in the folder of another precision


@pytest.mark.parametrize("backend", ["onnx", pytest.param("trt", marks=pytest.mark.needs(ENGINE_BUILDER, "nncf"))])
def test_an_export_copied_into_the_folder_of_another_precision(tree, backend):
    path = tree.export("baseline", backend, "fp32", "mask")
    copied = tree.export("baseline", backend, "int8", "mask")
    shutil.rmtree(copied.parent)
    shutil.copytree(path.parent, copied.parent)
    with pytest.raises(
        BadInput, match=f"export in fp32 by its sidecar, its folder is that of int8: .*{backend} --precision int8`"
    ):
        load_backend(backend, copied, output="mask")


# Through the command line


@pytest.mark.slow
def test_rows_that_are_missing_or_mislabelled(trained_runs, kdbench, tmp_path, monkeypatch):
    tree = RunTree(tmp_path / "runs", "folder")
    shutil.copytree(trained_runs, tree.runs)
    flags = ("--method", "baseline", "--runs", tree.runs)
    assert kdbench("export", *flags, "--format", "onnx").code == 0
    fp32, int8 = (tree.export("baseline", "onnx", precision, "mask") for precision in ("fp32", "int8"))
    shutil.copytree(fp32.parent, int8.parent)
    monkeypatch.setattr(torch, "compile", lambda module: no_compiler)
    done = kdbench("compare", *flags, "--backend", "torch,torch-compile,onnx,openvino", "--precision", "fp32,int8",
                   "--rounds", "10")  # fmt: skip
    assert done.code == 0, done.err
    comparison = Comparison.read(tree.root / "compare.json")
    rows = {(row.backend, row.precision): row for row in comparison.rows}
    assert {key: row.status for key, row in rows.items()} == {
        ("torch", "fp32"): "ok", ("torch-compile", "fp32"): "unavailable", ("onnx", "fp32"): "ok",
        ("onnx", "int8"): "failed", ("openvino", "fp32"): "unavailable", ("openvino", "int8"): "unavailable",
    }  # fmt: skip
    assert "export in fp32 by its sidecar, its folder is that of int8" in rows["onnx", "int8"].reason
    command = "`kdbench export --method baseline --format openvino --precision int8 --output mask`"
    assert command in rows["openvino", "int8"].reason
    assert command.replace(" --precision int8", "") in rows["openvino", "fp32"].reason
    assert "apt install g++" in rows["torch-compile", "fp32"].reason


def no_compiler(*arguments, **options):
    raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")


@pytest.mark.needs("openvino")
def test_an_openvino_row_counts_and_hashes_its_weights(tree):
    """The .xml holds no weights; only the .bin tells students apart."""
    with make_job(tree, "feature", allow_drift=True) as job:
        paths = [tree.export("baseline", "openvino", "fp32", "mask"), export_as(job, "openvino", "fp32")]
    about = [load_backend("openvino", path, output="mask", threads=1).details["weights"] for path in paths]
    assert [a["sha256"] for a in about] == [sha256(path.with_suffix(".bin")) for path in paths]
    assert about[0]["sha256"] != about[1]["sha256"]


@pytest.mark.needs("tensorrt_rtx")
def test_engines_are_built_so_that_they_can_tell(tree, monkeypatch):
    """The builder is asked for details: without them the inspector gives names alone."""
    import tensorrt_rtx

    seen = []
    build = tensorrt_rtx.Builder.build_serialized_network
    monkeypatch.setattr(
        tensorrt_rtx.Builder,
        "build_serialized_network",
        lambda self, network, config: seen.append(config.profiling_verbosity) or build(self, network, config),
    )

    sidecar = sidecar_path(tree.export("baseline", "trt", "fp32", "mask"))
    if json.loads(sidecar.read_text())["provider"] != "tensorrt_rtx":
        pytest.skip("this machine builds with tensorrt")
    with make_job(tree) as job:
        export_as(job, "trt", "fp32")
    assert seen == [tensorrt_rtx.ProfilingVerbosity.DETAILED]
