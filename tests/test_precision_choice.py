"""Precision "auto": by what the hardware has and a measurement, once, recorded, and kept by whoever goes on."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
import torch
from torch import nn

from kdbench.data.remembered import Remembered
from kdbench.models.foreign import ForeignModel
from kdbench.models.registry import build_model
from trainers import precision
from trainers.recipe import Recipe


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(precision, "_KNOWN", {})


def chosen(monkeypatch, tmp_path, seconds, units=True, name="data.json"):
    """What is chosen where fp32 and bf16 take such seconds."""
    answers = iter(seconds)
    monkeypatch.setattr(precision, "has_bf16", lambda device: units)
    monkeypatch.setattr(precision, "_seconds", lambda call: next(answers))
    make, device = lambda: build_model("student", 3), torch.device("cpu")
    return precision.faster_precision("student", make, (64, 64), device, Remembered(tmp_path / name))


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"), [(1.0, 0.5, "bf16"), (1.0, 0.79, "bf16"), (1.0, 0.81, "fp32"), (1.0, 2.1, "fp32")]
)
def test_bf16_must_be_faster_by_a_quarter(monkeypatch, tmp_path, fp32, bf16, expected):
    assert chosen(monkeypatch, tmp_path, [fp32, bf16]) == expected


def test_without_units_nothing_is_measured(monkeypatch, tmp_path):
    assert chosen(monkeypatch, tmp_path, [], units=False) == "fp32"


def test_measured_once_for_a_tree_of_runs(monkeypatch, tmp_path):
    assert chosen(monkeypatch, tmp_path, [1.0, 0.5]) == "bf16"
    monkeypatch.setattr(precision, "_KNOWN", {})  # another process
    assert chosen(monkeypatch, tmp_path, []) == "bf16"
    monkeypatch.setattr(precision, "_KNOWN", {})
    assert chosen(monkeypatch, tmp_path, [1.0, 2.0], name="other.json") == "fp32"


def test_a_measurement_draws_nothing_from_the_generator(monkeypatch, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    make = partial(build_model, "student", 3)
    found = precision.faster_precision("x", make, (64, 64), torch.device("cpu"), Remembered(tmp_path / "data.json"))
    assert found in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before)


def test_of_the_teacher_a_pass_is_timed_alone(monkeypatch):
    """No gradient: its parameters stay as they are."""
    teacher = build_model("fpn_resnet18", 3).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    precision._measured(lambda: teacher, (64, 64), torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


class Multiples(nn.Module):
    """Takes multiples of its patch alone, as a vision transformer does."""

    def __init__(self, patch):
        super().__init__()
        self.patch, self.sizes = nn.Conv2d(3, 3, patch, patch), set()

    def forward(self, images):
        side = self.patch.stride[0]
        assert images.shape[2] % side == images.shape[3] % side == 0, f"expected multiples of {side}"
        self.sizes.add(tuple(images.shape[2:]))
        return self.patch(images)


@pytest.mark.parametrize(("patch", "measured"), [(14, (280, 140)), (20, (280, 140)), (4, (256, 140))])
def test_a_network_is_measured_at_a_size_that_it_takes(monkeypatch, tmp_path, patch, measured):
    network = Multiples(patch)
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    make = partial(ForeignModel, network, 3, {}, "mine")
    found = precision.faster_precision("x", make, (280, 140), torch.device("cpu"), Remembered(tmp_path / "data.json"))
    assert found in ("fp32", "bf16")
    assert network.sizes == {measured}


def test_auto_is_no_other_recipe():
    auto = Recipe.model_validate({})
    assert auto.precision == auto.teacher_precision == "auto"
    fixed = Recipe.model_validate({"precision": "bf16"})
    assert auto.changes_since(fixed.model_dump(mode="json")) == []
    assert fixed.changes_since(auto.model_dump(mode="json")) == []
    other = Recipe.model_validate({"precision": "fp32"})
    assert fixed.changes_since(other.model_dump(mode="json")) == ["precision fp32 → bf16"]


def recipe_of(folder):
    return json.loads(next(folder.glob("*.json")).read_text())["recipe"]


def test_recorded_and_kept_on_another_machine(kdbench, tiny_recipe, folder_dataset, tmp_path, monkeypatch):
    """A student in bf16 here; gone on with where fp32 is faster; done again from the sidecar."""
    recipe = tmp_path / "auto.toml"
    lines = tiny_recipe.read_text().splitlines()
    recipe.write_text("\n".join(line for line in lines if "precision" not in line))
    tiny_arguments = ("--dataset", "folder", "--data-root", folder_dataset, "--recipe", recipe, "--device", "cpu")
    answers = {"student": "bf16", "fpn_resnet18": "fp32"}
    asked = []

    def decide(label, make, size, device, remembered):
        asked.append(label)
        return answers[label.removeprefix("passes of ")]

    monkeypatch.setattr("trainers.train.faster_precision", decide)
    runs = tmp_path / "runs"
    done = kdbench("train", "--method", "teacher,baseline,response", *tiny_arguments, "--runs", runs, "--seeds", "0,1")
    assert done.code == 0, done.err
    assert "precision auto: bf16 for students" in done.out
    assert sorted(asked) == ["fpn_resnet18", "student"]
    for folder in ("baseline", "response", "baseline/seed-1"):
        found = recipe_of(runs / "folder" / folder)
        assert (found["precision"], found["teacher_precision"]) == ("bf16", "fp32"), folder
    assert recipe_of(runs / "folder" / "teacher")["precision"] == "fp32"

    # The teacher's own record says nothing of students: they are what they would be without --resume.
    alone = tmp_path / "alone"
    shutil.copytree(runs / "folder" / "teacher", alone / "folder" / "teacher")
    later = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", alone, "--resume")
    assert later.code == 0, later.err
    assert recipe_of(alone / "folder" / "baseline")["precision"] == "bf16"

    answers.update(student="fp32")
    shutil.rmtree(runs / "folder" / "response")
    more = kdbench("train", "--method", "baseline,response", *tiny_arguments, "--runs", runs, "--resume")
    assert more.code == 0, more.err
    assert "anew" not in more.err
    assert recipe_of(runs / "folder" / "response")["precision"] == "bf16"
    again = kdbench("train", "--from", runs / "folder" / "baseline" / "student.json", "--runs", tmp_path / "again")
    assert "the same weights as" in again.out, again.err
