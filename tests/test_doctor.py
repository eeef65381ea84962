"""``kdbench doctor``: what runs here, and the command for what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from kdbench.backends import BACKENDS, doctor
from kdbench.backends.doctor import diagnose
from kdbench.machine.checks import NO_GPU, Gpu, try_import
from tests.conditions import HAS_GPU, missing
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def rows():
    return {(check.name, check.engine): check for check in diagnose()}


def run(*arguments, **environment):
    """In a process of its own, where no package was imported before."""
    command = [sys.executable, "-m", "kdbench", "doctor", *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_every_backend_of_compare_has_a_row(rows):
    assert {name for names, _ in rows for name in names.split(", ")} >= set(BACKENDS.names())


def test_what_the_tests_run_on_is_ready(rows):
    """The suite itself runs models in these."""
    for key, precisions in {
        ("torch, torch-channels-last", "PyTorch eager"): ("fp32",),
        ("onnx", "ONNX Runtime CPU"): ("fp32", "int8"),
    }.items():
        assert (rows[key].ready, rows[key].precisions, rows[key].fix) == (True, precisions, None), rows[key]


@pytest.mark.needs("openvino")
def test_openvino_is_ready(rows):
    import openvino

    row = rows["openvino", "OpenVINO CPU"]
    assert (row.ready, row.precisions, row.fix) == (True, ("fp32", "int8"), None)
    assert openvino.__version__.startswith(row.version)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_what_needs_a_gpu_says_that_nothing_helps_here(rows):
    needing = [check for check in rows.values() if check.fix == NO_GPU]
    assert {check.engine for check in needing} == {
        "PyTorch CUDA", "ONNX Runtime CUDA", "TensorRT", "TensorRT for RTX",
    }  # fmt: skip
    assert not any(check.ready or check.precisions for check in needing)
    if not missing("tensorrt_rtx"):
        assert "built ahead of time" in rows["trt", "TensorRT for RTX"].note


def test_a_gpu_that_packages_do_not_see_names_the_package(monkeypatch):
    """As on a machine with a driver and the CPU builds of everything."""
    monkeypatch.setattr(doctor, "find_gpu", lambda: Gpu("NVIDIA H100", (9, 0)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = {check.engine: check for check in diagnose()}
    assert rows["PyTorch CUDA"].device == "NVIDIA H100"
    assert "install a CUDA build of torch" in rows["PyTorch CUDA"].fix
    if not rows["ONNX Runtime CUDA"].ready:
        assert rows["ONNX Runtime CUDA"].fix.endswith("pip install onnxruntime-gpu")


def test_a_package_that_is_not_installed_names_its_command():
    package = try_import("no_such_engine", "no-such-engine")
    assert (package.module, package.problem, package.fix) == (None, "not installed", "pip install no-such-engine")


def test_torch_compile_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    check = next(check for check in diagnose() if check.engine == "torch.compile")
    assert (check.ready, check.note) == (False, "no C++ compiler (no-such-compiler)")
    assert check.fix


@pytest.mark.needs("pydantic", "rich")
@pytest.mark.parametrize("json_file", ["-", "doctor.json"])
def test_json_is_the_table(tmp_path, json_file):
    done = run("--json", json_file if json_file == "-" else tmp_path / json_file)
    assert done.returncode == 0
    document = json.loads(done.stdout if json_file == "-" else (tmp_path / json_file).read_text(encoding="utf-8"))
    assert document["schema_version"] == 1
    assert document["versions"]["torch"] == version("torch")
    assert set(document["rows"][0]) == {
        "name", "engine", "version", "device", "precisions", "ready", "note", "fix",
    }  # fmt: skip
    for_people, nothing = (done.stderr, "") if json_file == "-" else (done.stdout, done.stderr)
    assert "ONNX Runtime CPU" in for_people
    assert nothing == ""


@pytest.mark.needs("pydantic", "rich")
def test_broken_packages_are_rows_and_not_tracebacks(tmp_path):
    """Three ways to be broken: the import raises, raises something odd, or leaves a folder without anything in it."""
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libopenvino.so.2640: cannot open\\nshared')")
    (tmp_path / "nncf.py").write_text("print('hello'); raise ZeroDivisionError")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    (tmp_path / "torchvision.py").write_text("raise OSError('undefined symbol [nms]')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = run("--json", "-", PYTHONPATH=path)
    assert (done.returncode, "Traceback" in done.stderr, "hello" in done.stderr) == (0, False, False)
    rows = {row["engine"]: row for row in json.loads(done.stdout)["rows"]}
    expected = {
        "OpenVINO CPU": ("ImportError: libopenvino.so.2640: cannot open shared", "openvino"),
        "NNCF": ("ZeroDivisionError: no message", "nncf"),
        "ONNX Runtime CPU": ("is incomplete (AttributeError", "onnxruntime"),
        "PyTorch eager": ("torchvision cannot be imported (OSError: undefined symbol [nms])", "torchvision"),
    }
    for engine, (reason, package) in expected.items():
        assert not rows[engine]["ready"], engine
        assert reason in rows[engine]["note"], rows[engine]
        assert rows[engine]["fix"] == f"pip install --force-reinstall {package}"
    assert rows["ONNX"]["ready"]
    table = run(PYTHONPATH=path)
    assert table.returncode == 0
    assert "undefined symbol [nms]" in " ".join(table.stdout.replace("│", " ").split())


def test_bad_usage_is_one_line(kdbench, tmp_path):
    done = kdbench("doctor", "--json", tmp_path)
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
    assert "expected a file that ends in .json, or - for stdout" in done.err
    assert kdbench("doctor", "--fast").code == 2
