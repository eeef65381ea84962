"""Exports: real ONNX Runtime sessions and real engines, from a trained-like student on real images."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import onnx
import pytest
from rich.console import Console

from exporters.export import Attempt
from exporters.proven_export import export_as, require_parity
from exporters.to_tensorrt import AHEAD_OF_TIME
from kdbench.backends import load_backend
from kdbench.cli.export import class_table
from kdbench.comparison.parity import compare_outputs
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput, Missing, RunFailed
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER, HAS_GPU
from tests.exports import OUTPUTS, SIZE, edit_sidecar, make_job

CARDS = ("--compute-capability", ",".join(AHEAD_OF_TIME))
"""Named, for tests run beside a GPU that TensorRT for RTX does not run on."""


@pytest.fixture(scope="module")
def samples():
    return [Shapes("val")[i] for i in range(4)]


@pytest.mark.parametrize("output", OUTPUTS)
def test_onnx_runtime_agrees_with_torch(exported, samples, output):
    torch_backend = load_backend("torch", exported.checkpoint("baseline"), output=output, threads=1)
    onnx_backend = load_backend("onnx", exported.export("baseline", "onnx", "fp32", output), output=output, threads=1)
    assert onnx_backend.size == SIZE
    parity = compare_outputs(torch_backend, onnx_backend, samples, Shapes("val").classes)
    assert parity.pixel_agreement >= 0.999
    assert parity.finite
    if output == "logits":
        assert parity.max_logit_difference < 1e-3
    mask = onnx_backend.infer(onnx_backend.prepare(np.ascontiguousarray(samples[0].image[:96, :128])))
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
    assert kinds.count("Resize") == 5


@pytest.mark.needs(ENGINE_BUILDER)
@pytest.mark.parametrize("output", OUTPUTS)
def test_engine_is_built_here_and_says_for_what(exported, output):
    path = exported.export("baseline", "trt", "fp32", output)
    sidecar = json.loads(sidecar_path(path).read_text())
    assert path.stat().st_size > 5e6
    assert sidecar["network_layers"] > 100
    assert sidecar["network_layers_by_output_type"]["float"] > 100
    assert sidecar["tf32"] in (True, False)
    if not HAS_GPU:
        assert (sidecar["provider"], sidecar["built_for"]) == ("tensorrt_rtx", ["SM80", "SM86", "SM89", "SM120"])


# What is refused


def test_a_drifted_export_is_not_kept_and_the_old_file_stays(tree, monkeypatch):
    """The graph that is written has another class bias than PyTorch's model, as a wrong exporter would make."""
    path = tree.export("baseline", "onnx", "fp32", "mask")
    before = path.read_bytes()
    with make_job(tree) as job:
        graph = onnx.load(job.graph())
        bias = next(i for i in graph.graph.initializer if i.name.endswith("classifier.bias"))
        changed = onnx.numpy_helper.to_array(bias).copy()
        changed[3] += 0.5
        bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
        onnx.save(graph, job.graph())
        message = r"baseline onnx fp32 mask: .*\d+\.\d+% .* 4 images.*--allow-drift"
        with pytest.raises(RunFailed, match=message):
            export_as(job, "onnx", "fp32")
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
        job.allow_drift = True
        export_as(job, "onnx", "fp32")
    assert path.read_bytes() != before
    assert json.loads(sidecar_path(path).read_text())["parity"]["pixel_agreement"] < 0.999


def test_missing_checkpoint_and_missing_exports_name_their_commands(exported):
    with pytest.raises(Missing, match="kdbench train --method response --dataset shapes"):
        make_job(exported, "response")
    with pytest.raises(Missing, match="kdbench export --method feature --format onnx --output mask"):
        load_backend("onnx", exported.export("feature", "onnx", "fp32", "mask"), output="mask")


@pytest.mark.needs(ENGINE_BUILDER)
def test_an_engine_without_its_onnx_export_names_the_command(exported):
    with (
        make_job(exported, "feature") as job,
        pytest.raises(Missing, match="kdbench export --method feature --format onnx"),
    ):
        export_as(job, "trt", "fp32")


