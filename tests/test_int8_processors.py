"""benchmarks/int8_processors.py: what it compares, and that int8 exports have the same classes without VNNI."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from benchmarks.int8_processors import EMULATOR
from tests import forking
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.needs("openvino", "nncf", "onnxruntime")
COMMAND = [sys.executable, "-m", "benchmarks.int8_processors", "--dataset", "shapes", "--images", "4"]


def test_without_the_emulator_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = forking.run(COMMAND)
    assert (done.returncode, done.stderr.strip()) == (
        1, "qemu-x86_64 is not installed: `apt install qemu-user`",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")
def test_half_the_range_has_the_same_classes_without_vnni(exported, tmp_path):
    command = [*COMMAND, "--runs", exported.runs, "--json", tmp_path / "found.json"]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    half, whole = ([row for row in rows if row["weights"] == weights] for weights in ("half range", "whole range"))
    assert [row["format"] for row in half] == [row["format"] for row in whole] == ["onnx", "openvino"]
    assert all(row["same_pixels"] == 1 and row["miou"] == row["miou_avx2"] for row in half)
