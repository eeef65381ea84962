"""Rows of `kdbench compare` by the size and the batch that an export takes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from kdbench.runs.tree import RunTree


@pytest.fixture
def tree(trained_runs, tmp_path):
    shutil.copytree(trained_runs, tmp_path / "runs")
    return RunTree(tmp_path / "runs", "folder")


def test_an_export_of_another_size_is_a_row_that_says_so(tree, kdbench, tmp_path):
    flags = ("--method", "baseline", "--runs", tree.runs)
    assert kdbench("export", *flags, "--format", "onnx", "--size", "32x32", "--allow-drift").code == 0
    file = tmp_path / "compare.json"
    done = kdbench("compare", *flags, "--backend", "torch,onnx", "--rounds", "10", "--json", file)
    assert done.code == 0, done.err
    torch_row, onnx_row = json.loads(file.read_text())["rows"]
    assert (torch_row["status"], onnx_row["status"]) == ("ok", "failed")
    assert "the export takes 32x32, torch fp32 was scored at" in onnx_row["reason"]
    assert (onnx_row["miou"], onnx_row["latency"]) == (None, None)
    assert "Traceback" not in done.err


def test_images_per_second_by_batch_size(tree, kdbench, tmp_path):
    flags = ("--method", "baseline", "--runs", tree.runs)
    assert kdbench("export", *flags, "--format", "onnx", "--allow-drift").code == 0
    file = tmp_path / "compare.json"
    compare = ("compare", *flags, "--backend", "torch,onnx", "--rounds", "10", "--json", file)
    done = kdbench(*compare, "--batch", "2,1")
    assert done.code == 0, done.err
    torch_row, onnx_row = json.loads(file.read_text())["rows"]
    one, two = torch_row["throughput"]
    assert (one["batch"], two["batch"]) == (1, 2)
    assert one["images_per_s"] == pytest.approx(1e3 / torch_row["latency"]["median_ms"])
    assert two["ci95"][0] <= two["images_per_s"] <= two["ci95"][1]
    raw = json.loads((tree.root / "latency" / "torch-batch-2.json").read_text())["benchmarks"][0]
    assert two["images_per_s"] == pytest.approx(2 / np.median(raw["stats"]["data"]))
    assert onnx_row["throughput"][1]["images_per_s"] is None
    assert (
        "no images per second of baseline onnx fp32 at 2: the file takes one image at a time: export it with "
        in done.out
    )
    assert "images/s" in done.out
    assert kdbench(*compare).code == 0
    assert "images/s" not in file.with_suffix(".txt").read_text()
    assert json.loads(file.read_text())["rows"][0]["throughput"] is None
    done = kdbench(*compare, "--batch", "0")
    assert done.code == 2
    assert "--batch: got '0', expected whole numbers from 1 to 1024, for example 1,4,16" in done.err
