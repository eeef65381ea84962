"""What lies in a training's folder, and whether the training in it is finished."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput
from kdbench.runs.folder import RunFolder, at_its_end
from kdbench.runs.tree import RESERVED, RunTree
from tests.conftest import REPOSITORY
from tests.exports import edit_sidecar, make_student


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
    beside = (tree.data_file, tree.comparison, tree.package, tree.plots, tree.predictions, tree.latency("x").parent)
    assert {path.relative_to(tree.root).as_posix() for path in beside} <= set(RESERVED)
    assert (tree.plots, tree.predictions) == (tree.root / "plots", tree.root / "predictions")


def test_predictions_of_a_variant_lie_beside_its_methods(tmp_path, kdbench):
    photo = tmp_path / "photo.png"
    Image.fromarray(Shapes("val")[0].image).save(photo)
    usual = RunTree(tmp_path / "runs", "shapes")
    variant = usual.of_variant("student=other")
    assert variant.plots == variant.root / "student=other" / "plots"
    masks = []
    for seed, tree in enumerate((usual, variant)):
        make_student(tree, "baseline", seed)
        name = tree.variant or "usual"
        done = kdbench("predict", "--method", "baseline", photo, "--runs", tree.runs, "--variant", name)
        assert done.code == 0, done.err
        masks.append(tree.checkpoint("baseline").parent.parent / "predictions/baseline-torch/photo-mask.png")
    assert masks[0].read_bytes() != masks[1].read_bytes()


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