@pytest.mark.needs(ENGINE_BUILDER)
def test_a_network_that_the_parser_refuses_keeps_the_old_engine(tree, capfd):
    path, engine = (tree.export("baseline", kind, "fp32", "mask") for kind in ("onnx", "trt"))
    before = engine.read_bytes()
    graph = onnx.load(path)
    del graph.graph.node[0]  # the cast before Transpose, which TensorRT does not do on uint8
    graph.graph.node[0].input[0] = "image"
    onnx.save(graph, path)
    edit_sidecar(path)
    with (
        make_job(tree) as job,
        pytest.raises(
            RunFailed, match=r"cannot parse '.*mask.onnx': operator Transpose \(node 'node_permute'\): "
        ) as caught,
    ):
        export_as(job, "trt", "fp32")
    assert len(str(caught.value).splitlines()) == 1
    assert engine.read_bytes() == before
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_seen(exported, samples, wrong):
    backend = load_backend("onnx", exported.export("baseline", "onnx", "fp32", "logits"), output="logits", threads=1)

    class Broken:
        output, size, prepare = "logits", SIZE, backend.prepare

        def infer(self, batch):
            logits = backend.infer(batch)
            logits[0, 0, 0, 0] = wrong
            return logits

    parity = compare_outputs(backend, Broken(), samples[:1], Shapes("val").classes)
    assert (parity.finite, parity.max_logit_difference) == (False, None)
    with pytest.raises(RunFailed, match="x: outputs hold NaN or infinity"):
        require_parity(parity, "fp32", "x")


def test_a_corrupt_checkpoint_is_named(tree):
    path = tree.checkpoint("baseline")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        BadInput, match=r"student.safetensors' is corrupt .*make it again with `kdbench train --method baseline"
    ):
        make_job(tree)


@pytest.mark.slow
@pytest.mark.needs(ENGINE_BUILDER, "openvino", "nncf")
def test_all_formats_and_precisions_and_their_rows(trained_runs, kdbench, tmp_path):
    tree = RunTree(tmp_path / "runs", "folder")
    shutil.copytree(trained_runs, tree.runs)
    flags = ("--method", "baseline", "--precision", "all", "--runs", tree.runs)
    done = kdbench("export", *flags, *CARDS, "--size", "64x64", "--allow-drift")
    assert done.code == 0, done.err
    for name in ("onnx-fp32/mask.onnx", "onnx-fp16/mask.onnx", "onnx-int8/mask.onnx", "trt-fp32/mask.engine",
                 "trt-fp16/mask.engine", "trt-int8/mask.engine", "openvino-fp32/mask.xml", "openvino-fp32/mask.bin",
                 "openvino-int8/mask.xml"):  # fmt: skip
        path = tree.method_dir("baseline") / "exports" / name
        assert path.exists(), done.out
        sidecar = json.loads(sidecar_path(path).read_text())
        assert (sidecar["size"], f"{sidecar['format']}-{sidecar['precision']}") == ([64, 64], path.parent.name)
    assert "baseline openvino fp16: unsupported: OpenVINO exports are fp32 or int8" in done.out
    assert done.out.count("baseline int8: 8 bits hurt most in ") == 1
    assert "baseline: change against PyTorch (◄ lost over 2 points)" in done.out

    file = tmp_path / "compare.json"
    done = kdbench("compare", *flags, "--backend", "torch,onnx,openvino", "--rounds", "10", "--json", file)
    assert done.code == 0, done.err
    rows = {(r["backend"], r["precision"]): r for r in json.loads(file.read_text())["rows"]}
    assert list(rows) == [
        ("torch", "fp32"), ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"),
        ("openvino", "fp16"), ("openvino", "int8"),
    ]  # fmt: skip
    assert {key: row["status"] for key, row in rows.items() if row["status"] != "ok"} == {
        ("onnx", "fp16"): "unsupported", ("openvino", "fp16"): "unsupported",
    }  # fmt: skip
    assert "100% fp32" in rows["onnx", "fp16"]["reason"]
    assert rows["onnx", "fp16"]["artifact"]["bytes"] > 5e6
    assert rows["openvino", "fp16"]["reason"].startswith("OpenVINO exports are fp32 or int8")
    assert rows["openvino", "fp16"]["artifact"] is None
    assert "unsupported [2]" in done.out
    for key, row in rows.items():
        if row["status"] == "ok":
            assert row["engine"]["operators"][key[1]] >= 0.5
            assert row["latency"]["rounds"] == 10
    sidecar = json.loads(sidecar_path(tree.export("baseline", "openvino", "int8", "mask")).read_text())
    assert rows["openvino", "int8"]["artifact"]["sha256"] == sidecar["sha256"]


