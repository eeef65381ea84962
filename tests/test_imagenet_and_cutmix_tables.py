"""benchmarks/imagenet_and_cutmix_tables.py: each figure is that of its setting, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.imagenet_and_cutmix_tables import cutmix_table, weights_sentence, weights_table
from benchmarks.label_scores import score

GPU = {"hardware": {"gpu": ["NVIDIA H200"], "cpu": "a processor"}}
CPU = {"hardware": {"gpu": [], "cpu": "AMD EPYC"}}
ENGINES = (("onnx", "fp32"), ("openvino", "int8"))


def entry(setting, method, seed, test, student="student", environment=CPU):
    """A line of the study's log; validation is a tenth above test."""
    recipe = {"student": student, "size": [180, 240], "batch_size": 16, "views": 10}
    scored = {name: {"miou": test + more, "by_drive": {"d": test + more}} for name, more in (("val", 0.1), ("test", 0))}
    return {
        "setting": setting, "method": method, "seed": seed, **scored, "labelled": 367, "steps": 1056 + seed,
        "recipe": recipe, "environment": environment,
    }  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Paths of the study on a processor, the study on a GPU, and of latencies."""
    lite0 = {"arch": "student_lite0"}
    on_cpu = [
        *(entry("all-lite0-views", "baseline", seed, 0.55, lite0 | {"weights": "imagenet"}) for seed in (3, 4, 5)),
        *(entry("all-lite0-views", "dist", s, 0.56 + s / 1000, lite0 | {"weights": "imagenet"}) for s in (3, 4, 5)),
        entry("all-lite0-views", "teacher", 0, 0.6),
        entry("all-lite0-scratch-views", "baseline", 3, 0.46, lite0),
        *(entry("all-cutmix-views", "baseline", seed, 0.45) for seed in (3, 4, 5)),
        *(entry("all-cutmix-views", "dist", seed, 0.44 + seed / 1000) for seed in (3, 4, 5)),
        entry("all-cutmix-views", "teacher", 0, 0.61),
    ]
    on_gpu = [
        entry("all", method, seed, test, environment=GPU)
        for method, test in (("baseline", 0.44), ("dist", 0.451), ("cwd", 0.449))
        for seed in (3, 4, 5)
    ]
    latencies = [
        {"model": model, "backend": backend, "precision": precision, "over_yardstick": [ratio, 0, 0]}
        for model, ratios in (("student", (0.5, 0.3)), ("student_lite0", (1.0, 0.6)))
        for (backend, precision), ratio in zip(ENGINES, ratios, strict=True)
    ]
    front = {"schema_version": 1, "size": "512x512", "rows": latencies}
    documents = {"cpu.json": score(on_cpu), "gpu.json": score(on_gpu), "front.json": front}
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    return [Path(name) for name in documents]


def cells(text, *words):
    """Of the one row that holds all ``words``."""
    (row,) = (line for line in text.splitlines() if line.startswith("|") and all(word in line for word in words))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_weights_beside_a_teacher(tmp_path, files):
    text = weights_table(tmp_path, *files)
    row = cells(text, "`student_lite0`", "ImageNet", "DIST")
    assert row[3:9] == ["1,059", "3", "0.5640 ± 0.0006", "+0.0140 ± 0.0006 gain", "0.6640 ± 0.0006", row[6]]
    assert row[9:] == ["1.00", "0.60"]
    assert cells(text, "`student_lite0`", "scratch")[4:7] == ["1", "0.4600", "–"]
    assert cells(text, "`student`", "Baseline")[5:] == ["0.4400 ± 0.0000", "–", "0.5400 ± 0.0000", "–", "0.50", "0.30"]
    # From scratch to weights, from the built-in network to this one, and the teacher's part.
    assert "weights are worth +0.0900 to the same network" in text
    assert (
        "is +0.0200 from the built-in student; a teacher changes them by +0.0140 ± 0.0006 gain, and by +0.0140 ± 0.0006 gain on val"
        in text
    )


def test_the_readmes_sentence_on_weights(tmp_path, files):
    text = weights_sentence(tmp_path, *files)
    assert "`student_lite0` has 0.5500 ± 0.0000 on test" in text
    assert "the built-in student from scratch 0.4400 ± 0.0000, in 0.50 of the latency" in text
    assert "A teacher changes the former by +0.0140 ± 0.0006 gain on test" in text


def test_cutmix_in_every_arm_beside_none(tmp_path, files):
    text = cutmix_table(tmp_path, *files[:2])
    assert cells(text, "and CutMix", "DIST")[2:4] == ["3", "0.4440 ± 0.0006"]
    assert cells(text, "and CutMix", "DIST")[4] == "-0.0060 ± 0.0006 loss"
    assert cells(text, "augmented", "DIST")[3:5] == ["0.4510 ± 0.0000", "+0.0110 ± 0.0000 gain"]
    assert "CWD" not in text  # what CutMix was not measured with has nothing to stand beside
    assert "its teacher, 0.6100 on test, learnt without it" in text
