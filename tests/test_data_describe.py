"""kdbench data describe: what it writes of a folder opens, and its labels are those that the folder was made of."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_files import refused
from test_data_findings import COLOURS, own_palette, plain, scene
from test_dataset_file import forget as forget

from kdbench.data import open_dataset
from kdbench.data.describe import describe
from kdbench.data.described_file import as_toml


def lay(root: Path, image: str, mask: str, save_mask=plain, runs=("run",)) -> Path:
    """Six training and three validation scenes of each run; paths have {split}, {run} and {n}."""
    number = 0
    for split, count in (("train", 6), ("val", 3)):
        for run in runs:
            for _ in range(count):
                pixels, label = scene(number)
                places = {"split": split, "run": run, "n": number}
                paths = [root / text.format(**places) for text in (image, mask)]
                for path in paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(paths[0])
                save_mask(paths[1], label, number)
                number += 1
    return root


def described(root: Path, folder: Path) -> tuple[str, dict]:
    """The path of a file with what is written of ``root``, and its fields."""
    file = folder / "my.toml"
    file.write_text(as_toml(describe(root), file), encoding="utf-8")
    return str(file), tomllib.loads(file.read_text(encoding="utf-8"))


def labels(file: str) -> dict[int, np.ndarray]:
    """Every label by the number of its scene."""
    found = {}
    for split in ("train", "val"):
        dataset = open_dataset(file, split)
        for index in range(len(dataset)):
            name = dataset[index].name
            found[int("".join(c for c in name.split("#")[-1] if c.isdigit()))] = dataset[index].label
    return found


@pytest.mark.parametrize(
    ("image", "mask", "images", "masks"),
    [
        ("images/{split}/#{n}.png", "masks/{split}/#{n}.png", "images/{split}/*.png", "masks/{split}/{stem}.png"),
        ("img_dir/{split}/#{n}.jpg", "ann_dir/{split}/#{n}.png", "img_dir/{split}/*.jpg", "ann_dir/{split}/{stem}.png"),
        ("{split}/#{n}.jpg", "{split}annot/#{n}.png", "{split}/*.jpg", "{split}annot/{stem}.png"),
        ("{split}/#{n}.png", "{split}/#{n}_mask.png", "{split}/*.png", "{split}/{stem}_mask.png"),
        ("frames/#{n}.jpg", "labels/#{n}_L.png", "frames/*.jpg", "labels/{stem}_L.png"),
        ("#{n}.jpg", "#{n}.png", "*.jpg", "{stem}.png"),
        (
            "left/{split}/{run}/#{n}_left.png", "gt/{split}/{run}/#{n}_gt_ids.png", "left/{split}/**/*_left.png",
            "gt/{split}/{folder}/{stem}_gt_ids.png",
        ),
        ("frames/{run}/#{n}.jpg", "labels/{run}/#{n}.png", "frames/**/*.jpg", "labels/{folder}/{stem}.png"),
    ],
)  # fmt: skip
def test_layouts(tmp_path, image, mask, images, masks):
    runs = ("bonn", "ulm") if "{run}" in image else ("run",)
    root = lay(tmp_path / "data", image, mask, runs=runs)
    file, fields = described(root, tmp_path)
    assert (fields["root"], fields["images"], fields["masks"]) == ("data", images, masks)
    assert ("val" in fields.get("split", {})) == ("{split}" not in image)
    assert list(fields["classes"].values()) == [0, 1, 2]
    found = labels(file)
    assert len(found) == 9 * len(runs)
    for number, label in found.items():
        np.testing.assert_array_equal(label, scene(number)[1])


def test_other_words_for_splits(tmp_path):
    root = lay(tmp_path / "data", "images/{split}/#{n}.jpg", "annotations/{split}/#{n}.png")
    for kind in ("images", "annotations"):
        (root / kind / "train").rename(root / kind / "training")
        (root / kind / "val").rename(root / kind / "validation")
    file, fields = described(root, tmp_path)
    assert fields["split"] == {"train": "training", "val": "validation"}
    assert len(open_dataset(file, "val")) == 3


@pytest.mark.parametrize(
    ("save_mask", "classes", "ignore"),
    [
        (lambda p, x, i: Image.fromarray(COLOURS[x]).save(p), ["#000000", "#00c800", "#c80000"], []),
        (own_palette, ["#000000", "#00c800", "#c80000"], []),
        (lambda p, x, i: plain(p, (x * 127).astype(np.uint8), i), [0, 127, 254], []),
        (lambda p, x, i: plain(p, np.where(x == 2, 255, x).astype(np.uint8), i), [0, 1], [255]),
        (lambda p, x, i: plain(p, (x > 0).astype(np.uint8) * 255, i), [0, 255], []),
        (lambda p, x, i: Image.fromarray(np.dstack([x] * 3)).save(p), [0, 1, 2], []),
        (lambda p, x, i: Image.fromarray(x.astype(np.uint16) + 1).save(p), [1, 2, 3], []),
    ],
    ids=["colours", "palettes", "levels", "void", "0-255", "grey-rgb", "1-based"],
)
def test_values(tmp_path, save_mask, classes, ignore):
    file, fields = described(lay(tmp_path / "data", "i/{split}/#{n}.png", "m/{split}/#{n}.png", save_mask), tmp_path)
    assert list(fields["classes"].values()) == classes
    assert fields["ignore"] == ignore
    for number, label in labels(file).items():
        truth = scene(number)[1]
        if len(classes) == 2:
            truth = np.where(truth == 2, 255, truth) if ignore else (truth > 0)
        elif isinstance(classes[0], str):
            truth = np.array([0, 2, 1])[truth]  # classes are in the order of their colours
        np.testing.assert_array_equal(label, truth)


def test_names_of_classes_txt_and_what_is_beyond_them(tmp_path):
    root = lay(tmp_path / "data", "i/{split}/#{n}.png", "m/{split}/#{n}.png")
    (root / "classes.txt").write_text("ground\nbig thing\n", encoding="utf-8")
    found = describe(root)
    assert found.classes == {"ground": [0], "big thing": [1]}
    assert found.ignore == [2]
    assert "2 taken for void (ignore)" in found.notes
    counts = sum(np.bincount(scene(i)[1].ravel(), minlength=3) for i in range(9))
    assert found.pixels == {value: int(count) for value, count in enumerate(counts)}
    assert f'"big thing" = 1  # {counts[1] / counts.sum():.2%} of the pixels read' in as_toml(found, None)


def test_recordings_in_names(tmp_path):
    root = tmp_path / "data"
    for number in range(12):
        for folder, array in zip(("i", "m"), scene(number), strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"run{number // 4}_{number}.png")
    file, fields = described(root, tmp_path)
    assert fields["group"] == "^([^_]+)_"
    train, val = (open_dataset(file, split) for split in ("train", "val"))
    assert len(train) + len(val) == 12
    assert not set(train.groups) & set(val.groups)


def test_recordings_by_a_pattern_of_ones_own(tmp_path, kdbench):
    root = lay(tmp_path / "data", "i/{run}/#{n}.png", "m/{run}/#{n}.png", runs=("east_1", "east_2", "west_1"))
    for folder in ("i", "m"):
        (root / folder / "other").mkdir()
        (root / folder / "east_1/#0.png").rename(root / folder / "other/#0.png")
    file = tmp_path / "my.toml"
    done = kdbench("data", "describe", root, "--group", "/(east|west)_", "--output", file)
    assert done.code == 0, done.err
    assert "groups:  2 by /(east|west)_" in done.out
    assert "note: group finds no recording for 1 images: i/other/#0.png" in done.out
    opened = [open_dataset(str(file), split) for split in ("train", "val")]
    assert {group for split in opened for group in split.groups} - {None} == {"east", "west"}
    for pattern, message in (("east", "expected brackets"), ("(", "expected a regular"), ("(north)", "none of 27")):
        refused = kdbench("data", "describe", root, "--group", pattern)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1)
        assert message in refused.err


def test_images_without_a_mask_are_said(tmp_path):
    root = lay(tmp_path / "data", "i/{split}/#{n}.png", "m/{split}/#{n}.png")
    (root / "m" / "train" / "#3.png").unlink()
    found = describe(root)
    assert any("1 images have no mask (#3.png)" in note for note in found.notes)
    file, fields = described(root, tmp_path)
    assert fields["unmasked"] == "class_0"
    assert not labels(file)[3].any()


def test_folders_that_hold_nothing_to_describe(tmp_path):
    refused(lambda: describe(tmp_path / "gone"), "gone' is no folder")
    (tmp_path / "notes.txt").write_text("hello")
    refused(lambda: describe(tmp_path), "it holds notes.txt", "no masks whose names agree")


def test_command_writes_once_and_trains(tmp_path, kdbench):
    root = lay(tmp_path / "data", "i/#{n}.jpg", "m/#{n}.png", lambda p, x, i: Image.fromarray(COLOURS[x]).save(p))
    printed = kdbench("data", "describe", root)
    assert printed.code == 0
    for part in ("images:  i/*.jpg (all 9)", "48x64", "#000000", 'masks = "m/{stem}.png"'):
        assert part in printed.out
    file = tmp_path / "yard.toml"
    done = kdbench("data", "describe", root, "--output", file, "--json", tmp_path / "found.json")
    assert done.code == 0
    assert "train: 7 images" in done.out
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["images"] == "i/*.jpg"
    before = file.read_text(encoding="utf-8")
    again = kdbench("data", "describe", root, "--output", file)
    assert (again.code, file.read_text(encoding="utf-8")) == (2, before)
    assert "exists: name another, or add --overwrite" in again.err
    assert kdbench("data", "describe", root, "--output", file, "--overwrite").code == 0
    assert kdbench("data", "describe", root, "--output", tmp_path / "a.txt").code == 2
    assert kdbench("data", "check", "--dataset", file).code == 0
    done = kdbench(
        "train", "--method", "baseline", "--dataset", file, "--runs", tmp_path / "runs", "--size", "64x64",
        "--epochs", 1, "--batch-size", 4, "--device", "cpu", "--student-weights", "none",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "runs/yard/baseline/student.safetensors").exists()
