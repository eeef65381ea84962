"""Backends and formats from outside: one file each, known everywhere, in every process that a command starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from kdbench.backends import BACKENDS, DeclaredBackend, runs_checkpoints, usual_backends
from kdbench.errors import BadInput
from kdbench.formats import FORMATS, Format, companions, format_of
from kdbench.report.charts import color_of
from kdbench.runs.tree import RunTree, sidecar_path
from tests import forking
from tests.conftest import REPOSITORY

BACKEND = REPOSITORY / "tests/plugins/my_backend.py"
FORMAT = REPOSITORY / "tests/plugins/my_format.py"


def run(plugin, *arguments, codes=(0,)):
    command = [sys.executable, "-m", "kdbench", "--plugin", plugin, *arguments]
    done = forking.run(command, env={**os.environ, "COLUMNS": "240"})
    assert done.returncode in codes, done.stdout + done.stderr
    return done


@pytest.fixture
def exported_tree(trained_runs, tmp_path, kdbench):
    shutil.copytree(trained_runs, tmp_path / "runs")
    done = kdbench("export", "--method", "baseline", "--format", "onnx", "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    return RunTree(tmp_path / "runs", "folder")


@pytest.mark.slow
def test_a_backend_from_outside_has_rows_with_accuracy_and_latency(exported_tree):
    flags = ("--method", "baseline", "--runs", exported_tree.runs)
    run(BACKEND, "compare", *flags, "--backend", "torch,mine", "--precision", "fp32,int8", "--rounds", "10")
    rows = json.loads((exported_tree.root / "compare.json").read_text())["rows"]
    assert [(row["backend"], row["precision"], row["status"]) for row in rows] == [
        ("torch", "fp32", "ok"), ("mine", "fp32", "ok"), ("mine", "int8", "unsupported"),
    ]  # fmt: skip
    mine = rows[1]
    assert mine["miou"] == pytest.approx(rows[0]["miou"], abs=0.001)
    assert mine["agreement_with_torch"] >= 0.999
    assert mine["latency"]["rounds"] == 10
    assert mine["artifact"]["path"] == "baseline/exports/onnx-fp32/mask.onnx"
    assert mine["engine"]["optimised"] is False
    assert rows[2]["reason"] == "it reads float files alone"

    run(BACKEND, "report", "--runs", exported_tree.runs)
    page = (exported_tree.root / "report.html").read_text(encoding="utf-8")
    assert "#CC79A7" in page
    gate = ("regress", "--baseline", exported_tree.root, "--candidate", exported_tree.root)
    done = run(
        BACKEND, *gate, "--backend", "onnx,mine", "--method", "baseline", "--budget", "10", "--json", "-", codes=(3,)
    )
    names = [cell["name"] for cell in json.loads(done.stdout)["cells"]]
    assert names == ["baseline/onnx-fp32/mask", "baseline/mine-fp32/mask"]


def test_a_backend_from_outside_is_known_to_doctor_errors_help_and_completion():
    assert "My engine" in run(BACKEND, "doctor").stdout
    error = run(BACKEND, "compare", "--backend", "yours", "--runs", REPOSITORY / "tests", codes=(2,)).stderr
    assert len(error.strip().splitlines()) == 1
    assert "torch, torch-channels-last" in " ".join(run(BACKEND, "compare", "--help").stdout.split())
    assert "trt, mine" in " ".join(run(BACKEND, "predict", "--help").stdout.replace("│", " ").split())
    code = (
        "from unittest.mock import Mock; import sys\n"
        "from kdbench.cli.app import completion\n"
        "context = Mock(); context.find_root().params = {}\n"
        "print(completion('--backend')(context, 'torch,m'), [m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True,
        env={**os.environ, "KDBENCH_PLUGINS": str(BACKEND)},
    )  # fmt: skip
    assert done.stdout.strip() == "[('torch,mine', '')] []"


@pytest.mark.slow
def test_a_format_from_outside_is_exported_compared_and_timed_by_the_gate(exported_tree):
    """Its name has a hyphen, its weights lie beside it."""
    flags = ("--method", "baseline", "--runs", exported_tree.runs)
    run(FORMAT, "export", *flags, "--format", "onnx-apart", "--precision", "fp32,int8")
    path = exported_tree.method_dir("baseline") / "exports/onnx-apart-fp32/mask.graph"
    weights = path.with_suffix(".weights")
    about = json.loads(sidecar_path(path).read_text())
    assert (about["format"], about["made_by"], about["parity"]["finite"]) == ("onnx-apart", "my_format", True)
    assert about["weights"]["bytes"] == weights.stat().st_size > 5e6
    assert sorted(file.name for file in path.parent.iterdir()) == ["mask.graph", "mask.json", "mask.weights"]
    run(FORMAT, "compare", *flags, "--backend", "apart", "--rounds", "10")
    (row,) = json.loads((exported_tree.root / "compare.json").read_text())["rows"]
    assert (row["status"], row["artifact"]["bytes"]) == ("ok", path.stat().st_size + weights.stat().st_size)
    gate = ("regress", "--baseline", path.parent, "--candidate", path.parent, "--budget", "10", "--json", "-")
    done = run(FORMAT, *gate, codes=(0, 3))
    assert [cell["name"] for cell in json.loads(done.stdout)["cells"]] == ["baseline/apart-fp32/mask"]
    weights.write_bytes(weights.read_bytes()[:-1])
    run(FORMAT, "compare", *flags, "--backend", "apart", "--rounds", "10", codes=(1,))
    (row,) = json.loads((exported_tree.root / "compare.json").read_text())["rows"]
    assert row["status"] == "failed"
    assert "mask.weights', the weights of 'mask.graph', is not the file that the sidecar describes" in row["reason"]


# What declarations say


def test_what_backends_say_of_themselves():
    assert BACKENDS.names() == ("torch", "torch-channels-last", "torch-compile", "onnx", "openvino", "trt")
    assert usual_backends() == ("torch", "onnx", "openvino", "trt")
    assert FORMATS.names() == ("onnx", "trt", "openvino")
    assert [name for name in BACKENDS.names() if runs_checkpoints(name)] == [
        "torch", "torch-channels-last", "torch-compile",
    ]  # fmt: skip
    assert not runs_checkpoints("of an old file")
    assert (color_of("openvino"), color_of("of an old file")) == ("#D55E00", "#000000")
    with pytest.raises(BadInput, match="--backend: got 'tflite', expected one of torch, torch-channels-last"):
        BACKENDS["tflite"]


def test_rows_and_reasons_by_precision():
    def declared(**options):
        return DeclaredBackend("x", load=None, probe=None, **options)

    checkpoint, whole = declared(), declared(loads="openvino")
    assert (checkpoint.rows(("int8", "fp16")), checkpoint.why_not("fp32")) == (("fp32",), None)
    assert whole.rows(("int8", "fp16")) == ("int8", "fp16")
    assert (whole.why_not("int8"), whole.why_not("fp16")[:26]) == (None, "OpenVINO exports are fp32 ")
    some = declared(loads="onnx", precisions=("fp32", "fp16"))
    assert (some.why_not("fp16"), some.why_not("int8")) == (None, "x computes in fp32 or fp16")
    assert Format("y", "Y", "y", precisions=("fp32",)).why_not("int8") == "Y exports are fp32"


def test_companions_are_those_that_exist(tmp_path):
    xml = tmp_path / "mask.xml"
    assert (format_of(xml).name, format_of(tmp_path / "student.safetensors")) == ("openvino", None)
    assert companions(xml) == companions(tmp_path / "student.safetensors") == []
    xml.with_suffix(".bin").write_bytes(b"x")
    assert companions(xml) == [xml.with_suffix(".bin")]
