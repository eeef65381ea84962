"""Files from elsewhere run in a process of their own: what hangs, crashes or is interrupted ends in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from PIL import Image

from kdbench.errors import BadInput, RunFailed
from kdbench.machine.apart import Apart
from tests.conftest import REPOSITORY
from tests.served import Served


@pytest.fixture
def served():
    made = Apart(Served, what="'model.onnx'", limit_s=30)
    yield made
    made.close()


def test_methods_answer(served):
    np.testing.assert_array_equal(served.call("double", np.arange(3)), [0, 2, 4])
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by nothing"):
        served.call("fail")
    np.testing.assert_array_equal(served.call("double", np.arange(2)), [0, 2])


def test_an_error_of_opening_is_the_callers():
    with pytest.raises(BadInput, match="no such file"):
        Apart(Served, True, what="'model.onnx'")


def test_what_hangs_is_ended(served):
    served._limit = served._spent + 1
    started = time.monotonic()
    with pytest.raises(RunFailed, match=r"'model.onnx' gave no answer within .* s: give it more with --timeout"):
        served.call("sleep", 600)
    assert time.monotonic() - started < 10
    assert not served._process.is_alive()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signals that end a process")
def test_what_crashes_is_said(served):
    with pytest.raises(RunFailed, match=r"'model.onnx' does not run: its process ended by signal 11"):
        served.call("crash")


@pytest.mark.parametrize("broken", [EOFError, BrokenPipeError, ConnectionResetError])
def test_an_end_is_said_where_signals_lack_and_pipes_break_as_on_windows(served, monkeypatch, broken):
    def poll(timeout):
        raise broken

    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    served._process.terminate()
    served._process.join(5)
    monkeypatch.setattr(served._connection, "poll", poll)
    with pytest.raises(RunFailed, match=r"'model.onnx' does not run: its process ended (by signal|with exit code)"):
        served.call("double", 1)


def endless(path):
    """A segmentation of 32 x 32 pixels that counts to 2^62 first."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going_in"], ["going"]), helper.make_node("Identity", ["x_in"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_in", TensorProto.FLOAT, [1, 3, 32, 32]),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, [1, 3, 32, 32]),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "going0", "image"], ["logits"], body=body)]
    constants = [
        helper.make_tensor("trips", TensorProto.INT64, [], [2**62]), helper.make_tensor("going0", TensorProto.BOOL, [], [1])
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 32, 32])
    graph = helper.make_graph(nodes, "endless", [image], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_file_that_never_answers(tmp_path, kdbench):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    path = endless(tmp_path / "endless.onnx")
    for command in (
        ("predict", path, tmp_path / "photo.png", "--output-dir", tmp_path / "out"),
        ("parity", path, path, "--images", tmp_path / "photo.png"),
        ("import", path, "--name", "theirs", "--dataset", "shapes", "--runs", tmp_path / "runs"),
    ):
        done = kdbench(*command, "--timeout", 2)
        assert done.code == 1, command
        assert f"'{path}' gave no answer within 2 s" in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for another process")
def test_an_interrupt_ends_the_command_and_its_child(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    path = endless(tmp_path / "endless.onnx")
    process = subprocess.Popen(
        [sys.executable, "-m", "kdbench", "predict", path, tmp_path / "photo.png", "--output-dir", tmp_path / "out"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    children = []
    while len(children) < 2 and process.poll() is None:  # the engine's process, and multiprocessing's tracker
        time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
    time.sleep(2)  # into the loop
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
