"""benchmarks/gpu_latency.py: the engines' masks, the schedule, the scores; on a GPU every way and a whole run."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import gpu_latency
from benchmarks.gpu_latency import USUAL, WAYS, Way, agreement, convolution_bytes, open_engine, schedule, score
from kdbench.artifacts import RunTree, write_json
from kdbench.backends import load_backend
from tests.conftest import REPOSITORY
from tests.exports import SIZE

ON_CPU = (WAYS[0], Way("torch channels-last bf16", "torch", "bf16", channels_last=True), Way("onnx", "onnx", "fp32"))


@pytest.mark.parametrize("way", ON_CPU, ids=lambda way: way.name)
def test_engines_give_the_backends_masks(exported, way):
    """On the CPU, by the very code that runs on a GPU."""
    images = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    engine = open_engine(way, exported, "baseline", 1, SIZE, device="cpu")
    usual = open_engine(WAYS[0], exported, "baseline", 1, SIZE, device="cpu")
    assert agreement(engine, usual, images) > (0.9 if way.precision == "bf16" else 0.999)
    backend = load_backend("torch", exported.checkpoint("baseline"), output="mask", size=SIZE, threads=1)
    np.testing.assert_array_equal(backend.infer(images.numpy()), usual.masks.numpy())


def test_masks_that_nobody_wrote_do_not_agree(exported):
    engine, usual = (open_engine(WAYS[0], exported, "baseline", 1, SIZE, device="cpu") for _ in range(2))
    engine.enqueue = lambda: None
    assert agreement(engine, usual, torch.zeros((1, *SIZE, 3), dtype=torch.uint8)) == 0


def test_every_block_has_batch_one_of_every_way_and_the_first_all_batches():
    todo = schedule(3, (1, 2))
    assert len(todo) == len(set(todo)) == len(WAYS) * (2 + 1 + 1)
    assert [entry[0] for entry in todo] == sorted(entry[0] for entry in todo)


def test_convolution_bytes_by_hand(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU())
    monkeypatch.setattr("kdbench.models.deploy.build_model", lambda arch, classes: network.to("meta"))
    assert convolution_bytes("any", 2, (8, 8)) == 2 * (3 * 8 * 8 + 4 * 4 * 4)


def test_score_by_value(tmp_path):
    tree = RunTree(tmp_path, "shapes")
    journal = tree.root / "latency" / "gpu-latency.jsonl"
    write_json(
        tree.checkpoint("baseline").with_suffix(".json"),
        {"schema_version": 1, "arch": "student", "classes": ["a", "b"]},
    )
    ceilings = {"schema_version": 1, "bytes_per_second": 1e12, "operations_per_second": 1e15}
    write_json(journal.with_name("gpu-ceilings.json"), ceilings)
    fast = "tensorrt fp16, CUDA graph"

    def entry(block, way, batch, network, whole):
        return {"block": block, "way": way, "batch": batch, "network_ms": [network] * 3,
                "image_to_mask_ms": [whole] * 3, "agreement": 1.0}  # fmt: skip

    found = [entry(b, USUAL, 1, 4.0, 5.0) for b in (0, 1)] + [entry(b, fast, 1, 0.2, 0.5) for b in (0, 1)]
    found += [
        entry(0, fast, 8, 0.8, 2.0),
        {"block": 0, "way": "onnx fp16", "batch": 1, "failed": "Error: word for word"},
    ]
    journal.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    report = score(journal, tree, "baseline", (64, 64))
    rows = {row["way"]: row for row in report["rows"]}
    assert rows[fast]["times_faster"] == (10.0, 10.0, 10.0)
    assert rows[fast]["images_per_second"] == {1: 5000.0, 8: 10000.0}
    floor = max(report["bytes"] / 1e12, report["operations"] / 1e15)
    assert rows[fast]["share_of_floor"] == pytest.approx(floor / (0.8e-3 / 8))
    assert rows["onnx fp16"]["failed"] == ["Error: word for word"]
    assert rows["onnx fp16"]["network_ms"] is None
    assert "word for word" in gpu_latency.as_text(report)


def test_without_a_gpu_one_line_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_latency"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (
        1, "benchmarks.gpu_latency needs an NVIDIA GPU, and this PyTorch sees none",
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_way_on_a_gpu_gives_the_same_masks(exported, way):
    pytest.importorskip({"torch.compile": "torch", "onnx": "onnxruntime"}.get(way.runtime, way.runtime))
    images = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    with torch.cuda.stream(torch.cuda.Stream()):
        engine = open_engine(way, exported, "baseline", 1, SIZE)
        usual = open_engine(WAYS[0], exported, "baseline", 1, SIZE)
        # An untrained student's classes lie close together: rounding changes more of them than in earnest.
        assert agreement(engine, usual, images) > 0.9
