"""``kdbench compare`` and ``plot`` on files that somebody damaged, moved or copied; nothing measured may be lost to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdbench.backends.exported import read_export
from kdbench.comparison.latency import LatencyCase, measure
from kdbench.errors import BadInput, RunFailed
from kdbench.runs.tree import RunTree
from tests.conftest import REPOSITORY
from tests.exports import read_unsealed


@pytest.fixture
def runs(trained_runs, tmp_path):
    return shutil.copytree(trained_runs, tmp_path / "runs")


@pytest.fixture
def compare(kdbench, runs):
    return lambda *more: kdbench("compare", "--backend", "torch", "--rounds", 10, "--threads", 1, "--runs", runs, *more)


def rows_of(runs):
    document = json.loads((runs / "folder" / "compare.json").read_text())
    return {row["method"]: row for row in document["rows"]}, document


def test_broken_sidecars_are_rows_with_reasons_and_the_rest_is_measured(compare, runs):
    tree = runs / "folder"
    (tree / "feature" / "student.json").write_text('{"schema_version": 1}')
    (tree / "response" / "student.json").write_bytes(b"\xff\x00")
    (tree / "teacher" / "teacher.json").write_text("{")
    shutil.copytree(tree / "baseline", runs / "copy")
    shutil.move(runs / "copy", tree / "baseline" / "seed-1-old")  # no seed's folder: a person's copy
    done = compare()
    assert done.code == 0, done.err
    rows, document = rows_of(runs)
    assert {method: row["status"] for method, row in rows.items()} == {
        "baseline": "ok", "response": "failed", "feature": "failed", "combined": "ok",
    }  # fmt: skip
    assert "is no sidecar of a training (method: Field required): make it again with" in rows["feature"]["reason"]
    assert "is not readable as JSON" in rows["response"]["reason"]
    assert document["teacher"] is None
    assert document["notes"][0].startswith("the teacher is left out: '")
    assert document["training"]["baseline"]["seeds"] == [0]


def test_a_copied_seed_is_refused(compare, runs):
    tree = runs / "folder" / "baseline"
    (tree / "seed-1").mkdir()
    for name in ("student.safetensors", "student.json"):
        shutil.copy(tree / name, tree / "seed-1" / name)
    assert compare("--method", "baseline").code == 1
    reason = rows_of(runs)[0]["baseline"]["reason"]
    assert "seed-1/student.safetensors' has the seed 0, which an earlier one of baseline has" in reason


def test_classes_that_changed_since_training_are_not_scored(compare, runs, folder_dataset, tmp_path):
    """Swapped names keep their number: the figures would look right."""
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    names = (data / "classes.txt").read_text().split()
    (data / "classes.txt").write_text("\n".join([*names[:-2], names[-1], names[-2]]) + "\n")
    done = compare("--method", "baseline", "--data-root", data)
    assert done.code == 1
    row = rows_of(runs)[0]["baseline"]
    assert (row["status"], row["miou"]) == ("failed", None)
    assert "was trained on the classes background, disk" in row["reason"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("folder.json", "folder.json' is a folder, expected a file: name another"),
        ("twin.json", "twin.md' is a folder, expected a file: name another"),
        ("file/x.json", "x.json' cannot be written ("),
    ],
)
def test_results_that_could_not_be_written_are_refused_before_measuring(compare, tmp_path, monkeypatch, place, message):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "twin.md").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("kdbench.comparison.compare.compare", lambda *_: pytest.fail("it was measured"))
    done = compare("--json", tmp_path / place)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_absurd_threads_are_refused(compare):
    """A hundred thousand ended in a segmentation fault."""
    done = compare("--threads", 100000)
    assert done.code == 2
    assert "--threads: got 100000, expected at most " in done.err


def test_a_benchmark_process_that_dies_without_a_word_is_one_line_and_keeps_earlier_rounds(tmp_path, monkeypatch):
    def killed(command, **_):
        return subprocess.CompletedProcess(command, -9, "", "")

    keep = tmp_path / "torch.json"
    keep.write_text("earlier")
    monkeypatch.setattr(subprocess, "run", killed)
    case = LatencyCase("baseline-fp32", "torch", "x.safetensors", "mask", (64, 64))
    with pytest.raises(RunFailed, match="latency of torch: the benchmark process failed: ended by signal 9"):
        measure([case], [np.zeros((64, 64, 3), np.uint8)], device="cpu", threads=1, rounds=10, keep_json=keep)
    assert keep.read_text() == "earlier"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the child in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_comparison_that_is_stopped_takes_its_benchmark_process_with_it(runs, tmp_path, number, code):
    command = [
        sys.executable, "-m", "kdbench", "compare", "--backend", "torch", "--method", "baseline", "--threads", "1",
        "--rounds", "100000000", "--runs", str(runs),
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 120
    found = []
    while not found and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        pids = children.read_text().split()
        found = [pid for pid in pids if b"test_latency.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert found
    left = Path(f"/proc/{found[0]}/cmdline")
    deadline = time.monotonic() + 10
    while left.exists() and left.read_bytes() and time.monotonic() < deadline:  # a zombie's is empty
        time.sleep(0.05)
    assert not (left.exists() and left.read_bytes())
    assert not list(tmp_path.glob("kdbench-latency-*"))


# plot


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("loss", "NaN", "loss is nan"),
        ("ce", '"x"', "ce is 'x'"),
        ("miou", "true", "miou is True"),
        ("lr", "null", "lr is None"),
    ],
)
def test_plot_names_a_value_that_is_no_number(kdbench, runs, tmp_path, key, value, said):
    path = runs / "folder" / "baseline" / "history.jsonl"
    row = {"epoch": 1, "lr": 0.1, "loss": 1.0, "ce": 1.0, "miou": 0.5}
    text = json.dumps({**row, key: "@"}).replace('"@"', value)
    path.write_text(text + "\n")
    done = kdbench("plot", "--method", "baseline", "--runs", runs, "--output", tmp_path / "plots")
    assert done.code == 2
    assert f"'{path}' line 1: {said}, expected a finite number: train again with `kdbench train" in done.err


@pytest.mark.parametrize("broken", ["teacher/teacher.json", "response/student.json"])
def test_plot_with_a_broken_sidecar_is_one_line(kdbench, runs, tmp_path, broken):
    (runs / "folder" / broken).write_text('{"schema_version": 1}')
    done = kdbench("plot", "--method", "response", "--runs", runs, "--output", tmp_path / "plots")
    assert done.code == 2
    assert f"{broken}' is no sidecar of a training (method: Field required)" in done.err


def test_plot_into_a_file_is_one_line(kdbench, runs, tmp_path):
    (tmp_path / "file").write_text("")
    done = kdbench("plot", "--method", "response", "--runs", runs, "--output", tmp_path / "file")
    assert done.code == 2
    assert "is a file, expected a folder, which is made when missing: name another" in done.err


def test_runs_with_a_name_that_is_not_utf8_are_refused(kdbench, tiny_arguments, tmp_path):
    done = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", str(tmp_path / "r") + "\udce9")
    assert done.code == 2
    assert "is not a printable UTF-8 name: name another folder" in done.err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace('"size": [', '"size": 64, "x": ['), "is no sidecar of an export (size: got 64,"),
        (lambda text: text.replace('"size": [', '"size": null, "x": ['), "is no sidecar of an export (size: got None,"),
        (
            lambda text: text.replace('"size": [', '"size": [-4, 64], "x": ['),
            "is no sidecar of an export (size.0: got -4",
        ),
        (lambda text: text.replace('"size": [', f'"size": [64, {"9" * 5000}], "x": ['), "is not readable as JSON"),
        (lambda text: text.replace('"method": ', '"method": 3, "x": '), "is no sidecar of an export (method: got 3,"),
        (lambda text: text.replace('"format": "onnx"', '"format": "trt"'), "describes a file of format trt"),
        (lambda text: "[" * 100_000, "is not readable as JSON"),
        (lambda text: text + " " * 17 * 2**20, "has 17 MiB, expected at most 16"),
    ],
)
def test_a_damaged_sidecar_of_an_export_is_one_line(exported, tmp_path, damage, said):
    shutil.copytree(exported.root / "baseline", tmp_path / "runs" / "shapes" / "baseline")
    artifact = RunTree(tmp_path / "runs", "shapes").export("baseline", "onnx", "fp32", "mask")
    sidecar = artifact.with_suffix(".json")
    sidecar.write_text(damage(json.dumps(read_unsealed(sidecar))))
    with pytest.raises(BadInput) as caught:
        read_export(artifact, "onnx", None)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


def test_and_costs_no_other_row(exported, kdbench, tmp_path):
    runs = shutil.copytree(exported.runs, tmp_path / "runs")
    sidecar = RunTree(runs, "shapes").export("baseline", "onnx", "fp32", "mask").with_suffix(".json")
    sidecar.write_text(json.dumps(read_unsealed(sidecar)).replace('"size": [', '"size": null, "x": ['))
    done = kdbench(
        "compare", "--method", "baseline", "--backend", "torch,onnx", "--rounds", 10, "--threads", 1, "--runs", runs
    )
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    rows = {row["backend"]: row for row in json.loads((runs / "shapes" / "compare.json").read_text())["rows"]}
    assert (rows["torch"]["status"], rows["onnx"]["status"]) == ("ok", "failed")
    assert "(size: got None," in rows["onnx"]["reason"]


def test_a_bug_in_one_row_keeps_its_traceback_and_the_others_their_rows(exported, kdbench, tmp_path, monkeypatch):
    runs = shutil.copytree(exported.runs, tmp_path / "runs")
    from kdbench.comparison import compare as module

    own = module.evaluate_artifact

    def evaluate(backend, *arguments, **options):
        if backend == "onnx":
            raise IndexError("nobody thought of it")
        return own(backend, *arguments, **options)

    monkeypatch.setattr(module, "evaluate_artifact", evaluate)
    done = kdbench(
        "compare", "--method", "baseline", "--backend", "torch,onnx", "--rounds", 10, "--threads", 1, "--runs", runs
    )
    assert done.code == 0, done.err
    assert "IndexError: nobody thought of it" in done.err
    assert "Traceback" in done.err
    document = json.loads((runs / exported.dataset / "compare.json").read_text())
    rows = {row["backend"]: row for row in document["rows"]}
    assert rows["torch"]["status"] == "ok"
    assert rows["onnx"]["reason"].startswith("IndexError: nobody thought of it (a bug of kdbench")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_no_sidecar(runs, compare):
    sidecar = runs / "folder" / "response" / "student.json"
    sidecar.unlink()
    os.mkfifo(sidecar)
    done = compare()
    rows, _ = rows_of(runs)
    assert "is not a regular file, expected a .json file" in rows["response"]["reason"], done.err
