"""``kdbench sweep``: grids, Ray's workers, one of which is killed, and what the table claims."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from kdbench.comparison.sweep_results import SweepRow, sweep_rows, write_sweep
from kdbench.errors import BadInput
from tests.conftest import REPOSITORY
from trainers.grid import plan, read_grid
from trainers.sweep import data_of, is_finished, train_run

GRID = """
dataset = "folder"
data_root = {data!r}
recipe = {recipe!r}
methods = ["baseline", "response"]
seeds = [0, 3]
[settings.long]
epochs = 12
[settings.wild]
lr = 1e30
"""


@pytest.fixture
def grid(tmp_path, folder_dataset, tiny_recipe):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(data=str(folder_dataset), recipe=str(tiny_recipe)), encoding="utf-8")
    return path


def test_a_grid_is_methods_by_seeds_by_settings_with_one_teacher(grid):
    sweep = plan(read_grid(grid), Path("out"))
    assert [(run.setting, run.recipe.seed, run.methods, run.recipe.epochs, run.recipe.lr) for run in sweep.runs] == [
        ("long", 0, ("baseline", "response"), 12, 1e-3),
        ("long", 3, ("baseline", "response"), 12, 1e-3),
        ("wild", 0, ("baseline", "response"), 2, 1e30),
        ("wild", 3, ("baseline", "response"), 2, 1e30),
    ]
    assert sweep.teacher.checkpoint("teacher") == Path("out/folder/teacher/teacher.safetensors")
    assert sweep.runs[0].checkpoint("response") == Path("out/long/folder/response/student.safetensors")
    assert sweep.runs[3].checkpoint("response") == Path("out/wild/folder/response/seed-3/student.safetensors")
    grid.write_text(grid.read_text().replace("seeds", "side_by_side = false\nseeds"))
    assert [run.methods for run in plan(read_grid(grid), Path("out")).runs[:3]] == [
        ("baseline",), ("response",), ("baseline",)
    ]  # fmt: skip
    # The teacher learns from the labels that its students have, and stands where `kdbench train` has it.
    few = grid.with_name("few.toml")
    few.write_text(f"{Path(read_grid(grid).recipe).read_text()}\n".replace("\n", "\nlabelled = 0.5\n", 1))
    grid.write_text(grid.read_text().replace(str(read_grid(grid).recipe), str(few)))
    teacher = plan(read_grid(grid), Path("out")).teacher
    assert teacher.checkpoint("teacher") == Path("out/folder/labelled=0.5/teacher/teacher.safetensors")
    grid.write_text('dataset = "shapes"\nmethods = ["baseline"]\n')
    sweep = plan(read_grid(grid), Path("out"))
    assert sweep.teacher is None
    assert sweep.runs[0].checkpoint("baseline") == Path("out/shapes/baseline/student.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("methods", "method"), "methods: Field required; method: Extra inputs are not permitted"),
        (('"response"', '"teacher"'), "methods: got 'teacher', expected some of baseline, response"),
        (('"response"', '"baseline"'), "methods: got ['baseline', 'baseline'], expected each once"),
        (("[0, 3]", "[0, -3]"), "seeds: got [0, -3], expected whole numbers from 0 to"),
        (("[0, 3]", "[]"), "seeds: List should have at least 1 item"),
        (("settings.wild", 'settings."../x"'), "settings: got '../x', expected letters, digits"),
        (("epochs = 12", "epoch = 12"), "epoch: got 12, extra inputs are not permitted"),
        (("epochs = 12", "seed = 12"), "settings.long: got seed or teacher, which are the same for all settings"),
        (("lr = 1e30", "lr = -1"), "lr: got -1, input should be greater than 0"),
        (("dataset =", "dataset"), "cannot be read as TOML"),
        (("recipe = ", "recipe = 'no' #"), "--recipe: got 'no', expected one of"),
    ],
)
def test_a_bad_grid_is_one_line_before_anything_starts(kdbench, grid, tmp_path, change, message):
    grid.write_text(grid.read_text().replace(*change))
    done = kdbench("sweep", grid, "--runs", tmp_path / "runs")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_missing_grid_and_a_missing_ray(kdbench, grid, tmp_path, monkeypatch):
    assert "grid 'no.toml' does not exist, expected a .toml file" in kdbench("sweep", "no.toml").err
    monkeypatch.setitem(sys.modules, "ray", None)
    done = kdbench("sweep", grid, "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "kdbench sweep trains on Ray, which is not installed: pip install 'ray>=2.40'" in done.err


def sidecar(seed, miou, epochs=5):
    return {"seed": seed, "miou": miou, "epochs": epochs, "train_seconds": 10.0}


def test_rows_have_paired_differences_and_claim_over_three_seeds():
    baseline = [("a", "baseline", sidecar(seed, miou)) for seed, miou in enumerate((0.50, 0.54, 0.52))]
    better = [("a", "response", sidecar(seed, miou)) for seed, miou in enumerate((0.53, 0.56, 0.56))]
    few = [("b", "response", sidecar(0, 0.9)), ("b", "baseline", sidecar(0, 0.5))]
    base, gain, two, _ = sweep_rows(baseline + better + few)
    assert (base.miou, base.delta_miou, base.verdict) == (pytest.approx(0.52), None, None)
    assert base.standard_error == pytest.approx(0.02 / 3**0.5)
    # Differences 0.03, 0.02, 0.04: mean 0.03, deviation 0.01.
    assert gain.delta_miou == pytest.approx(0.03)
    assert gain.delta_standard_error == pytest.approx(0.01 / 3**0.5)
    assert gain.verdict == "gain"
    assert (two.delta_miou, two.delta_standard_error, two.verdict) == (pytest.approx(0.4), None, "no gain shown")


def of_baselines(grid, runs, seeds, **changes):
    """The runs of a grid without settings that trains the baseline with these seeds."""
    text = grid.read_text(encoding="utf-8").split("[settings")[0]
    path = grid.with_name("baselines.toml")
    path.write_text(text.replace('["baseline", "response"]', '["baseline"]').replace("[0, 3]", str(seeds)))
    described = read_grid(path).model_copy(update=changes)
    return plan(described, runs).runs


def test_a_grid_with_other_seeds_leaves_earlier_students_where_they_are(grid, trained_runs, tmp_path):
    """Each student has one folder, whichever grid asks for it: <method>/ stays that of the seed it was trained with."""
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs, runs)
    for seeds in ([0, 3], [3, 0], [3, 4]):
        folders = {run.recipe.seed: run.folder("baseline").path.name for run in of_baselines(grid, runs, seeds)}
        assert folders == {seed: f"seed-{seed}" if seed else "baseline" for seed in seeds}
    (student,) = of_baselines(grid, runs, [0])
    assert is_finished(student, data_of(student.grid))


def test_students_of_other_data_are_not_finished_and_not_lost(
    grid, trained_runs, folder_dataset, tmp_path, monkeypatch
):
    runs, others = tmp_path / "runs", tmp_path / "others"
    shutil.copytree(trained_runs, runs)
    shutil.copytree(folder_dataset, others)
    for folder in ("images", "masks"):
        first = sorted((others / folder / "train").iterdir())[0]
        first.rename(first.with_stem("another"))
    (student,) = of_baselines(grid, runs, [0], data_root=others)
    assert not is_finished(student, data_of(student.grid))
    monkeypatch.chdir(tmp_path)
    before = student.checkpoint("baseline").read_bytes()
    with pytest.raises(BadInput, match="was finished with other images, or meanings of mask values: add --overwrite"):
        train_run(student, str(tmp_path), sys.argv, "cpu")
    assert student.checkpoint("baseline").read_bytes() == before
    train_run(dataclasses.replace(student, overwrite=True), str(tmp_path), sys.argv, "cpu")
    assert is_finished(student, data_of(student.grid))


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'kdbench[sweep]'"
)
@pytest.mark.slow
def test_a_killed_workers_run_is_taken_up_and_a_failed_one_leaves_the_others(
    kdbench, grid, tiny_arguments, trained_runs, tmp_path
):
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs / "folder" / "teacher", runs / "folder" / "teacher")
    command = [sys.executable, "-m", "kdbench", "sweep", str(grid), "--runs", str(runs)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    history = runs / "long" / "folder" / "response" / "history.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (history.exists() and history.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Whichever workers train now: that of seed 0 is among them.
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "ray::train_run" in p.cmdline()]
        assert workers
        for worker in workers:
            worker.kill()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    document = json.loads((runs / "sweep-grid.json").read_text())
    found = {(run["setting"], run["seed"]): run for run in document["runs"]}
    assert found["", 0]["state"] == "finished before"  # the teacher
    assert (found["long", 0]["state"], found["long", 0]["attempts"]) == ("done", 2)
    assert found["long", 3]["state"] == "done"
    for seed in (0, 3):
        assert (found["wild", seed]["state"], found["wild", seed]["attempts"]) == ("failed", 1)
        assert "the loss became" in found["wild", seed]["reason"]
    assert err.splitlines()[-1] == "kdbench: 2 of 5 runs failed, named above; the same command takes them up again"
    assert [(row["setting"], row["method"], row["seeds"]) for row in document["rows"]] == [
        ("long", "baseline", [0, 3]), ("long", "response", [0, 3])
    ]  # fmt: skip
    assert "Response-Based" in out
    assert (runs / "sweep-grid.md").read_text().count("\n") == 4
    # What was interrupted ends as if it had not been, and as without a sweep.
    alone = tmp_path / "alone"
    shutil.copytree(trained_runs / "folder" / "teacher", alone / "folder" / "teacher")
    done = kdbench("train", "--method", "baseline,response", *tiny_arguments, "--epochs", "12", "--runs", alone)
    assert done.code == 0, done.err
    for method in ("baseline", "response"):
        swept, expected = (
            load_file(root / "folder" / method / "student.safetensors") for root in (runs / "long", alone)
        )
        assert all(torch.equal(swept[name], expected[name]) for name in expected)
    # Again: nothing is left to do but the wild ones, and without them nothing at all.
    grid.write_text(grid.read_text().split("[settings.wild]")[0])
    done = kdbench("sweep", grid, "--runs", runs)
    assert (done.code, done.err) == (0, "")
    assert {run["state"] for run in json.loads((runs / "sweep-grid.json").read_text())["runs"]} == {"finished before"}


def test_seeds_and_settings_must_be_of_their_types(grid):
    grid.write_text(grid.read_text().replace("[0, 3]", '["zero"]'))
    with pytest.raises(BadInput, match=r"seeds.0: Input should be a valid integer"):
        read_grid(grid)


def test_a_setting_does_not_end_a_cell_of_the_table(tmp_path):
    row = SweepRow(
        setting="a|b", method="baseline", seeds=[0], miou=0.51234, standard_error=None, delta_miou=None,
        delta_standard_error=None, verdict=None, epochs=3, train_seconds=1.6,
    )  # fmt: skip
    gain = {"delta_miou": -0.01, "delta_standard_error": 0.002, "verdict": "loss", "setting": ""}
    write_sweep(tmp_path / "s.json", [row, row.model_copy(update=gain)], {})
    lines = (tmp_path / "s.md").read_text(encoding="utf-8").splitlines()
    assert lines[2:] == [
        "| a\\|b | Without KD (Baseline) | 1 | 0.5123 | – | – | – | – | 3 | 2 |",
        "| – | Without KD (Baseline) | 1 | 0.5123 | – | -0.0100 | 0.0020 | loss | 3 | 2 |",
    ]
