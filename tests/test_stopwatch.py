"""Where an export's time goes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from exporters import stopwatch
from exporters.stopwatch import Stopwatch
from tests.exports import make_job


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_part_inside_another_counts_once(clock):
    watch = Stopwatch()
    clock(5)  # before anything runs
    with watch.part("writing"):
        clock(2)
        with watch.part("tracing"):
            clock(30)
        clock(1)
    clock(7)  # between parts
    with watch.part("proof"):
        clock(4.4)
    with watch.part("writing"):
        clock(0.2)
    assert watch.seconds == pytest.approx({"writing": 3.2, "tracing": 30, "proof": 4.4})
    assert watch.told() == "38 s: 30 tracing, 4 proof, 3 writing"


def test_a_part_that_fails_is_booked(clock):
    watch = Stopwatch()

    def fail():
        with watch.part("proof"):
            clock(2)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    clock(9)
    assert watch.seconds == {"proof": 2}
    assert Stopwatch().told() == "0 s"


def test_the_reference_answers_an_image_once(exported, monkeypatch):
    with make_job(exported) as job:
        calls = []
        module = job.reference._module
        monkeypatch.setattr(job.reference, "_module", lambda batch: calls.append(1) or module(batch))
        images = [np.full((1, *job.size, 3), value, np.uint8) for value in (0, 200)]
        first = [job.reference.infer(image) for image in images]
        again = [job.reference.infer(image) for image in images]
    assert len(calls) == 2
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_logits_are_not_kept(exported):
    with make_job(exported, output="logits") as job:
        batch = np.zeros((1, 3, *job.size), np.float32)
        assert job.reference.infer(batch) is not job.reference.infer(batch)


@pytest.mark.needs("onnxruntime")
def test_export_says_where_the_time_went(trained_runs, kdbench, tmp_path):
    import shutil

    shutil.copytree(trained_runs, tmp_path / "runs")
    done = kdbench("export", "--method", "baseline", "--format", "onnx", "--precision", "fp32,int8", "--allow-drift",
                   "--runs", tmp_path / "runs", "--json", tmp_path / "made.json")  # fmt: skip
    assert done.code == 0, done.err
    assert re.search(r"^baseline took \d+ s", done.out, re.MULTILINE)
    seconds = json.loads((tmp_path / "made.json").read_text())["seconds"]["baseline"]
    assert {"tracing", "ranking layers for int8", "int8 ranges and rounding", "proof against PyTorch"} <= set(seconds)
    assert all(value > 0 for value in seconds.values())
