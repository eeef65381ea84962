"""Recordings held out: training's data by value, then train, compare and report as a person uses them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from PIL import Image

from kdbench.comparison.evaluate import Evaluation
from kdbench.comparison.metrics import mean_iou
from kdbench.comparison.new_scenes import Scores, improvements_elsewhere, uneven_notes
from kdbench.comparison.references import Run
from kdbench.comparison.results import Comparison
from kdbench.data import open_dataset
from kdbench.data.held_out import hold_out
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree, is_fold, without_fold
from tests.conftest import TINY_RECIPE
from tests.test_train_processes import TORCHRUN, launch

DRIVES = ("a", "b", "c")
COUNTS = {"train": 12, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """CamVid's layout: train and val are frames of three drives, test of two others."""
    root = tmp_path_factory.mktemp("drives")
    for split, count in COUNTS.items():
        scenes = Shapes("train" if split == "train" else "val")
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for index in range(count):
            scene = scenes[index + (4 if split == "test" else 0)]
            drive = "de"[index % 2] if split == "test" else DRIVES[index % 3]
            name = f"{drive}_{split}{index:03}.png"
            Image.fromarray(np.ascontiguousarray(scene.image[:64, :64])).save(root / split / name)
            Image.fromarray(np.ascontiguousarray(scene.label[:64, :64])).save(root / f"{split}annot" / name)
    return root


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE.replace("epochs = 2", "epochs = 1"), encoding="utf-8")
    return path


def names(dataset):
    return [dataset.name_of(index) for index in range(len(dataset))]


def test_a_fold_trains_on_the_other_recordings_of_both_splits(drives):
    train, val = open_dataset("camvid", "train", drives), open_dataset("camvid", "val", drives)
    kept, held = hold_out(train, val, "b")
    assert {name[0] for name in names(kept)} == {"a", "c"}
    assert {name[0] for name in names(held)} == {"b"}
    assert sorted(names(kept) + names(held)) == sorted(names(train) + names(val))
    assert (kept.split, held.split) == ("train", "val")
    assert len(train) == 12  # what was opened stays as it is


def test_names_that_both_splits_have_are_told_apart(tmp_path):
    """Frames are numbered anew in each split: a fold must not have two images of one name."""
    for split in ("train", "val"):
        for recording in ("x", "y"):
            for folder in ("images", "masks"):
                (tmp_path / folder / split / recording).mkdir(parents=True)
                size = (8, 8, 3) if folder == "images" else (8, 8)
                Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / folder / split / recording / "0.png")
    (tmp_path / "data.toml").write_text(
        'images = "images/{split}/**/*.png"\nmasks = "masks/{split}/{folder}/{name}"\n'
        'group = "/([xy])/"\nclasses = ["one", "two"]\n',
        encoding="utf-8",
    )
    splits = [open_dataset(str(tmp_path / "data.toml"), split) for split in ("train", "val")]
    kept, _ = hold_out(*splits, "y")
    assert len(set(names(kept))) == len(kept) == 2


