"""`kdbench predict` beside a GPU that the backend does not run on, here one that is played."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from PIL import Image

from exporters.import_file import ImportOptions, import_file
from kdbench.backends.onnx_layout import Reading
from kdbench.data.normalisation import MEAN, STD
from kdbench.runs.tree import RunTree
from tests.imports import Painted, Stranger

NO_PROVIDER = "onnx: this ONNX Runtime has CPUExecutionProvider, --device cuda needs CUDAExecutionProvider"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A prediction of one photo by an imported file, where PyTorch sees a GPU and ONNX Runtime is the build without."""
    tree = RunTree(tmp_path / "runs", "painted")
    path = Stranger().write(tmp_path / "theirs.onnx")
    import_file(path, tree, Painted(), ImportOptions("theirs", Reading(mean=MEAN, std=STD)))
    Image.fromarray(Painted()[0].image).save(tmp_path / "photo.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    return (
        "predict",
        "--method",
        "theirs",
        tmp_path / "photo.png",
        "--runs",
        tree.runs,
        "--output-dir",
        tmp_path / "out",
    )


def test_auto_is_a_device_that_the_backend_runs_on(command, kdbench, tmp_path):
    done = kdbench(*command)
    assert done.code == 0, done.err
    assert f"note: --device auto takes the processor ({NO_PROVIDER}" in done.err
    assert (tmp_path / "out" / "photo-mask.png").exists()


def test_a_device_that_was_asked_for_is_not_another(command, kdbench, tmp_path):
    done = kdbench(*command, "--device", "cuda")
    assert (done.code, done.err.startswith(f"kdbench: {NO_PROVIDER}")) == (1, True), done.err
    assert not (tmp_path / "out").exists()
