"""Views are made once, anew where they must, go on after an interruption, and are shared by what the command trains."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

from kdbench.data import open_dataset
from kdbench.data.normalisation import IMAGENET
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree
from tests.test_views import AUGMENTED, TURNED
from tests.trainings import equal, history, interrupt_after, teaching, wanted_by
from trainers.batches import TrainingBatches
from trainers.images import TrainingImages
from trainers.recipe import Recipe, load_recipe, variant_name
from trainers.steps import teacher_taps
from trainers.view_making import images_and_views
from trainers.views import Shown
from trainers.views_wanted import Wanted


@pytest.fixture(scope="module")
def train_set(folder_dataset):
    return open_dataset("folder", "train", folder_dataset)


# Made once


def files(folder):
    """Files of views by name, without those that make way for others → when they were written."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def test_only_what_is_missing_is_made(train_set, tmp_path, capsys):
    def make(views, teacher, features=False):
        recipe = Recipe(size=(64, 96), views=views, seed=len(files(tmp_path)), **AUGMENTED)
        wanted = wanted_by(train_set, tmp_path, recipe, teacher)
        if not features:
            wanted = Wanted(
                *(getattr(wanted, name) for name in ("dataset", "recipe", "device", "beside", "folder")), teacher
            )
        capsys.readouterr()
        images_and_views(wanted)
        return files(tmp_path), capsys.readouterr().out

    teacher = teaching()
    images, said = make(2, None)  # the baseline alone
    assert {name.partition("/")[2] for name in images} == {
        f"{p}-00{v}.npy" for p in ("images", "labels") for v in (0, 1)
    }
    assert "8 images x 2, 0.4 MB" in said
    assert "made once, 0.4 MB to write and no pass of a teacher;" in said
    logits, said = make(2, teacher)
    assert len(logits) == 6
    assert images.items() < logits.items()
    assert "made once, 0.1 MB to write and 16 passes of the teacher at 64x96;" in said
    features, said = make(2, teacher, features=True)
    assert len(features) == 12
    assert logits.items() < features.items()
    assert "and 16 passes of the teacher" in said
    again, said = make(2, teacher, features=True)
    assert again == features
    assert "made before; all seeds and methods train on the same views" in said
    more, said = make(3, teacher, features=True)
    assert len(more) == 18
    assert features.items() < more.items()
    assert "and 8 passes of the teacher" in said


def test_where_all_are_there_no_image_is_decoded(train_set, tmp_path, monkeypatch):
    recipe = Recipe(size=(64, 96), views=1, **AUGMENTED)
    images_and_views(wanted_by(train_set, tmp_path, recipe, teaching()))
    monkeypatch.setattr(TrainingImages, "_decode", lambda *_: pytest.fail("decoded"))
    images, views = images_and_views(wanted_by(train_set, tmp_path, recipe, teaching()))
    assert len(list(TrainingBatches(images, recipe, view=IMAGENET, views=views).epoch(0))) == 1


@pytest.mark.parametrize(
    "change", [{"jitter": 0.2}, {"flip": False}, {"size": (64, 64)}, {"labelled": 0.5}, {"images": 6}, {"cutmix": 0.5}]
)
def test_other_settings_have_views_of_their_own_and_the_old_ones_are_named(train_set, tmp_path, capsys, change):
    settings = {"size": (64, 96), "views": 1, **AUGMENTED}
    images_and_views(wanted_by(train_set, tmp_path, Recipe(**settings)))
    [old] = tmp_path.glob("*/")
    images_and_views(wanted_by(train_set, tmp_path, Recipe(**{**settings, **change})))
    assert len(list(tmp_path.glob("*/"))) == 2
    assert f"views of other data or settings are kept: '{old}' (0.2 MB)" in capsys.readouterr().err


