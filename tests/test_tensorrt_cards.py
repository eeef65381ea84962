"""Cards that TensorRT for RTX does not run on: what doctor, export and everything that loads an engine say."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from exporters import to_tensorrt
from exporters.to_tensorrt import AHEAD_OF_TIME, choose_provider
from kdbench.backends import doctor, tensorrt_engine
from kdbench.backends.doctor import diagnose
from kdbench.backends.tensorrt_cards import rtx_obstacle
from kdbench.comparison.latency import LatencyCase, measure
from kdbench.errors import BackendUnavailable, EngineRefused, RunFailed, one_line
from kdbench.machine.checks import Gpu, find_gpu
from tests import fake_tensorrt
from tests.conditions import ENGINE_BUILDER
from tests.exports import SIZE, edit_sidecar

REFUSED = "tensorrt_rtx 9.9 refused the engine on NVIDIA H200: IRuntime::deserializeCudaEngine: Error Code 6"
LISTED = "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. More of it."


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (12, 0), (12, 1), (12, 9), (13, 0)])
def test_cards_that_run_engines(capability):
    assert rtx_obstacle(capability) is None


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (8, 7), (9, 0), (10, 0), (11, 0)])
def test_cards_that_run_none(capability):
    reason, instead = rtx_obstacle(capability)
    wanted = "does not run on a GPU of compute capability {}.{}, only on 8.0, 8.6, 8.9, 12.0 and newer"
    assert reason == wanted.format(*capability)
    assert "ONNX Runtime CUDA" in instead


def test_turing_runs_what_is_built_for_it_alone():
    reason, command = rtx_obstacle((7, 5))
    assert "built for it alone on a GPU of compute capability 7.5" in reason
    assert command.endswith("--compute-capability SM75")


def test_one_line_by_value():
    assert one_line(" a\n  b\tc ") == "a b c"
    assert one_line("a" * 400) == "a" * 400
    assert one_line("a" * 401) == "a" * 399 + "…"


# doctor


def doctors_rows(monkeypatch, gpu):
    monkeypatch.setattr(doctor, "find_gpu", lambda: gpu)
    return {check.engine: check for check in diagnose()}


@pytest.mark.needs(ENGINE_BUILDER)
@pytest.mark.parametrize(("capability", "ready"), [((9, 0), False), ((8, 9), True), ((12, 1), True), (None, True)])
def test_doctor_knows_which_cards_tensorrt_for_rtx_runs_on(monkeypatch, capability, ready):
    row = doctors_rows(monkeypatch, Gpu("Some GPU", capability))["TensorRT for RTX"]
    assert (row.ready, row.device, bool(row.precisions)) == (ready, "Some GPU", ready)
    if not ready:
        assert row.note.startswith("does not run on a GPU of compute capability 9.0")
        assert row.fix.startswith("use ONNX Runtime CUDA")


@pytest.mark.skipif("tensorrt" in sys.modules, reason="tensorrt is installed here")
def test_doctor_says_where_tensorrt_can_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    row = doctors_rows(monkeypatch, Gpu("NVIDIA H200", (9, 0)))["TensorRT"]
    assert (row.ready, row.fix) == (False, "pip install tensorrt")
    assert "NVIDIA's own package index, which must be reachable" in row.note
    assert len(row.note.splitlines()) == 1
    assert "index" not in doctors_rows(monkeypatch, None)["TensorRT"].note  # nothing to install without a GPU


SMI = """#!/bin/sh
case "$1" in
    *compute_cap*) {};;
    *) echo 'Tesla V100'; echo 'Tesla T4';;
esac
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
@pytest.mark.parametrize(
    ("newer", "expected"),
    [
        ("echo 'NVIDIA H200, 9.0'; echo 'NVIDIA T4, 7.5'", Gpu("NVIDIA H200", (9, 0))),
        ("echo 'NVIDIA GeForce RTX 5090, 12.0'", Gpu("NVIDIA GeForce RTX 5090", (12, 0))),
        ("echo 'NVIDIA H200, [N/A]'", Gpu("NVIDIA H200", None)),
        ("echo 'not a valid field'; exit 2", Gpu("Tesla V100", None)),  # an old driver
    ],
)
def test_the_gpu_by_its_driver(tmp_path, monkeypatch, newer, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(newer))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_gpu() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_no_gpu_and_a_driver_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpu() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    assert find_gpu() is None


# export