def test_a_class_that_lost_over_2_points_is_marked():
    def attempt(precision, candidate, worse):
        parity = {"iou_reference": [0.9, 0.5, None], "iou_candidate": candidate, "worse_classes": worse}
        return Attempt("feature", "onnx", precision, "made", sidecar={"classes": ["a", "b", "c"], "parity": parity})

    made = [attempt("fp16", [0.901, 0.5, None], []), attempt("int8", [0.9, 0.479, None], ["b"])]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(class_table("feature", made))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["a", "0.9000", "+0.0010", "+0.0000"] in rows
    assert ["b", "0.5000", "+0.0000", "-0.0210 ◄"] in rows
    assert ["c", "–", "–", "–"] in rows


@pytest.mark.needs(ENGINE_BUILDER)
def test_tensorrt_alone_makes_the_onnx_file_that_it_is_built_from(tree, kdbench):
    done = kdbench("export", "--method", "feature", "--format", "trt", "--runs", tree.runs, *CARDS)
    assert done.code == 0, done.err
    assert tree.export("feature", "onnx", "fp32", "mask").exists()
    assert tree.export("feature", "trt", "fp32", "mask").exists()


def make_onnx_fail(monkeypatch):
    from exporters import proven_export

    require = proven_export.require_parity

    def fail(parity, precision, what, reference):
        if " onnx " in what:
            raise RunFailed("the ONNX file differs")
        require(parity, precision, what, reference)

    monkeypatch.setattr(proven_export, "require_parity", fail)


@pytest.mark.slow
@pytest.mark.needs("openvino")
def test_what_is_made_from_a_failed_export_is_skipped_and_the_others_are_made(tree, kdbench, monkeypatch):
    make_onnx_fail(monkeypatch)
    engine = tree.export("feature", "trt", "fp32", "mask")
    for formats in ("onnx,trt,openvino", "openvino,trt", "trt,onnx,openvino"):
        shutil.rmtree(tree.method_dir("feature") / "exports", ignore_errors=True)
        done = kdbench("export", "--method", "feature", "--format", formats, "--runs", tree.runs, *CARDS)
        assert done.code == 1
        assert "feature onnx fp32: failed: the ONNX file differs" in done.out
        reason = "it is made from the onnx export, which was not made (failed)"
        assert f"feature trt fp32: skipped: {reason}" in done.out
        assert "kdbench: 1 of 3 exports failed" in done.err
        assert tree.export("feature", "openvino", "fp32", "mask").exists()
        assert not engine.exists()


@pytest.mark.needs("openvino")
def test_a_precision_that_a_format_does_not_have_is_no_failure(tree, kdbench):
    flags = ("--method", "baseline", "--precision", "fp16", "--runs", tree.runs)
    done = kdbench("export", *flags, "--format", "openvino")
    assert (done.code, done.err) == (0, "")
    assert "baseline openvino fp16: unsupported: OpenVINO exports are fp32 or int8; it chooses half" in done.out


@pytest.mark.needs("openvino")
def test_an_export_that_fails_leaves_the_others_and_exit_code_1(tree, kdbench, monkeypatch):
    make_onnx_fail(monkeypatch)
    done = kdbench("export", "--method", "baseline", "--format", "onnx,openvino", "--runs", tree.runs)
    assert done.code == 1
    assert "baseline onnx fp32: failed: the ONNX file differs" in done.out
    assert "1 of 2 exports failed" in done.err
    assert tree.export("baseline", "openvino", "fp32", "mask").exists()


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
        (["--method", "baseline", "--keep-float", "head"], "--keep-float: got 'head', expected a number, or names of"),
        (
            ["--method", "baseline", "--precision", "int8", "--keep-float", "33"],
            "--keep-float: got 33 of 65 convolutions, expected at most half of them",
        ),
        pytest.param(
            ["--method", "baseline", "--format", "trt", "--compute-capability", "SM1"],
            "--compute-capability: got 'SM1'",
            marks=pytest.mark.needs("tensorrt_rtx"),
        ),
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
