"""The latency suite on real artifacts, and what is said of a measurement."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from kdbench.comparison.latency import MAX_WINDOWS, WINDOW, instability, summarise, until_steady
from tests import forking
from tests.conftest import REPOSITORY


def command(*arguments):
    return [sys.executable, "-m", "benchmarks.latency_suite", *map(str, arguments)]


def suite(*arguments):
    return forking.run(command(*arguments))


@pytest.fixture(scope="module")
def measured(exported, tmp_path_factory):
    file = tmp_path_factory.mktemp("suite") / "suite.json"
    flags = ("--runs", exported.runs, "--method", "baseline", "--backend", "torch,onnx", "--batch", "1,2")
    more = ("--rounds", 20, "--json", file, "--threads", 1)
    # By no fork: the benchmark processes as kdbench starts them itself.
    done = subprocess.run(command(*flags, *more), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text()), file


def test_a_case_per_artifact_and_batch(measured):
    out, document, _ = measured
    cases = {b["extra_info"]["case"]: b for b in document["benchmarks"]}
    assert set(cases) == {"baseline-torch-fp32-mask-b1", "baseline-torch-fp32-mask-b2", "baseline-onnx-fp32-mask-b1"}
    for case in cases.values():
        about = case["extra_info"]
        assert len(case["stats"]["data"]) == 20
        assert about["load_ms"] > 0
        assert about["first_ms"] > 0
        assert about["peak_mib"] > 50
        assert about["warmup_calls"] >= 2 * WINDOW
        assert about["before"]["affinity"] is None or about["before"]["affinity"]
    # The export has a batch of 1: said, not hidden.
    (line,) = document["not_run"]
    assert line.startswith("baseline-onnx-fp32-mask-b2")
    assert f"not run: {line}" in out
    assert "needs 100" in out  # of p95, with 20 rounds


def test_the_table_again_from_the_rounds(measured):
    out, _, file = measured
    again = suite("--from", file)
    assert again.returncode == 0
    assert again.stdout in out


def test_pytest_benchmarks_own_command_reads_it(measured):
    done = forking.run([sys.executable, "-m", "pytest_benchmark", "compare", measured[2]])
    assert done.returncode == 0, done.stderr
    assert "baseline-onnx-fp32-mask-b1" in done.stdout


def test_nothing_exported_is_one_line(tmp_path):
    done = suite("--runs", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("latency_suite: no trained model")
    assert done.stderr.count("\n") == 1


def test_warm_up_ends_when_adjacent_windows_agree():
    falling = iter([10.0 * 0.5**i for i in range(4 * WINDOW)] + [1.0] * 1000)
    assert until_steady(lambda: next(falling)) == 6 * WINDOW
    restless = iter(np.repeat(np.tile([1.0, 2.0], 500), WINDOW).tolist())
    assert until_steady(lambda: next(restless)) == MAX_WINDOWS * WINDOW


class TestInstability:
    steady = 10 + np.random.default_rng(0).normal(0, 0.1, 100)

    def said(self, milliseconds, steal=0.0, load=0.1):
        return instability(milliseconds, summarise(milliseconds), steal, load)

    def test_steady_rounds_are_not_blamed(self):
        assert self.said(self.steady) is None
        assert self.said(self.steady, None, None) is None

    def test_each_reason(self):
        slower = self.steady * np.linspace(1, 1.3, 100)
        assert "its second half is +1" in self.said(slower)
        wild = np.random.default_rng(0).uniform(1, 20, 100)
        assert "the median is known to ±" in self.said(wild)
        assert "5% of the CPU time" in self.said(self.steady, steal=0.05)
        assert "load average was 64" in self.said(self.steady, load=64)
        assert "kdbench regress" in self.said(slower)
