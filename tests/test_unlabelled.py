"""Images without labels: which are taken, who learns from them, what is recorded, and what a repetition asks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from kdbench.comparison.results import Comparison
from kdbench.data import open_dataset
from kdbench.data.shapes import Shapes
from kdbench.data.unlabelled import open_unlabelled
from kdbench.errors import BadInput


@pytest.fixture
def folder(tmp_path):
    """Six images that nobody labelled, in two folders, beside what is none."""
    shapes = Shapes("val")
    for number in range(6):
        path = tmp_path / "more" / ("a" if number < 4 else "b") / f"new{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shapes[20 + number].image).save(path)
    (tmp_path / "more" / "notes.txt").write_text("none")
    (tmp_path / "more" / "._a.png").write_bytes(b"macOS")
    return tmp_path / "more"


def splits(root):
    return open_dataset("folder", "train", root), open_dataset("folder", "val", root)


def test_every_pixel_has_no_label(folder, folder_dataset):
    found = open_unlabelled(folder, *splits(folder_dataset), folder_dataset)
    assert [file.stem for file in found.files] == [f"new{number}" for number in range(6)]
    assert set(np.unique(found[5].label)) == {254}
    assert found[5].label.shape == found[5].image.shape[:2]
    assert found.classes == open_dataset("folder", "train", folder_dataset).classes


def test_without_a_folder_there_are_none(folder_dataset):
    assert open_unlabelled(None, *splits(folder_dataset), folder_dataset) is None


def test_images_of_a_split_are_left_out_and_counted(folder, folder_dataset, capsys):
    root = folder.parent / "data"
    shutil.copytree(folder_dataset, root)
    shutil.move(folder, root / "images" / "more")
    found = open_unlabelled(root / "images", *splits(root), root)
    assert len(found) == 6
    assert "12 of 18 images have masks in a split: left out" in capsys.readouterr().err
    with pytest.raises(BadInput, match="holds 8 images, expected some that belong to no split"):
        open_unlabelled(root / "images" / "train", *splits(root), root)


def test_a_folder_that_is_not_there(folder_dataset, tmp_path, kdbench):
    done = kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset, "--unlabelled",
        tmp_path / "nowhere",
    )  # fmt: skip
    assert done.code == 2
    assert f"--unlabelled: folder '{tmp_path / 'nowhere'}' does not exist" in done.err


@pytest.fixture
def recordings(tmp_path):
    """Frames of four drives, of which one in three has a mask, and the dataset file."""
    rng = np.random.default_rng(0)
    for drive in "abcd":
        for number in range(6):
            frames, masks = tmp_path / "frames", tmp_path / "masks"
            frames.mkdir(exist_ok=True)
            masks.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(frames / f"{drive}_{number}.png")
            if number % 3 == 0:
                ids = rng.integers(0, 2, (32, 48), dtype=np.uint8)
                Image.fromarray(ids).save(masks / f"{drive}_{number}.png")
    file = tmp_path / "drives.toml"
    file.write_text(
        'images = "frames/*.png"\nmasks = "masks/{stem}.png"\nunlabelled = "frames/*.png"\n'
        'group = "^([^_]+)_"\nsplit = { val = ["d"] }\nclasses = ["road", "car"]\n',
        encoding="utf-8",
    )
    return str(file)


def test_a_dataset_file_names_them_and_those_of_held_out_drives_stay_out(recordings, capsys):
    train, val = open_dataset(recordings, "train"), open_dataset(recordings, "val")
    assert (len(train), len(val)) == (6, 2)
    found = open_unlabelled(None, train, val, None)
    assert [file.stem for file in found.files] == [f"{d}_{n}" for d in "abc" for n in (1, 2, 4, 5)]
    said = capsys.readouterr().err
    assert "8 of 24 images have masks in a split: left out" in said
    assert "4 of 24 images are of recordings that validation or test alone have: left out" in said


def test_images_of_a_test_split_are_left_out(folder_dataset, tmp_path, capsys):
    """Which these layouts report on where there is one: what is trained on cannot be."""
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "val", data / kind / "test")
    shutil.copytree(data / "images" / "val", data / "images" / "more")
    train, val = (open_dataset("folder", split, data) for split in ("train", "val"))
    with pytest.raises(BadInput, match="expected some that belong to no split"):
        open_unlabelled(data / "images" / "test", train, val, data)
    assert len(open_unlabelled(data / "images", train, val, data)) == 4
    assert "16 of 20 images have masks in a split: left out" in capsys.readouterr().err


def test_a_test_split_that_does_not_pair_is_said_before_its_images_are_learnt_from(folder_dataset, tmp_path):
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "val", data / kind / "test")
    (data / "masks" / "test" / "val0.png").unlink()
    train, val = (open_dataset("folder", split, data) for split in ("train", "val"))
    with pytest.raises(BadInput, match="val0.png' has no partner in"):
        open_unlabelled(data / "images" / "test", train, val, data)


def test_check_reads_them_all(folder, folder_dataset, kdbench):
    (folder / "a" / "new0.png").write_bytes(b"no image")
    shutil.copy(folder_dataset / "images" / "val" / "val1.png", folder / "b" / "copy.png")
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", folder_dataset, "--unlabelled", folder)
    assert done.code == 2
    assert "7 images without labels" in done.out
    assert "new0.png' is not an image file that can be read" in done.out
    assert "1 of 4 val images are among those without labels" in done.out
    train = kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset, "--unlabelled", folder
    )
    assert train.code == 2
    assert "new0.png' is not an image file that can be read" in train.err


@pytest.fixture
def arguments(folder, folder_dataset, tiny_recipe):
    return (
        "--dataset", "folder", "--data-root", folder_dataset, "--recipe", tiny_recipe, "--unlabelled", folder,
        "--device", "cpu",
    )  # fmt: skip


def test_from_training_to_table(arguments, folder, kdbench, trained_runs, tmp_path):
    """Equal steps; distilled methods see all 14 images, the baseline the 8 with labels; repeated bit for bit."""
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs / "folder" / "teacher", runs / "folder" / "teacher")
    done = kdbench("train", "--method", "baseline,response", *arguments, "--runs", runs)
    assert done.code == 0, done.err
    assert "a step of 4 images holds 2.3 with labels and 1.7 without, mean" in done.out
    about = {
        method: json.loads((runs / "folder" / "unlabelled=more" / method / "student.json").read_text())
        for method in ("baseline", "response")
    }
    assert about["baseline"]["steps"] == about["response"]["steps"] == 2 * (14 // 4)
    counts = ("train_images", "unlabelled_train_images", "labelled_images", "unlabelled_images")
    assert [about["baseline"][key] for key in counts] == [8, 6, 8, 0]
    assert [about["response"][key] for key in counts] == [8, 6, 8, 6]
    assert about["response"]["step_images"] == {"labelled": pytest.approx(32 / 14, abs=1e-3), "unlabelled": 1.714}
    assert about["response"]["unlabelled"] == folder.as_posix()

    again = kdbench(
        "train",
        "--from",
        runs / "folder" / "unlabelled=more" / "response" / "student.json",
        "--runs",
        tmp_path / "again",
    )
    assert again.code == 0, again.err
    assert "the same weights as" in again.out

    compared = kdbench("compare", "--runs", runs, "--backend", "torch", "--rounds", 10, "--threads", 1)
    assert compared.code == 0, compared.err
    rows = Comparison.read(runs / "folder" / "compare.json").rows
    assert {row.method: (row.labelled, row.unlabelled) for row in rows if row.status == "ok"} == {
        "baseline": (8, 0), "response": (8, 6)
    }  # fmt: skip
    table = (runs / "folder" / "compare.txt").read_text()
    assert "Labelled + not" in table
    assert "8 + 6" in table

    (folder / "a" / "new0.png").unlink()
    refused = kdbench(
        "train",
        "--from",
        runs / "folder" / "unlabelled=more" / "response" / "student.json",
        "--runs",
        tmp_path / "third",
    )
    assert refused.code == 2
    assert "was trained beside 6 images without labels, now there are 5" in refused.err
    resumed = kdbench("train", "--method", "response", *arguments, "--runs", runs, "--resume")
    assert (resumed.code, "was finished with other unlabelled_train_images: add --overwrite" in resumed.err) == (
        2,
        True,
    )
    anew = kdbench("train", "--method", "response", *arguments, "--runs", runs, "--resume", "--overwrite")
    assert anew.code == 0, anew.err
    assert "was made with other unlabelled_train_images: training anew" in anew.err


def test_a_list_of_those_whose_labels_are_used(arguments, kdbench, tmp_path, folder_dataset):
    names = sorted(path.name for path in (folder_dataset / "images" / "train").iterdir())
    listed = tmp_path / "labelled.txt"
    listed.write_text("\n".join([names[1], names[4].removesuffix(".png"), f"images/train/{names[6]}"]))
    command = ("train", "--method", "baseline", *arguments[:6], "--device", "cpu", "--runs", tmp_path / "runs")
    done = kdbench(*command, "--labelled", listed)
    assert done.code == 0, done.err
    about = json.loads((tmp_path / "runs" / "folder" / "labelled=labelled" / "baseline" / "student.json").read_text())
    assert about["labelled"] == [names[at].removesuffix(".png") for at in (1, 4, 6)]
    assert (about["labelled_images"], about["train_images"]) == (3, 8)
    listed.write_text("nobody.png\n")
    wrong = kdbench(*command, "--labelled", listed)
    assert (wrong.code, "names 1 images that the training split lacks (first 'nobody.png')" in wrong.err) == (2, True)
    assert (
        "--labelled: got 2.0, expected a share above 0, 1 at most, or a list file that ends in .txt"
        in kdbench(*command, "--labelled", 2).err
    )


def test_a_share_of_the_labels_is_a_variant_with_a_teacher_of_its_own(arguments, kdbench, tmp_path):
    """Beside the usual training: each gain pairs within its share, and each share's teacher learnt from its labels."""
    runs = tmp_path / "runs"
    command = ("train", "--method", "teacher,baseline,response", *arguments[:6], "--device", "cpu", "--runs", runs)
    for flags in ((), ("--labelled", 0.5)):
        done = kdbench(*command, "--epochs", 1, *flags)
        assert done.code == 0, done.err
    found = {
        path.parent.relative_to(runs / "folder").as_posix(): json.loads(path.read_text())
        for name in ("student", "teacher")
        for path in runs.rglob(f"{name}.json")
    }
    assert set(found) == {f"{where}{m}" for where in ("", "labelled=0.5/") for m in ("teacher", "baseline", "response")}
    assert found["labelled=0.5/teacher"]["labelled_images"] == 4
    for where in ("", "labelled=0.5/"):
        assert found[f"{where}response"]["teacher"]["sha256"] == found[f"{where}teacher"]["sha256"]
    compared = kdbench("compare", "--runs", runs, "--backend", "torch", "--rounds", 10, "--threads", 1)
    assert compared.code == 0, compared.err
    comparison = Comparison.read(runs / "folder" / "compare.json")
    assert [(gain.variant, gain.method) for gain in comparison.improvements] == [
        (None, "response"), ("labelled=0.5", "response")
    ]  # fmt: skip
    # The lead of a variant's teacher is over the baseline of its own variant.
    few = ("--variant", "labelled=0.5", "--method", "baseline", "--json", tmp_path / "few.json")
    assert kdbench("compare", "--runs", runs, "--backend", "torch", "--rounds", 10, "--threads", 1, *few).code == 0
    alone = Comparison.read(tmp_path / "few.json")
    assert alone.teacher.lead == pytest.approx(alone.teacher.miou - alone.rows[0].miou)
    again = kdbench("train", "--from", runs / "folder/labelled=0.5/teacher/teacher.json", "--runs", tmp_path / "again")
    assert again.code == 0, again.err
    assert "the same weights as" in again.out
    assert (tmp_path / "again/folder/labelled=0.5/teacher/teacher.json").exists()


def test_a_teacher_of_more_labels_than_its_students(arguments, kdbench, tmp_path):
    recipe = tmp_path / "few.toml"
    text = arguments[5].read_text().replace("size = [64, 64]", "size = [64, 64]\nimages = 4\nlabelled = 0.5")
    recipe.write_text(text + "images = 8\nlabelled = 1.0\n")
    command = ("train", "--method", "teacher,response", *arguments[:4], "--recipe", recipe, "--device", "cpu")
    done = kdbench(*command, "--epochs", 1, "--runs", tmp_path / "runs")
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "folder" / "labelled=0.5"
    teacher, student = (json.loads((folder / f"{m}.json").read_text()) for m in ("teacher/teacher", "response/student"))
    assert (teacher["train_images"], "labelled_images" in teacher, teacher["steps"]) == (8, False, 2)
    assert (student["train_images"], student["labelled_images"], student["unlabelled_images"]) == (4, 2, 2)
