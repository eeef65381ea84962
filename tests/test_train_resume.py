"""What ``--resume`` does not go on with: a training on other data, from other weights or with another teacher."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.trainings import interrupt_after


@pytest.fixture
def runs(trained_runs, tmp_path):
    return shutil.copytree(trained_runs, tmp_path / "runs")


def test_resume_on_other_classes_or_another_teacher_is_refused(
    kdbench, tiny_arguments, folder_dataset, runs, tmp_path, monkeypatch
):
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    command = ["train", "--method", "response", *tiny_arguments, "--runs", runs, "--data-root", data]
    interrupt_after(monkeypatch, "save_state", 1)
    assert kdbench(*command).code == 130
    monkeypatch.undo()
    for kind in ("images", "masks"):
        (data / kind / "train" / "train7.png").unlink()
    done = kdbench(*command, "--resume")
    assert done.code == 2
    assert "response was started with another dataset or teacher (train_images 8 → 7)" in done.err
    done = kdbench("train", "--method", "teacher", "--epochs", "1", *tiny_arguments, "--runs", runs)
    assert done.code == 0, done.err
    done = kdbench("train", "--method", "response", *tiny_arguments, "--runs", runs, "--resume")
    assert done.code == 2
    assert "response was started with another dataset or teacher (teacher " in done.err


def test_resume_on_other_images_of_the_same_number_is_refused(
    kdbench, tiny_arguments, folder_dataset, runs, tmp_path, monkeypatch
):
    """Another split, another folder: what was finished is no end of this training, and what was begun no beginning."""
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    command = ["train", "--method", "baseline", *tiny_arguments, "--runs", runs, "--data-root", data, "--resume"]
    assert kdbench(*command).code == 0  # the same images elsewhere
    for kind in ("images", "masks"):
        (data / kind / "train" / "train7.png").rename(data / kind / "train" / "train8.png")
    done = kdbench(*command)
    assert (done.code, "was finished with other images, or meanings of mask values: add --overwrite" in done.err) == (
        2,
        True,
    )
    interrupt_after(monkeypatch, "save_state", 1)
    assert kdbench(*command[:-1]).code == 130
    monkeypatch.undo()
    for kind in ("images", "masks"):
        (data / kind / "train" / "train8.png").rename(data / kind / "train" / "train7.png")
    done = kdbench(*command)
    assert (done.code, "started with another dataset or teacher (images, or meanings of mask values)" in done.err) == (
        2,
        True,
    )


def test_a_sidecar_of_before_images_were_recorded_is_believed(kdbench, tiny_arguments, runs):
    path = runs / "folder" / "baseline" / "student.json"
    sidecar = json.loads(path.read_text(encoding="utf-8"))
    del sidecar["train_images_sha256"], sidecar["seal"]
    path.write_text(json.dumps(sidecar), encoding="utf-8")
    done = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", runs, "--resume")
    assert (done.code, "anew" in done.err) == (0, False)


def test_resume_of_a_teacher_from_other_weights_is_refused(kdbench, tiny_arguments, runs):
    weights = runs / "encoder.safetensors"
    whole = load_file(runs / "folder" / "teacher" / "teacher.safetensors")
    save_file({name: tensor for name, tensor in whole.items() if "layer1" in name}, weights)
    command = ["train", "--method", "teacher", *tiny_arguments, "--runs", runs, "--resume"]
    assert kdbench(*command).code == 0
    done = kdbench(*command, "--teacher-weights", weights)
    assert (done.code, "was finished with other teacher_weights: add --overwrite" in done.err) == (2, True)