def test_another_teacher_says_its_own_and_what_the_one_before_said_is_removed(train_set, tmp_path, capsys):
    recipe = Recipe(size=(64, 96), views=1, **AUGMENTED)
    _, first = images_and_views(wanted_by(train_set, tmp_path, recipe, teaching(1)))
    kept = files(tmp_path)
    assert capsys.readouterr().err == ""
    _, second = images_and_views(wanted_by(train_set, tmp_path, recipe, teaching(2)))
    assert "the teacher is another now: what the one before said is removed" in capsys.readouterr().err
    assert len(files(tmp_path)) == len(kept)
    assert len(files(tmp_path).items() & kept.items()) == 2  # images and labels
    before, now = (views.batch([Shown(0, 0)], IMAGENET, taught=True) for views in (first, second))
    assert torch.equal(before[0], now[0])
    assert not torch.allclose(before[2].logits, now[2].logits, atol=0.1)
    assert first.fields() == second.fields()


def test_what_a_teacher_of_another_input_says_lies_apart(train_set, tmp_path, capsys):
    """Before it was named after its input, it saw other contrast than the student: that is made anew."""
    recipe = Recipe(size=(64, 96), views=1, **AUGMENTED)
    images_and_views(wanted_by(train_set, tmp_path, recipe, teaching()))
    [before] = tmp_path.glob("*/teacher-*")
    assert before.name == "teacher-111111111111-fp32"
    images_and_views(wanted_by(train_set, tmp_path, recipe, teaching(wants=TURNED)))
    [now] = tmp_path.glob("*/teacher-*")
    assert re.fullmatch("teacher-111111111111-[0-9a-f]{8}-fp32", now.name)
    assert "what the one before said is removed" in capsys.readouterr().err


# Bad luck


def test_interrupted_making_goes_on_where_it_was(train_set, tmp_path, monkeypatch):
    recipe = Recipe(size=(64, 96), batch_size=4, views=3, **AUGMENTED)
    wanted = wanted_by(train_set, tmp_path, recipe, teaching())
    passes = []

    def third_view_fails(*arguments):
        passes.append(1)
        if len(passes) == 1 + 2 * 2 + 2:  # one to learn its shapes, two a view
            raise KeyboardInterrupt
        return teacher_taps(*arguments)

    for module in ("view_making", "views_wanted"):
        monkeypatch.setattr(f"trainers.{module}.teacher_taps", third_view_fails)
    with pytest.raises(KeyboardInterrupt):
        images_and_views(wanted)
    kept = files(tmp_path)
    assert len(kept) == 2 * 6
    assert not list(tmp_path.rglob(".*-*.npy"))
    monkeypatch.undo()
    _, views = images_and_views(wanted)
    assert kept.items() < files(tmp_path).items()
    _, whole = images_and_views(wanted_by(train_set, tmp_path / "whole", recipe, teaching()))
    assert views.fields() == whole.fields()


def test_a_file_that_is_not_whole_is_made_again(train_set, tmp_path):
    wanted = wanted_by(train_set, tmp_path, Recipe(size=(64, 96), views=2, **AUGMENTED), teaching())
    images_and_views(wanted)
    kept = files(tmp_path)
    [cut] = tmp_path.glob("*/teacher-*/logits-*-001.npy")
    content = cut.read_bytes()
    cut.write_bytes(content[:-100])
    images_and_views(wanted)
    assert cut.read_bytes() == content
    assert len(kept.items() - files(tmp_path).items()) == 1