@pytest.fixture
def card(monkeypatch):
    """Make PyTorch claim an NVIDIA H200, or another card, without ``tensorrt``."""

    def claim(capability, name="NVIDIA H200"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setitem(sys.modules, "tensorrt", None)

    return claim


@pytest.mark.needs(ENGINE_BUILDER)
def test_no_engine_is_built_for_a_card_that_would_refuse_it(card):
    card((9, 0))
    message = (
        r"^TensorRT for RTX does not run on a GPU of compute capability 9\.0, .* \(NVIDIA H200\): use ONNX Runtime "
        r"CUDA .*; --compute-capability builds for other cards; trt: tensorrt cannot be imported .*own package index"
    )
    with pytest.raises(BackendUnavailable, match=message):
        choose_provider()


@pytest.mark.needs(ENGINE_BUILDER)
def test_cards_named_by_a_person_are_built_for_anywhere(card):
    card((9, 0))
    trt, built_for = choose_provider(("SM89",))
    assert (trt.__name__, built_for) == ("tensorrt_rtx", ["SM89"])


@pytest.mark.needs(ENGINE_BUILDER)
@pytest.mark.parametrize("capability", [(8, 6), (12, 0)])
def test_cards_that_run_engines_get_the_usual_one(card, capability):
    card(capability)
    trt, built_for = choose_provider()
    assert (trt.__name__, built_for) == ("tensorrt_rtx", list(AHEAD_OF_TIME))


@pytest.mark.needs(ENGINE_BUILDER)
def test_export_skips_the_engine_with_one_line(card, tree, kdbench, monkeypatch):
    engine = tree.export("baseline", "trt", "fp32", "mask")
    before = engine.read_bytes()
    card((9, 0))
    monkeypatch.setattr(to_tensorrt, "read_export", None)  # nothing is read, parsed or built
    done = kdbench("export", "--method", "baseline", "--format", "trt", "--runs", tree.runs)
    assert done.code == 1
    assert "nothing could be exported on this machine" in done.err
    reasons = [line for line in done.out.splitlines() if line.startswith("baseline trt fp32: skipped: ")]
    assert len(reasons) == 1
    assert "does not run on a GPU of compute capability 9.0" in reasons[0]
    assert engine.read_bytes() == before


# An engine that its runtime refuses


@pytest.fixture
def refusing(tree, card, monkeypatch):
    """The baseline's engine on an H200, whose runtime is here."""
    card((9, 0))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt)
    monkeypatch.setattr(fake_tensorrt, "__name__", "tensorrt_rtx")
    engine = tree.export("baseline", "trt", "fp32", "mask")
    edit_sidecar(engine, provider="tensorrt_rtx", provider_version=fake_tensorrt.__version__)
    return engine


@pytest.mark.needs(ENGINE_BUILDER)
def test_the_runtimes_own_words_are_one_short_line(refusing):
    with pytest.raises(EngineRefused) as caught:
        tensorrt_engine.TensorRTBackend.load(refusing, output="mask", size=None, device="cuda", threads=1)
    message = str(caught.value)
    assert message.startswith(REFUSED)
    assert LISTED in message
    assert message.endswith("…")
    assert len(message) < 500
    assert len(message.splitlines()) == 1


@pytest.mark.needs(ENGINE_BUILDER)
def test_predict_says_it_in_one_line(refusing, tree, kdbench, tmp_path):
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "x.png")
    done = kdbench("predict", tmp_path / "x.png", "--method", "baseline", "--backend", "trt", "--runs", tree.runs)
    assert (done.code, len(done.err.strip().splitlines())) == (1, 1)
    assert done.err.startswith(f"kdbench: {REFUSED}")
    assert LISTED in done.err


@pytest.mark.needs(ENGINE_BUILDER)
def test_processes_of_their_own_say_it_in_one_line(tree, kdbench, monkeypatch, tmp_path):
    """The gate's and the benchmarks' processes import a copy of the fake, and a PyTorch that claims an H200."""
    engine = tree.export("baseline", "trt", "fp32", "mask")
    edit_sidecar(engine, provider="tensorrt_rtx", provider_version=fake_tensorrt.__version__)
    shutil.copy(fake_tensorrt.__file__, tmp_path / "tensorrt_rtx.py")
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.cuda\n"
        "torch.cuda.is_available = lambda: True\n"
        "torch.cuda.get_device_name = lambda *a: 'NVIDIA H200'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    done = kdbench("regress", "--baseline", engine, "--candidate", engine, "--threads", "1")
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1)
    assert f"cannot be timed: EngineRefused: {REFUSED}" in done.err
    assert LISTED in done.err
    with pytest.raises(RunFailed) as caught:
        measure(
            [LatencyCase("x", "trt", str(engine), "mask", None)], [np.zeros((*SIZE, 3), np.uint8)],
            device="cpu", threads=1, rounds=2, keep_json=tmp_path / "rounds.json",
        )  # fmt: skip
    assert f"the benchmark process failed: kdbench.errors.EngineRefused: {REFUSED}" in str(caught.value)
    assert LISTED in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
