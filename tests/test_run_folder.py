"""What lies in a training's folder, and whether the training in it is finished."""

from __future__ import annotations

import json
import shutil

import pytest

from kdbench.errors import BadInput
from kdbench.runs.folder import RunFolder, at_its_end
from kdbench.runs.tree import RunTree
from tests.conftest import REPOSITORY
from tests.exports import edit_sidecar


def test_names():
    tree = RunTree(REPOSITORY / "runs", "camvid")
    own, other, teacher = tree.folder("dist"), tree.folder("dist", 3), tree.folder("teacher")
    assert own.checkpoint == tree.checkpoint("dist") == tree.root / "dist" / "student.safetensors"
    assert other.checkpoint == tree.root / "dist" / "seed-3" / "student.safetensors"
    assert teacher.checkpoint == tree.checkpoint("teacher") == tree.root / "teacher" / "teacher.safetensors"
    assert [path.name for path in teacher.written] == [
        "teacher.safetensors", "teacher.json", "history.jsonl", "state.pt",
    ]  # fmt: skip
    assert RunFolder.of(other.checkpoint) == other
    assert RunFolder.of(teacher.checkpoint) == teacher


def test_seeds_are_in_order_and_a_persons_copies_are_none(tmp_path):
    tree = RunTree(tmp_path, "x")
    for name in ("seed-10", "seed-9", "seed-1-old", "seed-", "exports"):
        (tree.method_dir("baseline") / name).mkdir(parents=True)
    assert [folder.path.name for folder in tree.folders("baseline")] == ["baseline", "seed-9", "seed-10"]
    assert tree.seed_checkpoints("baseline") == []
    for folder in (tree.folder("baseline"), tree.folder("baseline", 10)):
        folder.checkpoint.touch()
    assert tree.seed_checkpoints("baseline") == [tree.checkpoint("baseline"), tree.folder("baseline", 10).checkpoint]


@pytest.fixture
def folder(trained_runs, tmp_path):
    """A finished training's, to be spoiled."""
    theirs = RunTree.find(trained_runs, None).folder("baseline")
    shutil.copytree(theirs.path, tmp_path / "baseline")
    return RunFolder(tmp_path / "baseline")


def test_a_finished_training(folder):
    assert folder.finished("x") == json.loads(folder.sidecar.read_text())
    assert at_its_end(folder.finished("x"))
    assert folder.is_whole(folder.finished("x"))
    with open(folder.checkpoint, "ab") as file:
        file.write(b"0")
    assert not folder.is_whole(folder.finished("x"))


@pytest.mark.parametrize("lacking", ["checkpoint", "sidecar"])
def test_without_a_checkpoint_or_its_sidecar_none_is_finished(folder, lacking):
    getattr(folder, lacking).unlink()
    assert folder.finished("x") is None


def test_a_training_that_goes_on_or_stopped_early_is_not_finished(folder):
    folder.state.touch()
    assert folder.finished("x") is None
    folder.state.unlink()
    assert folder.finished("x") is not None
    edit_sidecar(folder.checkpoint, epoch=0)
    assert folder.finished("x") is None


def test_a_broken_sidecar_is_told_of(folder):
    folder.sidecar.write_text("{")
    with pytest.raises(BadInput, match="make it again with `x`"):
        folder.finished("x")