def test_what_does_not_fit_on_the_disk_is_refused_in_a_line(train_set, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("trainers.views_wanted.shutil.disk_usage", lambda _: usage(300_000))
    wanted = wanted_by(train_set, tmp_path, Recipe(size=(64, 96), views=2, **AUGMENTED))
    with pytest.raises(BadInput) as refused:
        images_and_views(wanted)
    [folder] = tmp_path.glob("*/")
    assert str(refused.value) == (
        f"--views 2: 0.4 MB are to be written to '{folder}', which has room for 0.3 MB: make room, give fewer --views, "
        "or name another --runs"
    )
    assert not files(tmp_path)


# By the command line


@pytest.fixture
def runs(trained_runs, tmp_path):
    shutil.copytree(trained_runs / "folder" / "teacher", tmp_path / "runs" / "folder" / "teacher")
    return tmp_path / "runs"


def test_methods_and_seeds_share_the_views_of_the_teacher(kdbench, tiny_arguments, runs):
    command = ["train", *tiny_arguments, "--runs", runs, "--views", "2"]
    done = kdbench(*command, "--method", "baseline,feature")
    assert done.code == 0, done.err
    views = runs / "folder" / "teacher" / "views"
    assert f"views: 8 images x 2, 1.3 MB in {views.as_posix()}/" in done.out
    assert "16 passes of the teacher at 64x64; all seeds and methods train on the same views" in done.out
    kept = files(views)
    done = kdbench(*command, "--method", "response", "--seeds", "1,2")
    assert done.code == 0, done.err
    assert "; made before;" in done.out
    assert files(views) == kept
    tree = RunTree(runs, "folder", "views=2")
    said = [
        json.loads((tree.method_dir(place) / "student.json").read_text())
        for place in ("baseline", "feature", "response/seed-1")
    ]
    assert said[0]["views"] == said[1]["views"] == said[2]["views"]
    assert said[0]["views"]["count"] == said[0]["recipe"]["views"] == 2


def test_a_baseline_needs_no_teacher(kdbench, tiny_arguments, tmp_path):
    done = kdbench("train", *tiny_arguments, "--runs", tmp_path, "--views", "1", "--method", "baseline")
    assert done.code == 0, done.err
    assert "no pass of a teacher" in done.out


def test_with_part_of_the_labels_a_teacher_of_those_makes_views(kdbench, tiny_arguments, tmp_path):
    command = ["train", *tiny_arguments, "--runs", tmp_path, "--views", "2", "--labelled", "0.5", "--epochs", "1"]
    done = kdbench(*command, "--method", "teacher,baseline,response")
    assert done.code == 0, done.err
    tree = RunTree(tmp_path, "folder", "labelled=0.5+views=2")
    assert tree.checkpoint("response").exists()
    assert tree.method_dir("teacher").parent.name == "labelled=0.5"
    assert files(tree.folder("teacher").views)
    assert json.loads(tree.folder("teacher").sidecar.read_text())["recipe"]["views"] == 0


def test_resumed_it_has_the_weights_of_an_uninterrupted_run(kdbench, tiny_arguments, runs, tmp_path, monkeypatch):
    whole = shutil.copytree(runs, tmp_path / "whole")
    command = ["train", *tiny_arguments, "--method", "dist", "--views", "2", "--epochs", "3", "--runs"]
    assert kdbench(*command, whole).code == 0
    interrupt_after(monkeypatch, "save_state", 1)
    assert kdbench(*command, runs).code == 130
    monkeypatch.undo()
    shutil.rmtree(runs / "folder" / "teacher" / "views")  # made again, they are the same
    assert kdbench(*command, runs, "--resume").code == 0
    one, two = (RunTree(root, "folder", "views=2").folder("dist") for root in (whole, runs))
    assert history(one.path) == history(two.path)
    assert equal(load_file(one.checkpoint), load_file(two.checkpoint))
    done = kdbench(*command, runs, "--resume", "--views", "3")
    assert done.code == 0, done.err  # another number of views is another variant
    assert RunTree(runs, "folder", "views=3").checkpoint("dist").exists()


def test_its_trainings_lie_apart():
    assert variant_name("folder", load_recipe("folder", {"views": 10})) == "views=10"
    assert variant_name("folder", load_recipe("folder", {"views": 0})) is None
    with pytest.raises(BadInput, match="--views: got -1"):
        load_recipe("folder", {"views": -1})
