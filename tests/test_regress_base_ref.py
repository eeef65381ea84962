"""``kdbench regress --base-ref``: both sides export and run with their own code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kdbench.regress.artifact import Filter, find_artifacts
from tests.conftest import REPOSITORY


class TestBaseRef:
    @pytest.mark.slow
    @pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git checkout")
    def test_both_sides_export_and_run_with_their_own_code(self, exported, tmp_path):
        command = [
            sys.executable, "-m", "kdbench", "regress", "--base-ref", "HEAD", "--method", "baseline",
            "--runs", exported.runs, "--size", "64x64", "--budget", "10", "--json", tmp_path / "gate.json",
        ]  # fmt: skip
        done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
        (cell,) = json.loads((tmp_path / "gate.json").read_text())["recording"]["cells"]
        assert cell["baseline"]["path"] == "HEAD: baseline/exports/onnx-fp32/mask.onnx"
        assert cell["candidate"]["path"] == "the working tree: baseline/exports/onnx-fp32/mask.onnx"
        assert cell["outputs_same"]
        worktrees = subprocess.run(["git", "worktree", "list"], cwd=REPOSITORY, capture_output=True, text=True).stdout
        assert "kdbench-base-" not in worktrees

    def test_a_worker_that_finds_another_sides_code_stops(self, exported):
        (artifact,) = find_artifacts(exported.export("baseline", "onnx", "fp32", "mask"), Filter())
        spec = {**artifact.spec(), "checkout": "/elsewhere", "inputs": "", "threads": 1, "device": "cpu"}
        worker = [sys.executable, "-P", str(REPOSITORY / "kdbench/regress/worker.py"), json.dumps(spec)]
        done = subprocess.run(worker, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        assert done.returncode == 1
        assert "the side's own kdbench is in /elsewhere" in done.stderr

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            pytest.param(
                ["--base-ref", "no-such-branch"],
                "--base-ref: got 'no-such-branch', which is no revision here",
                marks=pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git checkout"),
            ),
            (["--base-ref", "HEAD", "--method", "dist"], "kdbench train --method dist --dataset shapes"),
            (["--base-ref", "HEAD", "--size", "9"], "--size: got '9'"),
            (["--size", "64x64"], "expected --baseline and --candidate, or --base-ref"),
        ],
    )
    def test_bad_flags(self, exported, kdbench, flags, said):
        done = kdbench("regress", "--runs", exported.runs, *flags)
        assert done.code == 2
        assert said in done.err
        assert done.err.count("\n") == 1

    def test_no_checkout(self, exported, kdbench, monkeypatch, tmp_path):
        monkeypatch.setattr("kdbench.regress.base_ref.CHECKOUT", tmp_path)
        done = kdbench("regress", "--base-ref", "HEAD", "--runs", exported.runs)
        assert done.code == 2
        assert "does not run from a git checkout" in done.err
