"""What an earlier revision wrote is read by this one: the files of ``tests/golden``, each by its own reader."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil

import pytest
import torch

from kdbench.backends.exported import read_export
from kdbench.comparison.results import Comparison
from kdbench.comparison.sweep_results import SweepRow, sweep_rows
from kdbench.comparison.tables import as_csv, as_markdown, as_text
from kdbench.formats import FORMATS
from kdbench.models.registry import build_model
from kdbench.regress.record import Recording
from kdbench.report.evidence import collect
from kdbench.runs.files import read_json, sha256, write_json
from kdbench.runs.history import read_history, trained_methods
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree
from tests.conftest import REPOSITORY
from tests.exports import edit_sidecar
from trainers.arm import Arm
from trainers.grid import read_grid
from trainers.methods import Objective
from trainers.recipe import Recipe, load_recipe

GOLDEN = REPOSITORY / "tests" / "golden"
REVISION = "2bc87a079b56574d532e29745bf4b19b52a9b0cc"
METHODS = ("baseline", "response", "feature", "combined", "cwd", "dist", "baseline-long")
EXPORTS = ("onnx-fp32", "onnx-fp16", "onnx-int8", "openvino-fp32", "openvino-int8", "trt-fp32", "trt-fp16", "trt-int8")
SUFFIX = {"onnx": "onnx", "openvino": "xml", "trt": "engine"}


@pytest.fixture
def runs(tmp_path):
    """The tree as a person has it, with files in place of the weights, so that it can be walked."""
    shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    for sidecar in (tmp_path / "runs" / "folder").rglob("student.json"):
        sidecar.with_suffix(".safetensors").write_bytes(b"weights")
    return RunTree(tmp_path / "runs", "folder")


def test_they_are_small_and_hold_no_path_of_a_machine():
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in files:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("latin-1")
        assert not re.search(r"/(home|root|work|tmp|Users)/", text), path
    said = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert REVISION[:7] in said


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("student.json")) + sorted(GOLDEN.rglob("teacher.json")))
def test_training_sidecars(path):
    about = read_training_sidecar(path, "kdbench train")
    assert about["environment"]["git"] == {"revision": REVISION, "dirty": False}
    assert (about["size"], len(about["classes"]), about["train_images"]) == ([64, 64], 10, 8)
    if about["method"] != "teacher":
        recipe = Recipe.model_validate(about["recipe"])
        assert (recipe.epochs, recipe.lr, recipe.seed) == (about["epochs"], 1e-3, about["seed"])
        # A later version's recipe has more fields, whose defaults do what was done then.
        assert recipe.changes_since(about["recipe"]) == []


def test_every_method_of_then_is_there(runs):
    assert set(METHODS) <= set(trained_methods(runs))
    for method in METHODS:
        history = read_history(runs, method)
        assert history.seeds[0].curve("miou")[0], method
        assert history.recipe["batch_size"] == 4
    assert len(read_history(runs, "baseline").complete) == 2


@pytest.mark.parametrize("folder", EXPORTS)
def test_export_sidecars(runs, folder):
    """The artifact itself is not kept: bytes stand in its place, whose hash the sidecar is given."""
    format, precision = folder.split("-")
    artifact = runs.export("baseline", format, precision, "mask")
    assert artifact == runs.root / "baseline" / "exports" / folder / f"mask.{SUFFIX[format]}"
    artifact.write_bytes(b"engine")
    runs.checkpoint("baseline").unlink()
    companions = {}
    for key in FORMATS[format].companions:
        companion = FORMATS[format].companion(artifact, key)
        companion.write_bytes(b"weights")
        companions[key] = {"file": companion.name, "sha256": sha256(companion), "bytes": companion.stat().st_size}
    edit_sidecar(artifact, **companions)
    about = read_export(artifact, format, (64, 64))
    assert (about["precision"], about["output"], about["environment"]["git"]["revision"]) == (
        precision,
        "mask",
        REVISION,
    )
    assert about["parity"]["images"] == 4


def test_comparison_is_read_and_shown():
    document = read_json(GOLDEN / "compare.json", "kdbench compare")
    comparison = Comparison.read(GOLDEN / "compare.json")
    for row, then in zip(comparison.rows, document["rows"], strict=True):
        now = row.model_dump(mode="json")
        assert {key: now[key] for key in then} == then
    assert {row.method for row in comparison.rows} == set(METHODS)
    assert {row.status for row in comparison.rows} >= {"ok", "built", "failed"}
    for text in (as_markdown(comparison), as_text(comparison)):
        assert "Without KD (Baseline)" in text
    assert len(list(csv.reader(io.StringIO(as_csv(comparison))))) == 1 + len(comparison.rows)


def test_a_report_finds_its_evidence(runs):
    found = collect(runs, GOLDEN / "compare.json")
    assert set(found.trainings) >= set(METHODS)
    assert ("baseline", "onnx", "fp32") in found.rounds
    assert len(found.exports) == len(EXPORTS)


def test_the_gate_judges_a_recording_as_then(kdbench, tmp_path):
    document = json.loads((GOLDEN / "regress.json").read_text(encoding="utf-8"))
    again = Recording.read(GOLDEN / "regress.json").document()
    for key in ("verdict", "reason", "ratio", "ci95", "blocks", "seconds", "cells"):
        assert again[key] == document[key], key
    assert kdbench("regress", "--replay", GOLDEN / "regress.json", "--json", tmp_path / "again.json").code == 3


def test_the_training_goes_on_from_a_resume_state(tmp_path):
    state = tmp_path / "state.pt"
    state.write_bytes(gzip.decompress((GOLDEN / "interrupted/folder/baseline/state.pt.gz").read_bytes()))
    about = read_training_sidecar(GOLDEN / "interrupted/folder/baseline/student.json", "kdbench train")

    def arm(**overrides):
        recipe = load_recipe(str(GOLDEN / "tiny.toml"), {"epochs": 400, **overrides})
        objective = Objective(build_model("student", 10), "baseline", recipe)
        return Arm("baseline", objective, recipe, tmp_path / "student.safetensors", about, 2)

    training = arm()
    training.load_state()
    assert (training.epochs_done, len(training.rows)) == (77, 77)
    assert training.rows[-1]["miou"] == about["miou"]
    assert training.scheduler.last_epoch == about["steps"] == 154
    assert all(not value.any() for value in training.objective.state_dict().values())  # zeros, as the README says
    moments = training.optimizer.state_dict()["state"]
    assert len(moments) == len(list(training.objective.parameters()))
    assert torch.equal(moments[0]["exp_avg"], torch.zeros_like(next(iter(training.objective.parameters()))))
    with pytest.raises(Exception, match="another recipe"):
        arm(lr=0.5).load_state()


def test_recipes_and_grids():
    recipe = load_recipe(str(GOLDEN / "tiny.toml"), {})
    assert (recipe.size, recipe.epochs, recipe.teacher.arch, recipe.scale_max) == ((64, 64), 2, "fpn_resnet18", 1.3)
    grid = read_grid(GOLDEN / "grid.toml")
    assert (grid.dataset, grid.methods, grid.seeds) == ("folder", ["baseline", "response"], [0, 1])


def test_sweep_results():
    document = read_json(GOLDEN / "sweeps/sweep-grid.json", "kdbench sweep")
    rows = [SweepRow.model_validate(row) for row in document["rows"]]
    assert [(row.setting, row.method, row.seeds) for row in rows] == [
        ("short", "baseline", [0, 1]), ("short", "response", [0, 1]),
    ]  # fmt: skip
    sidecars = [read_json(GOLDEN / f"runs/folder/baseline{seed}/student.json", "") for seed in ("", "/seed-1")]
    (again,) = sweep_rows([("", "baseline", sidecar) for sidecar in sidecars])
    assert again.miou == pytest.approx(sum(sidecar["miou"] for sidecar in sidecars) / 2)


@pytest.mark.parametrize("name", ["parity", "doctor", "check", "model"])
def test_documents_of_other_commands_have_the_present_schema(name, tmp_path):
    document = read_json(GOLDEN / f"{name}.json", f"kdbench {name}")
    newer = tmp_path / "newer.json"
    write_json(newer, {**document, "schema_version": document["schema_version"] + 1})
    with pytest.raises(Exception, match="this kdbench reads 1"):
        read_json(newer, f"kdbench {name}")
