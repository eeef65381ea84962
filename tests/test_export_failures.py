"""An export that fails takes nothing else with it, and one that agrees for want of classes is not taken for proven."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
import torch

from exporters import to_tensorrt
from exporters.proven_export import export_as
from kdbench.errors import RunFailed
from kdbench.kinds import PLUGINS
from kdbench.models.architectures import ARCHITECTURES
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import ENGINE_BUILDER
from tests.conftest import REPOSITORY
from tests.exports import make_job, make_student, save_student
from tests.foreign import Mixed


@pytest.fixture
def no_bessel(declared, monkeypatch, tmp_path):
    """Flags of commands on a trained network whose fp16 export fails, and which only a plugin declares."""
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
    assert "no onnx export" in rows["onnx", "fp16"]["reason"]


@pytest.fixture
def small(declared, tmp_path):
    """Two methods, whose students are exported in no time."""
    tree = RunTree(tmp_path, "shapes")
    for seed, method in enumerate(("baseline", "feature")):
        make_student(tree, method, seed, "positions")
    return tree


@pytest.mark.needs("openvino")
def test_a_bug_in_an_exporter_is_a_row_with_its_traceback_on_stderr(small, kdbench, monkeypatch):
    from exporters import to_onnx

    def broken(*_):
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr(to_onnx, "finish_graph", broken)
    done = kdbench("export", "--method", "baseline", "--format", "onnx,openvino", "--runs", small.runs)
    assert done.code == 1
    assert "baseline onnx fp32: failed: KeyError: 'a bug\\nof two lines'" in done.out
    assert "Traceback (most recent call last)" in done.err
    assert "in broken" in done.err
    assert "baseline openvino fp32: " in done.out
    assert done.err.splitlines()[-1].startswith("kdbench: 1 of 2 exports failed")


def test_a_method_that_cannot_be_read_leaves_the_next(small, kdbench):
    path = small.checkpoint("baseline")
    path.write_bytes(path.read_bytes()[:500])
    done = kdbench("export", "--method", "baseline,feature", "--format", "onnx", "--runs", small.runs, "--allow-drift")
    assert done.code == 2
    assert "baseline onnx fp32: failed: " in done.out
    assert "student.safetensors' is corrupt" in done.err
    assert small.export("feature", "onnx", "fp32", "mask").exists()


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


# What a processor does not show


def test_values_beyond_float16_are_refused_though_a_processor_computes_them(tree, monkeypatch):
    """ONNX Runtime computes float16 files in float32 on a processor: its masks alone say nothing of a GPU's."""

    class ByWayOfLargerNumbers(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.input = model, model.input

        def forward(self, images):
            return self.model(images) * 1e3 * 1e3 / 1e6

    path = tree.export("baseline", "onnx", "fp16", "mask")
    with make_job(tree) as job:
        assert job.fits_float16()
        model = job.model
        monkeypatch.setattr(job, "model", ByWayOfLargerNumbers(model))
        assert not job.fits_float16()
        monkeypatch.setattr(job, "model", model)
        monkeypatch.setattr(job, "fits_float16", lambda: False)
        with pytest.raises(RunFailed, match="values leave the range of float16 on real images"):
            export_as(job, "onnx", "fp16")
        export_as(job, "onnx", "fp32")
        before = path.read_bytes()
        job.allow_drift = True
        path.unlink()
        export_as(job, "onnx", "fp16")
        assert len(path.read_bytes()) == len(before)


@pytest.mark.needs(ENGINE_BUILDER)
def test_an_engine_of_a_network_that_drifted_takes_allow_drift_too(tree, monkeypatch):
    monkeypatch.setattr(to_tensorrt, "AGREEMENT", {"fp16": 1.1})
    with (
        make_job(tree) as job,
        pytest.raises(RunFailed, match=r"was kept by --allow-drift, .* expected at least 110.0%"),
    ):
        export_as(job, "trt", "fp16")
    with make_job(tree, allow_drift=True) as job:
        export_as(job, "trt", "fp16")
