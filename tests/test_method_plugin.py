"""A method from outside: one file, and every command knows it."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from tests import forking
from tests.conftest import REPOSITORY
from tests.exports import read_unsealed
from tests.test_docs import blocks, write_file

PLUGIN = REPOSITORY / "tests" / "plugins" / "my_method.py"


def kdbench_with(*arguments, code=0, **environment):
    """Run ``kdbench ARGUMENTS`` in a process of its own: a declaration cannot be taken back."""
    command = [sys.executable, "-m", "kdbench", *arguments]
    done = forking.run(command, env={**os.environ, "COLUMNS": "300", **environment})
    assert done.returncode == code, done.stdout + done.stderr
    return done


def edited(path, **fields):
    """Change fields of a sidecar's recipe."""
    about = read_unsealed(path)
    about["recipe"].update(fields)
    path.write_text(json.dumps(about), encoding="utf-8")


@pytest.mark.slow
def test_a_method_from_outside_is_trained_exported_compared_drawn_and_reported(tmp_path, folder_dataset, tiny_recipe):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"mse_weight = 0.25\n{tiny_recipe.read_text(encoding='utf-8')}", encoding="utf-8")
    runs = tmp_path / "runs"
    kdbench_with(
        "--plugin", PLUGIN, "train", "--method", "teacher,baseline,mse,baseline-long", "--match", "mse",
        "--dataset", "folder", "--data-root", folder_dataset, "--recipe", recipe, "--device", "cpu", "--runs", runs,
    )  # fmt: skip
    tree = runs / "folder"
    about = json.loads((tree / "mse" / "student.json").read_text(encoding="utf-8"))
    assert about["recipe"]["mse_weight"] == 0.25
    row = json.loads((tree / "mse" / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert row["loss"] == pytest.approx(row["ce"] + 0.25 * row["mse"], rel=1e-5)
    assert json.loads((tree / "baseline-long" / "student.json").read_text())["time_matched"]["method"] == "mse"

    kdbench_with("--plugin", PLUGIN, "export", "--method", "mse", "--format", "onnx", "--allow-drift", "--runs", runs)
    compare = ("compare", "--backend", "torch,onnx", "--method", "baseline,mse", "--rounds", "10", "--runs", runs)
    edited(tree / "baseline" / "student.json", mse_weight=9.0)  # which the baseline does not read
    printed = kdbench_with("--plugin", PLUGIN, *compare).stdout
    result = json.loads((tree / "compare.json").read_text(encoding="utf-8"))
    assert not [note for note in result["notes"] if "not a fair comparison" in note]
    assert [(r["method"], r["status"]) for r in result["rows"]][2:] == [("mse", "ok"), ("mse", "ok")]
    assert "Logit Regression" in printed
    assert [line for line in (tree / "compare.txt").read_text().splitlines() if line.startswith("  Logit Regression  ")]

    kdbench_with("--plugin", PLUGIN, "plot", "--method", "mse", "--runs", runs)
    drawn = (tree / "plots" / "mse-losses.svg").read_text(encoding="utf-8")
    assert "total = 1 · CE + 0.25 · squared error" in drawn
    assert "#332288" in drawn
    assert "#117733" in (tree / "plots" / "mse-miou.svg").read_text(encoding="utf-8")
    # Without the plugin: grey, by its own names, and no reason not to report the rest.
    assert "--method: got 'mse', expected" in kdbench_with("plot", "--method", "mse", "--runs", runs, code=2).stderr

    kdbench_with("--plugin", PLUGIN, "report", "--pictures", "2", "--runs", runs)
    page = (tree / "report.html").read_text(encoding="utf-8")
    assert "Logit Regression: prediction" in page
    kdbench_with("report", "--pictures", "0", "--runs", runs)
    assert "| mse |" in (tree / "report.md").read_text(encoding="utf-8")


def test_help_errors_and_completion_know_a_method_from_outside(tmp_path):
    done = kdbench_with("--plugin", PLUGIN, "train", "--help")
    assert "baseline-long, teacher, mse: several with commas" in " ".join(done.stdout.replace("│", " ").split())
    missing = kdbench_with("train", "--method", "mst", code=2, KDBENCH_PLUGINS=str(PLUGIN))
    assert missing.stderr.endswith("baseline-long, teacher, mse\n")
    grid = tmp_path / "grid.toml"
    grid.write_text('dataset = "shapes"\nmethods = ["mst"]\nseeds = [0]\n', encoding="utf-8")
    done = kdbench_with("--plugin", PLUGIN, "sweep", grid, code=2)
    assert done.stderr.endswith(
        "methods: got 'mst', expected some of baseline, response, feature, combined, cwd, dist, imitation, baseline-long, mse\n"
    )
    words = f"kdbench --plugin {PLUGIN} train --method baseline,ms"
    program = "import sys; from kdbench.cli import main; sys.argv = ['kdbench']; main()"
    asked = {"_KDBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
    done = forking.run([sys.executable, "-c", program], env={**os.environ, **asked})
    assert done.stdout.split() == ["baseline,mse"], done.stderr


@pytest.fixture
def attention(tmp_path):
    """The plugin of docs/add-a-method.md, which reads features without adapters."""
    write_file(tmp_path, blocks("add-a-method")[0][1])
    return tmp_path / "attention.py"


def test_the_plugin_of_the_page_learns_from_views(tmp_path, attention, tiny_arguments, trained_runs):
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs / "folder" / "teacher", runs / "folder" / "teacher")
    command = ("train", *tiny_arguments, "--epochs", 1, "--views", 2, "--runs", runs, "--method")
    kdbench_with(*command, "response,dist,cwd")
    views = runs / "folder" / "teacher" / "views"
    said = {path.name.partition("-")[0] for path in views.glob("*/teacher-*/*.npy")}
    assert said == {"logits"}
    kdbench_with("--plugin", attention, *command, "attention")
    said = {path.name.partition("-")[0] for path in views.glob("*/teacher-*/*.npy")}
    assert said == {"logits", "low", "mid", "high"}
    row = json.loads((runs / "folder" / "views=2" / "attention" / "history.jsonl").read_text(encoding="utf-8"))
    assert 0 < row["attention"] < 2


def test_the_plugin_of_the_page_leaves_out_a_level_that_the_teacher_lacks(attention):
    import torch

    from kdbench.models.segmentation import Taps

    names = names_in(attention)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    maps = torch.tensor([3.0, 0.0, 0.0, 2.0]).sqrt().view(1, 1, 2, 2)
    others = torch.tensor([0.0, 0.0, 0.0, 5.0]).sqrt().view(1, 1, 2, 2)
    student, teacher = Taps(maps, {"low": maps, "mid": others, "high": maps}), Taps(maps, {"low": others})
    expected = pytest.approx(2 - 4 / 13**0.5, rel=1e-5)  # of (3, 0, 0, 2)/√13 and (0, 0, 0, 1)
    assert names["attention"](student, teacher, labels, None).item() == expected


def names_in(plugin):
    """What a plugin's file has before it declares anything."""
    names: dict = {}
    exec(compile(plugin.read_text(encoding="utf-8").split("METHODS.add(")[0], str(plugin), "exec"), names)
    return names


@pytest.mark.parametrize("field", ["lr", "seed", "view_size", "model_dump"])
def test_a_field_that_every_recipe_has_is_refused(tmp_path, field):
    plugin = tmp_path / "greedy.py"
    plugin.write_text(PLUGIN.read_text(encoding="utf-8").replace('"mse_weight"', f'"{field}"'), encoding="utf-8")
    done = kdbench_with("--plugin", plugin, "train", "--method", "mse", "--runs", tmp_path / "runs", code=2)
    assert done.stderr == (
        f"kdbench: a method declares the recipe's field '{field}', which every recipe has: give it another name\n"
    )


def test_the_loss_by_hand():
    import torch

    from kdbench.models.segmentation import Taps

    names = names_in(PLUGIN)
    student, teacher = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 5.0]], [[3.0, 5.0]]]])
    labels = torch.tensor([[[0, 255]]])  # the second pixel has none: (1² + 3²) / 2 is left
    assert names["mse"](Taps(student, {}), Taps(teacher, {}), labels, None).item() == 5.0
