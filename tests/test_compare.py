"""``kdbench compare`` after training and exporting, as a person runs it: rows, reasons, files."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_csv, as_markdown, as_text
from kdbench.methods.base import title_of
from kdbench.runs.tree import RunTree
from tests import fake_tensorrt
from tests.conditions import ENGINE_BUILDER, HAS_GPU, missing
from tests.exports import edit_sidecar

STUDENTS = ("baseline", "response", "feature", "combined")
EXPORTED = STUDENTS[:2]
"""To ONNX: each student is traced for seconds, and all are the same network."""


@pytest.fixture(scope="module")
def runs(trained_runs, tmp_path_factory):
    """The trained tree with exports, and a comparison made by the commands that follow `make train-all`."""
    from kdbench.cli.compare import CompareFlags, run_compare
    from kdbench.cli.export import ExportOptions, run_export

    runs = tmp_path_factory.mktemp("compare") / "runs"
    shutil.copytree(trained_runs, runs)
    tree = RunTree.find(runs, None)
    run_export(tree, ExportOptions(EXPORTED, ("onnx",)))
    run_export(tree, ExportOptions(STUDENTS[:1], ("trt",), compute_capability="SM80,SM89"))
    run_compare(tree, CompareFlags(",".join(STUDENTS), "torch,onnx,trt", device="cpu", threads=1))
    return runs


@pytest.fixture(scope="module")
def comparison(runs):
    return Comparison.read(runs / "folder" / "compare.json")


@pytest.fixture
def broken_runs(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def rows(comparison, backend):
    return {row.method: row for row in comparison.rows if row.backend == backend}


def test_torch_and_onnx_rows_are_ok_with_every_column(comparison):
    for backend, methods in (("torch", STUDENTS), ("onnx", EXPORTED)):
        assert tuple(rows(comparison, backend)) == STUDENTS
        for row in (rows(comparison, backend)[method] for method in methods):
            assert (row.status, row.reason) == ("ok", None)
            assert 0 <= row.miou <= 1
            assert row.latency.rounds == 100
            assert 0 < row.latency.ci95_ms[0] <= row.latency.median_ms <= row.latency.ci95_ms[1]
            assert row.params == pytest.approx(2.81e6, rel=0.01)
            assert row.gflops > 0
            assert row.miou_ci95[0] <= row.miou_ci95[1]
            assert row.miou_loss.of == "torch fp32"
            assert row.miou_loss.ci95[0] <= row.miou_loss.loss <= row.miou_loss.ci95[1]
            assert row.artifact.path.startswith(row.method)


def test_onnx_is_the_same_model(comparison):
    for method in EXPORTED:
        row = rows(comparison, "onnx")[method]
        assert row.agreement_with_torch >= 0.999
        assert row.miou == pytest.approx(rows(comparison, "torch")[method].miou, abs=0.001)


@pytest.mark.needs(ENGINE_BUILDER)
def test_an_engine_that_cannot_run_here_is_built_with_its_reason(comparison):
    row, *others = rows(comparison, "trt").values()
    assert (row.method, row.status) == ("baseline", "built")
    assert "needs an NVIDIA GPU" in row.reason
    assert row.artifact.bytes > 5e6
    assert row.latency is None
    for other in others:  # of which no engine was built
        assert (other.status, f"kdbench export --method {other.method} --format trt" in other.reason) == (
            "unavailable", True,
        )  # fmt: skip


@pytest.mark.needs(ENGINE_BUILDER)
def test_an_engine_that_its_runtime_refuses_is_unavailable_in_its_own_words(broken_runs, kdbench, monkeypatch):
    """PyTorch claims an H200; the runtime is a fake with an H200's words, which spread over lines."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *index: "NVIDIA H200")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt)
    engine = RunTree(broken_runs, "folder").export("baseline", "trt", "fp32", "mask")
    edit_sidecar(engine, provider="tensorrt_rtx", provider_version=fake_tensorrt.__version__)
    flags = ("--method", "baseline", "--backend", "trt", "--device", "cpu", "--runs", broken_runs)
    done = kdbench("compare", *flags)
    assert (done.code, len(done.err.strip().splitlines())) == (1, 1)  # no row could be measured
    [row] = Comparison.read(broken_runs / "folder" / "compare.json").rows
    assert row.status == "unavailable"
    assert row.reason.startswith("tensorrt_rtx 9.9 refused the engine on NVIDIA H200: IRuntime::deserializeCudaEngine")
    assert "compute capability 9.0. Supported compute capabilities: 8.0 8.6" in row.reason
    assert len(row.reason) < 500
    assert "unavailable [1]" in done.out
    assert [line for line in done.out.splitlines() if line.startswith("[1] ")] == [f"[1] trt unavailable: {row.reason}"]


def test_hash_and_size_are_of_the_bytes_that_ran(comparison, runs):
    from kdbench.runs.files import sha256

    ran = [row for row in comparison.rows if row.status != "unavailable"]
    assert {row.backend for row in ran} >= {"torch", "onnx"}
    for row in ran:
        path = runs / "folder" / row.artifact.path
        assert (row.artifact.sha256, row.artifact.bytes) == (sha256(path), path.stat().st_size)