@pytest.mark.parametrize(
    ("dataset", "group", "message"),
    [
        ("camvid", "z", "--hold-out: got 'z', expected a recording of camvid: a, b, c"),
        ("shapes", "z", "--hold-out: dataset 'shapes' is not made of files, expected recordings of files"),
        ("folder", "z", "--hold-out: dataset 'folder' has no recordings, expected at least two: name recordings in"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(drives, folder_dataset, dataset, group, message):
    root = {"camvid": drives, "folder": folder_dataset}.get(dataset)
    with pytest.raises(BadInput, match=message):
        hold_out(open_dataset(dataset, "train", root), open_dataset(dataset, "val", root), group)


def test_a_fold_is_a_variant_with_a_teacher_of_its_own(tmp_path):
    tree = RunTree(tmp_path, "camvid", "labelled=0.25+hold-out=b")
    assert is_fold(tree.variant)
    assert without_fold(tree.variant) == "labelled=0.25"
    assert not is_fold("labelled=0.25")
    assert not is_fold(None)
    assert tree.method_dir("teacher") == tmp_path / "camvid" / tree.variant / "teacher"
    for variant in ("hold-out=a", "hold-out=b", tree.variant, "labelled=0.25"):
        (tree.root / variant).mkdir(parents=True)
    # What nobody names is the last training that is no fold.
    for folder in ("labelled=0.25/baseline", "hold-out=a/baseline"):
        (tree.root / folder).mkdir()
        (tree.root / folder / "student.json").write_text("{}", encoding="utf-8")
    os.utime(tree.root / "labelled=0.25/baseline/student.json", (1, 1))
    assert RunTree.find(tmp_path, "camvid").variant == "labelled=0.25"
    assert [fold.variant for fold in tree.of_variant(None).folds()] == ["hold-out=a", "hold-out=b"]
    assert [fold.variant for fold in tree.of_variant("labelled=0.25").folds()] == [tree.variant]


def evaluation(*right):
    """Of images of two classes with 10 pixels each, of which that many are right."""
    return Evaluation(np.array([[[n, 10 - n], [10 - n, n]] for n in right], dtype=np.int64))


def test_means_are_over_folds_of_means_over_seeds_and_pairs_are_of_the_same_fold(tmp_path):
    tree = RunTree(tmp_path, "camvid")
    base = Scores(
        {("a", 0): evaluation(6), ("a", 1): evaluation(8), ("b", 0): evaluation(5)},
        {("a", 0): ["a"], ("a", 1): ["a"], ("b", 0): ["b"]},
    )
    ours = Scores(
        {("a", 0): evaluation(7), ("a", 1): evaluation(9), ("b", 0): evaluation(6), ("b", 1): evaluation(10)},
        {("a", 0): ["a"], ("a", 1): ["a"], ("b", 0): ["b"], ("b", 1): ["b"]},
    )

    def iou(right):
        return mean_iou(evaluation(right).confusions.sum(0))

    assert base.miou == pytest.approx(((iou(6) + iou(8)) / 2 + iou(5)) / 2)
    others = {"baseline": {"new_scenes": base}, "dist": {"new_scenes": ours}}
    (gain,) = improvements_elsewhere([Run(tree, "baseline"), Run(tree, "dist")], others)
    assert (gain.on, gain.folds, gain.seeds, gain.standard_error_over) == ("new_scenes", 2, 1, "folds")
    # ("b", 1) has no baseline beside it.
    by_fold = [(iou(7) - iou(6) + iou(9) - iou(8)) / 2, iou(6) - iou(5)]
    assert gain.delta_miou == pytest.approx(sum(by_fold) / 2)
    assert gain.standard_error == pytest.approx(abs(by_fold[0] - by_fold[1]) / 2)
    assert gain.trainings == "2 folds of 1 seed each"
    assert uneven_notes(others) == [
        "baseline: its mean on new scenes lacks b seed 1, which another method has: compare the paired differences, or "
        "train with --folds and the same --seeds --resume"
    ]
    assert gain.miou_by_group["b"].miou == pytest.approx(iou(6))
    assert gain.miou_by_group["a"].delta_miou == pytest.approx((iou(7) - iou(6) + iou(9) - iou(8)) / 2)


def test_more_seeds_are_no_more_recordings(tmp_path):
    """One fold of three is worse: however many seeds say so, a gain on new recordings is not shown."""
    tree = RunTree(tmp_path, "camvid")

    def scores(right):
        return Scores({(fold, seed): evaluation(right[fold] + seed % 2) for fold in right for seed in range(6)})

    found = {"baseline": scores({"a": 5, "b": 5, "c": 5}), "dist": scores({"a": 8, "b": 8, "c": 4})}
    for its in found.values():
        its.groups = {key: [key[0]] for key in its.by_key}
    others = {name: {"new_scenes": its} for name, its in found.items()}
    (gain,) = improvements_elsewhere([Run(tree, "baseline"), Run(tree, "dist")], others)
    assert (gain.folds, gain.seeds, gain.verdict) == (3, 6, "no gain shown")
    # Of one fold alone seeds have a spread, and say nothing of other recordings.
    for its in found.values():
        its.by_key = {key: value for key, value in its.by_key.items() if key[0] == "a"}
    (gain,) = improvements_elsewhere([Run(tree, "baseline"), Run(tree, "dist")], others)
    assert (gain.standard_error_over, gain.verdict, gain.trainings) == ("seeds", "no gain shown", "1 fold of 6 seeds")
    assert uneven_notes(others) == []


def test_a_split_without_a_labelled_pixel_is_a_note(kdbench, folder_dataset, trained_runs, tmp_path):
    """Validation has one labelled image of four: resamples that leave it out have no mIoU either."""
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "val", data / kind / "test")
    for mask in [*(data / "masks" / "test").iterdir(), *sorted((data / "masks" / "val").iterdir())[1:]]:
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(mask)
    result = kdbench(
        "compare", "--runs", shutil.copytree(trained_runs, tmp_path / "runs"), "--dataset", "folder", "--data-root",
        data, "--method", "baseline,response", "--backend", "torch", "--rounds", 10, "--split", "test",
    )  # fmt: skip
    assert result.code == 0
    assert "baseline: no pixel of 'test' has a label, so it has no score" in " ".join(result.out.split())


def test_a_splits_recordings_are_scored_apart():
    scores = Scores({("", 0): evaluation(10, 6, 8)}, {("", 0): ["d", "e", "d"]})
    pooled = mean_iou(evaluation(10, 8).confusions.sum(0))
    assert scores.by_group() == {"d": pytest.approx(pooled), "e": pytest.approx(mean_iou(evaluation(6).confusions[0]))}


def test_a_recording_without_a_labelled_pixel_has_no_score(tmp_path):
    groups = ["d", "e", "d"]

    def scores(*right):
        found = evaluation(*right)
        found.confusions[1] = 0  # e is void
        return {"test": Scores({("", seed): found for seed in range(3)}, {("", seed): groups for seed in range(3)})}

    tree = RunTree(tmp_path, "camvid")
    others = {"baseline": scores(6, 0, 6), "dist": scores(8, 0, 8)}
    (gain,) = improvements_elsewhere([Run(tree, "baseline"), Run(tree, "dist")], others)
    assert set(gain.miou_by_group) == {"d"}
    assert gain.miou_by_group["d"].delta_miou == pytest.approx(gain.delta_miou)


def test_folds_and_test_stand_beside_validation(kdbench, drives, tiny, tmp_path):
    runs = tmp_path / "runs"
    where = ("--dataset", "camvid", "--data-root", drives, "--runs", runs)
    trained = ("--recipe", tiny, "--device", "cpu", "--accept-data")
    kdbench("train", "--method", "all", *where, *trained)
    said = kdbench("train", "--method", "teacher,baseline,response", "--folds", *where, *trained)
    assert "fold 2 of 3: b is held out" in said.out
    sidecar = json.loads((runs / "camvid/hold-out=b/response/student.json").read_text(encoding="utf-8"))
    assert (sidecar["hold_out"], sidecar["train_images"], sidecar["val_images"]) == ("b", 10, 5)
    teacher = json.loads((runs / "camvid/hold-out=b/teacher/teacher.json").read_text(encoding="utf-8"))
    assert teacher["hold_out"] == "b"
    assert sidecar["teacher"]["sha256"] == teacher["sha256"]

    result = kdbench(
        "compare", "--runs", runs, "--backend", "torch", "--rounds", 10, "--split", "test", "--threads", 1
    ).out
    comparison = Comparison.read(runs / "camvid/compare.json")
    by_run = {row.run: row for row in comparison.rows}
    assert set(by_run) == {"baseline", "response", "feature", "combined"}  # folds are no rows of their own
    folds = [
        json.loads((runs / f"camvid/hold-out={drive}/baseline/student.json").read_text(encoding="utf-8"))["miou"]
        for drive in DRIVES
    ]
    scored = by_run["baseline"].miou_by_split
    assert scored["new_scenes"] == pytest.approx(sum(folds) / 3, abs=1e-6)
    assert scored["val"] == pytest.approx(by_run["baseline"].miou)
    assert set(scored) == {"val", "new_scenes", "test"}
    assert set(by_run["feature"].miou_by_split) == {"val", "test"}  # no folds of it were trained
    on = {(gain.method, gain.on): gain for gain in comparison.improvements}
    assert on["response", "new_scenes"].folds == 3
    assert set(on["response", "test"].miou_by_group) == {"d", "e"}
    assert "New scenes" in result
    assert "ON NEW SCENES, recordings held out in turn" in result
    assert "choose nothing by it" in result
    assert result.count("no checkpoint") == 0  # of methods that nobody trained nothing is said twice
    report = kdbench("report", "--runs", runs)
    page = Path(runs / "camvid/report.html").read_text(encoding="utf-8")
    assert report.code == 0
    assert "recordings that training has not seen" in page

    refused = kdbench("compare", "--runs", runs, "--variant", "hold-out=b")
    assert "got 'hold-out=b', a fold" in refused.err
    again = tmp_path / "again"
    repeated = kdbench("train", "--from", runs / "camvid/hold-out=b/baseline/student.json", "--runs", again)
    assert "bit for bit" in repeated.out


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo, the CPU's communication")
def test_every_fold_is_trained_by_all_processes(drives, tiny, tmp_path):
    runs = tmp_path / "runs"
    done = launch(
        TORCHRUN, "--method", "baseline", "--folds", "--dataset", "camvid", "--data-root", drives, "--runs", runs,
        "--recipe", tiny, "--device", "cpu", "--accept-data",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number, drive in enumerate(DRIVES, start=1):
        assert done.stdout.count(f"fold {number} of 3: {drive} is held out") == 1
        sidecar = json.loads((runs / f"camvid/hold-out={drive}/baseline/student.json").read_text(encoding="utf-8"))
        assert sidecar["processes"] == 2
    assert done.stdout.count("baseline seed 0: mIoU") == 3


def test_recordings_that_would_share_a_folder_are_refused(kdbench, drives, tiny, tmp_path):
    data = shutil.copytree(drives, tmp_path / "data")
    for path in [*data.rglob("a_*.png"), *data.rglob("b_*.png")]:
        path.rename(path.with_name(path.name.replace("a_", "day 1_").replace("b_", "day (1)_")))
    refused = kdbench(
        "train", "--method", "baseline", "--dataset", "camvid", "--data-root", data, "--runs", tmp_path / "runs",
        "--recipe", tiny, "--folds", "--accept-data",
    )  # fmt: skip
    assert refused.code == 2
    assert "recordings 'day (1)' and 'day 1' have one folder, 'hold-out=day-1', expected names that" in refused.err
    assert not (tmp_path / "runs").exists()


def test_hold_out_and_folds_exclude_each_other(kdbench, drives, tiny, tmp_path):
    refused = kdbench(
        "train", "--method", "baseline", "--dataset", "camvid", "--data-root", drives, "--runs", tmp_path / "runs",
        "--recipe", tiny, "--hold-out", "a", "--folds",
    )  # fmt: skip
    assert "--folds: got --hold-out a as well, expected one of them" in refused.err


def test_a_test_split_that_is_not_there_is_one_line(kdbench, tmp_path):
    runs = tmp_path / "runs"
    kdbench("train", "--method", "baseline", "--runs", runs, "--epochs", 1, "--images", 4, "--size", "64x64")
    refused = kdbench("compare", "--runs", runs, "--backend", "torch", "--split", "test")
    assert "split: got 'test', expected one of train, val, which dataset 'shapes' has" in refused.err
