"""benchmarks/gpu_check.py on the CPU: steps are stopped at their limit and go on, failures stop it."""

from __future__ import annotations

import json
import sys

import pytest

from tests import forking
from tests.conftest import TINY_RECIPE


@pytest.fixture
def gpu_check(tmp_path, folder_dataset):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(TINY_RECIPE.replace("epochs = 2", "epochs = 40"), encoding="utf-8")

    def run(*arguments):
        command = [
            sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--dataset", "folder", "--data-root",
            folder_dataset, "--recipe", recipe, "--out", tmp_path / "out", "--runs", tmp_path / "runs", *arguments,
        ]  # fmt: skip
        return forking.run(command)

    return run


@pytest.mark.slow
def test_a_training_is_stopped_at_the_limit_and_goes_on(gpu_check, tmp_path):
    teacher = tmp_path / "runs" / "folder" / "teacher" / "teacher.json"
    codes = []
    while not codes or (codes[-1] == 75 and len(codes) < 20):
        limit = 12 if len(codes) < 1 else 300
        codes.append(gpu_check("--step", "teacher", "--limit", limit).returncode)
    assert codes[0] == 75, "expected the first limit to be too short"
    assert codes[-1] == 0
    assert json.loads(teacher.read_text(encoding="utf-8"))["epoch"] == 40
    log = (tmp_path / "out" / "teacher.log").read_text(encoding="utf-8")
    assert log.count("$ ") == len(codes)
    assert "resum" in log, "the second run starts where the first one stopped"


@pytest.mark.needs("pydantic", "rich")
def test_a_step_that_fails_names_its_log(gpu_check, tmp_path):
    done = gpu_check("--step", "export")
    assert done.returncode == 1
    assert done.stderr.strip() == f"see {tmp_path / 'out' / 'export.log'}"
    assert "does not exist: make it with `kdbench train" in (tmp_path / "out" / "export.log").read_text(
        encoding="utf-8"
    )


def test_an_unknown_step(gpu_check):
    assert "expected one that --list names" in gpu_check("--step", "exprot").stderr


def test_without_a_gpu_one_line_says_so():
    command = [sys.executable, "-m", "benchmarks.gpu_check"]
    done = forking.run(command)
    assert (done.returncode, done.stderr.strip()) == (1, "gpu-check needs an NVIDIA GPU, and this PyTorch sees none")