def test_raw_rounds_are_kept_in_pytest_benchmarks_own_format(comparison, runs):
    report = json.loads((runs / "folder" / "latency" / "onnx.json").read_text())
    names = {benchmark["extra_info"]["case"] for benchmark in report["benchmarks"]}
    assert names == {f"{method}-fp32" for method in EXPORTED}
    data = next(b for b in report["benchmarks"] if b["extra_info"]["case"] == "response-fp32")["stats"]["data"]
    assert len(data) == 100
    assert sorted(data)[49] * 1e3 <= rows(comparison, "onnx")["response"].latency.median_ms <= sorted(data)[50] * 1e3


def test_one_seed_claims_nothing_and_a_weak_teacher_is_noted(comparison):
    assert {i.method: i.verdict for i in comparison.improvements} == dict.fromkeys(STUDENTS[1:], "no gain shown")
    assert any("no gain is claimed of response (1 seed), " in note for note in comparison.notes)
    if comparison.teacher.lead < 0.03:
        assert any("distillation is not expected to help" in note for note in comparison.notes)


def test_json_is_the_contract(comparison, runs):
    document = json.loads((runs / "folder" / "compare.json").read_text())
    assert document["schema_version"] == 1
    contract = {
        "method", "backend", "precision", "output", "status", "reason", "miou", "iou_per_class",
        "agreement_with_torch", "params", "gflops", "latency", "artifact",
    }  # fmt: skip
    for row in document["rows"]:
        assert contract <= set(row)
    ok = document["rows"][0]
    assert set(ok["latency"]) == {"median_ms", "mean_ms", "std_ms", "p95_ms", "p99_ms", "ci95_ms", "rounds"}
    assert set(ok["artifact"]) == {"path", "sha256", "bytes"}
    assert len(ok["iou_per_class"]) == 10
    assert {"hardware", "versions", "git", "command"} <= set(document["environment"])


