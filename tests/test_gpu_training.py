"""benchmarks/gpu_training.py, on the CPU by the very code that runs on a GPU but for the graphs."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests import forking


def test_training_is_held_against_its_floor(folder_dataset, tiny_recipe, tmp_path):
    out = tmp_path / "training.json"
    command = [
        sys.executable, "-m", "benchmarks.gpu_training", "--dataset", "folder", "--data-root", folder_dataset,
        "--recipe", tiny_recipe, "--teacher", "fpn_resnet18", "--device", "cpu", "--blocks", "2", "--json", out,
    ]  # fmt: skip
    done = forking.run(command)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert [case["methods"] for case in report["cases"]] == [["baseline"], ["response", "feature", "combined"]]
    for case in report["cases"]:
        assert not case["graphs"]
        assert case["ms_per_step"].keys() == {"as kdbench trains", "floor", "launched one by one"}
        assert all(0 < low <= row["ratio"] <= high for row in case["ratios"] for low, high in [row["ci95"]])
    assert json.loads(done.stdout.splitlines()[-1])["benchmark"] == "gpu_training"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so():
    command = [sys.executable, "-m", "benchmarks.gpu_training"]
    done = forking.run(command)
    assert (done.returncode, done.stderr.strip()) == (
        1, "benchmarks.gpu_training needs an NVIDIA GPU, and this PyTorch sees none (or --device cpu)",
    )  # fmt: skip
