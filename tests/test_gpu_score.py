"""benchmarks/gpu_score.py by value, on lines written by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu_score import as_text, read_last_run, score
from benchmarks.gpu_ways import USUAL

FAST = "fused torch.compile fp16 in a CUDA graph"


def where(way, batch=1):
    return {"way": way, "size": "512x512", "batch": batch}


def round_of(way, number, network, whole):
    return {
        "kind": "round", **where(way), "round": number, "network_ms": [network] * 3,
        "image_to_mask_ms": [whole, whole, 9.0],
    }  # fmt: skip


LINES = [
    {"kind": "start", "work": {"512x512": {"operations": 2e9, "bytes": 4e7}}},
    {"kind": "floors", "bytes_per_second": 4e12, "operations_per_second": 1e15},
    {"kind": "open", **where(USUAL), "load_seconds": 1.0, "about": {}, "agreement": 0.9995, "miou": 0.6},
    {"kind": "open", **where(FAST), "load_seconds": 20.0, "about": {"compile_seconds": 18.0}, "agreement": 0.998, "miou": 0.61},
    round_of(USUAL, 0, 99.0, 99.0),  # right after opening: not in turn with the others
    *(round_of(USUAL, number, 4.0, 4.5) for number in (1, 2, 3)),
    *(round_of(FAST, number, 0.2, 0.3) for number in (1, 2)),
    {"kind": "open", **where(FAST, 64), "load_seconds": 20.0, "about": {}, "agreement": 0.997, "miou": 0.61},
    {
        "kind": "batch", **where(FAST, 64), "network_ms": [4.0] * 3, "image_to_mask_ms": [8.0] * 3,
        "pipeline_images_per_second": 13000.0,
    },
    round_of("onnx fp32", 0, 1.0, 1.5),
    {"kind": "failed", **where("onnx fp16"), "failed": "Traceback\nRuntimeError: word for word"},
    {"kind": "failed", "way": "floors", "failed": "RuntimeError: no memory"},
]  # fmt: skip


def test_rows_by_value():
    rows = {row["way"]: row for row in score(LINES)["rows"]}
    assert set(rows) == {USUAL, FAST, "onnx fp32", "onnx fp16"}
    fast = rows[FAST]
    assert (fast["network_ms"], fast["image_to_mask_ms"], fast["rounds"]) == (0.2, 0.3, 2)
    assert fast["times_faster"] == pytest.approx((15, 15, 15))
    assert fast["times_faster_network"] == pytest.approx((20, 20, 20))
    assert fast["images_per_second"] == {
        "1": {"network": pytest.approx(5000), "image_to_mask": pytest.approx(1e3 / 0.3), "pipeline": None},
        "64": {"network": 16000, "image_to_mask": 8000, "pipeline": 13000},
    }
    # 4e7 bytes at 4e12 a second are 0.01 ms, 2e9 operations at 1e15 are 0.002; the best batch takes 4 / 64 ms an image.
    assert fast["share_of_floor"] == pytest.approx(0.01 / (4 / 64))
    assert (fast["agreement"], fast["miou"], fast["load_seconds"], fast["compile_seconds"]) == (0.997, 0.61, 20.0, 18.0)
    assert rows[USUAL]["image_to_mask_ms"] == 4.5
    assert rows["onnx fp32"]["image_to_mask_ms"] == 1.5, "the first timing counts where there is no other"
    assert rows["onnx fp32"]["times_faster"] is None
    assert rows["onnx fp16"]["failed"] == [{"batch": 1, "reason": "Traceback\nRuntimeError: word for word"}]


def test_goals_reached_and_missed():
    assert [(goal["measured"], goal["way"], goal["reached"]) for goal in score(LINES)["goals"]] == [
        (0.3, FAST, True), (pytest.approx(15), FAST, True), (13000, FAST, True),
    ]  # fmt: skip
    slower = [line for line in LINES if line.get("way") != FAST]
    assert [goal["reached"] for goal in score(slower)["goals"]] == [False, False, False]
    nothing = score(LINES[:1])
    assert [goal["measured"] for goal in nothing["goals"]] == [None, None, None]
    assert "nothing measured" in as_text(nothing)


def test_the_table():
    text = as_text(score(LINES))
    assert max(map(len, text.splitlines())) <= 120
    assert "  batch 1: RuntimeError: word for word" in text
    assert "floors failed: RuntimeError: no memory" in text
    assert "15.00 [15.00, 15.00]" in next(line for line in text.splitlines() if line.startswith(FAST))
    assert f"reached: image to mask ms at 512x512: 0.30, expected 0.35 ({FAST})" in text
    assert "floors, ms an image: operations 0.00200, bytes 0.01000" in text


def test_the_last_run_counts_and_a_line_cut_short_does_not(tmp_path):
    journal = tmp_path / "latency.jsonl"
    lines = [{"kind": "start", "n": 1}, {"kind": "end"}, {"kind": "start", "n": 2}]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "rou', encoding="utf-8")
    assert read_last_run(journal) == [{"kind": "start", "n": 2}]