def test_text_markdown_and_csv_are_written_beside_it(comparison, runs):
    folder = runs / "folder"
    for suffix, render in ((".txt", as_text), (".md", as_markdown), (".csv", as_csv)):
        assert (folder / f"compare{suffix}").read_text(encoding="utf-8") == render(comparison)
    lines = list(csv.DictReader((folder / "compare.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == len(comparison.rows)
    assert float(lines[0]["median_ms"]) == comparison.rows[0].latency.median_ms


def test_the_table_has_the_guides_columns_per_backend(comparison):
    text = as_text(comparison)
    header = text.splitlines()[0]
    for column in (
        "Knowledge Distillation",
        "# Parameters",
        "torch mIoU",
        "torch ms",
        "onnx mIoU",
        "onnx ms",
        "onnx = torch",
    ):
        assert column in header
    assert "Without KD (Baseline)" in text
    assert "IMPROVEMENTS OVER BASELINE" in text
    assert "no gain shown" in text
    if not HAS_GPU and not missing(ENGINE_BUILDER):
        assert "built [1]" in text
        assert "[1] trt built: engine built with tensorrt_rtx" in text


def test_compare_command_after_a_broken_and_a_missing_export(broken_runs, kdbench):
    tree = RunTree(broken_runs, "folder")
    shutil.copytree(tree.method_dir("response") / "exports", tree.method_dir("feature") / "exports")
    tree.export("feature", "onnx", "fp32", "mask").unlink()  # its sidecar stays
    onnx = tree.export("response", "onnx", "fp32", "mask")
    onnx.write_bytes(onnx.read_bytes()[:-10])
    tree.checkpoint("combined").unlink()
    done = kdbench(
        "compare", "--backend", "onnx", "--runs", broken_runs, "--rounds", "10", "--method", ",".join(STUDENTS)
    )
    assert done.code == 0, done.err
    got = rows(Comparison.read(tree.root / "compare.json"), "onnx")
    assert got["baseline"].status == "ok"
    assert got["response"].status == "failed"
    assert "sha256 differs" in got["response"].reason
    assert got["feature"].status == "unavailable"
    assert "kdbench export --method feature --format onnx" in got["feature"].reason
    assert got["combined"].status == "unavailable"
    assert "kdbench train --method combined --dataset folder" in got["combined"].reason


def test_precisions_that_backends_do_not_have_are_a_plan_and_no_failure(broken_runs, kdbench):
    """Alone they are no reason for an exit code; a row that is missing is, beside them too."""
    flags = ("--method", "baseline", "--precision", "fp16", "--runs", broken_runs)
    done = kdbench("export", *flags, "--format", "onnx", "--allow-drift")
    assert done.code == 0, done.err
    done = kdbench("compare", *flags, "--backend", "openvino,onnx", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    openvino, onnx = Comparison.read(broken_runs / "folder" / "compare.json").rows
    assert (openvino.status, onnx.status) == ("unsupported", "unsupported")
    assert openvino.reason.startswith("OpenVINO exports are fp32 or int8; it chooses half precision itself")
    assert "was to run in fp16, but its convolutions and matrix products run as 100% fp32" in onnx.reason
    assert (openvino.artifact, onnx.artifact.path) == (None, "baseline/exports/onnx-fp16/mask.onnx")
    assert (onnx.miou, onnx.latency) == (None, None)
    text = (broken_runs / "folder" / "compare.txt").read_text(encoding="utf-8")
    assert "unsupported [1]" in text
    assert "[1] openvino unsupported: OpenVINO exports are" in text
    assert "[2] onnx unsupported: onnx: '" in text
    assert kdbench("compare", *flags, "--backend", "openvino,trt", "--device", "cpu").code == 1


def test_logits_without_an_export_and_torch_beside(broken_runs, kdbench):
    done = kdbench(
        "compare",
        "--backend",
        "torch,onnx",
        "--method",
        "baseline",
        "--output",
        "logits",
        "--rounds",
        "10",
        "--runs",
        broken_runs,
    )
    assert done.code == 0, done.err
    got = Comparison.read(broken_runs / "folder" / "compare.json")
    assert [row.status for row in got.rows] == ["ok", "unavailable"]
    assert got.timing["call"] == "normalised image → logits"


@pytest.mark.slow
def test_three_seeds_are_paired_and_a_gain_may_be_claimed(broken_runs, kdbench, tiny_arguments):
    done = kdbench("train", "--method", "baseline,response", "--seeds", "0,1,2", "--runs", broken_runs, *tiny_arguments)
    assert done.code == 0, done.err
    methods = "baseline,response,feature"  # feature keeps its one seed
    done = kdbench("compare", "--backend", "torch", "--method", methods, "--rounds", "10", "--runs", broken_runs)
    assert done.code == 0, done.err
    got = Comparison.read(broken_runs / "folder" / "compare.json")
    assert got.training["response"]["seeds"] == [0, 1, 2]
    assert got.teacher.lead == pytest.approx(got.teacher.miou - np.mean(got.training["baseline"]["miou_by_seed"]))
    assert [note for note in got.notes if "below 3 seeds" in note] == [
        "the spread between trainings is unknown below 3 seeds, so no gain is claimed of feature (1 seed): "
        "train these and the baseline with --seeds 0,1,2"
    ]
    by_seed = [got.training[method]["miou_by_seed"] for method in ("baseline", "response")]
    expected = sum(b - a for a, b in zip(*by_seed, strict=True)) / 3
    assert got.improvements[0].delta_miou == pytest.approx(expected)
    assert got.improvements[0].standard_error_over == "seeds"
    assert "standard error over 3 seeds" in done.out
    for method, scores in zip(("baseline", "response"), by_seed, strict=True):
        error = np.std(scores, ddof=1) / np.sqrt(3)
        assert f"{title_of(method)} {np.mean(scores):.4f} ± {error:.4f}" in done.out
        assert got.training[method]["recipe"]["epochs"] == got.training[method]["epochs"]
        assert np.mean(got.training[method]["iou_per_class"]) == pytest.approx(np.mean(scores))


def test_an_unfair_comparison_is_noted(broken_runs, kdbench, tiny_arguments):
    kdbench("train", "--method", "feature", "--epochs", "1", "--runs", broken_runs, *tiny_arguments)
    kdbench("compare", "--backend", "torch", "--method", "baseline,feature", "--rounds", "10", "--runs", broken_runs)
    notes = Comparison.read(broken_runs / "folder" / "compare.json").notes
    assert "feature: trained with another recipe than the baseline (epochs): not a fair comparison" in notes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--backend", "tflite"],
            "--backend: got 'tflite', expected all or a comma-separated list of torch, torch-channels-last, torch-compile, onnx",
        ),
        (["--precision", "fp8"], "--precision: got 'fp8'"),
        (["--output", "boxes"], "--output: got 'boxes'"),
        (["--json", "table.txt"], "--json: got 'table.txt', expected a file that ends in .json"),
        (["--method", "teacher"], "--method: got 'teacher'"),
    ],
)
def test_bad_compare_flags_are_one_line(runs, kdbench, flags, message):
    done = kdbench("compare", "--runs", runs, *flags)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_dataset_that_moved_says_so(broken_runs, kdbench, tmp_path):
    done = kdbench("compare", "--runs", broken_runs, "--data-root", tmp_path / "nowhere")
    assert done.code == 2
    assert "nowhere" in done.err


def test_a_benchmark_process_that_fails_says_why(runs, tmp_path):
    import numpy as np

    from kdbench.comparison.latency import LatencyCase, measure
    from kdbench.errors import RunFailed

    case = LatencyCase(
        "gone-fp32", "onnx", str(runs / "folder" / "gone" / "exports" / "onnx-fp32" / "mask.onnx"), "mask", None
    )
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RunFailed, match=r"latency of onnx: the benchmark process failed: .*no onnx export .*gone"):
        measure([case], [image], device="cpu", threads=1, rounds=10, keep_json=tmp_path / "onnx.json")
