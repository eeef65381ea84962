"""benchmarks/gpu_quick.py: steps fail alone, stop at their limit, and what was written stays."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks.gpu_check import Step
from benchmarks.gpu_quick import TimedStep, run
from tests import forking


def python(code):
    return (sys.executable, "-c", code)


def test_a_step_that_fails_or_hangs_costs_the_others_nothing(tmp_path, capsys):
    todo = (
        TimedStep(Step("bad", "", python("raise SystemExit(3)")), 20),
        TimedStep(Step("slow", "", python("import time; print('begun', flush=True); time.sleep(60)")), 2),
        TimedStep(Step("good", "", python("print('hello')")), 20),
    )
    results = run(todo, tmp_path, 60)
    assert results["bad"].startswith("exit code 3, see bad.log")
    assert results["slow"].startswith("exit code 124, see slow.log")
    assert results["good"].startswith("done")
    assert "begun" in (tmp_path / "slow.log").read_text(encoding="utf-8")
    assert "hello" in (tmp_path / "good.log").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))["steps"] == results
    assert capsys.readouterr().out.count("\n") == 3


def test_what_does_not_fit_in_the_time_is_left_out(tmp_path):
    results = run((TimedStep(Step("late", "", python("print('ran')")), 20),), tmp_path, 5)
    assert results["late"] == "left out: 5 s of 5 are left"
    assert not (tmp_path / "late.log").exists()


def quick(*arguments):
    command = [sys.executable, "-m", "benchmarks.gpu_quick", *map(str, arguments)]
    return forking.run(command)


def test_steps_are_named_and_unknown_ones_refused():
    assert [line.split()[0] for line in quick("--list").stdout.splitlines()] == [
        "latency", "latency-score", "training", "tests",
    ]  # fmt: skip
    assert "got 'latancy', expected some of latency, latency-score" in quick("--skip", "latancy").stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so():
    done = quick()
    assert (done.returncode, done.stderr.strip()) == (
        1, "gpu-quick needs an NVIDIA GPU, and this PyTorch sees none (or --device cpu)",
    )  # fmt: skip
