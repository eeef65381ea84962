"""Dataset files: where images and masks are, how names pair, what masks mean, which image is in which split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_files import IMAGE, SIZE, ids, refused, save

from kdbench.data import open_dataset
from kdbench.data.open import DATASETS

HEAD = 'images = "frames/*.png"\nmasks = "labels/{stem}_L.png"\n'
CLASSES = 'classes = ["ground", "a", "b"]\n'


@pytest.fixture(autouse=True)
def forget():
    """Dataset files join the datasets of this process."""
    yield
    for name in [layout.name for layout in DATASETS if layout.file is not None]:
        del DATASETS._items[name]


@pytest.fixture
def yard(tmp_path):
    """Ten frames each of three recordings, run1_0.png …, and their masks."""
    for run in ("run1", "run2", "run3"):
        for number in range(10):
            save(tmp_path / "frames" / f"{run}_{number}.png", IMAGE)
            save(tmp_path / "labels" / f"{run}_{number}_L.png", ids(0, 1, 2, 255))
    return tmp_path


def write(folder: Path, text: str, name: str = "yard.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def names(file: str, split: str) -> list[str]:
    dataset = open_dataset(file, split)
    return [dataset[i].name for i in range(len(dataset))]


def test_pairs_by_template(yard):
    file = write(yard, HEAD + CLASSES + 'split = { val = ["frames/run3_*"] }\n')
    train = open_dataset(file, "train")
    assert (train.name, train.classes, len(train)) == ("yard", ("ground", "a", "b"), 20)
    np.testing.assert_array_equal(train[0].label, ids(0, 1, 2, 255))
    assert names(file, "val") == [f"run3_{i}" for i in range(10)]
    assert train.group_of(0) is None


def test_classes_of_several_values_and_void(yard):
    split = 'split = { val = ["frames/run3_*"] }\nignore = [0]\n'
    file = write(yard, f'{HEAD}{split}[classes]\n"all kinds" = [1, 2]\nwhite = 255\n')
    np.testing.assert_array_equal(open_dataset(file, "train")[0].label, ids(255, 0, 0, 1))


def test_classes_of_colours(yard):
    colours = np.array([[0, 0, 0], [128, 64, 128], [255, 0, 128], [8, 8, 8], [1, 1, 1]], np.uint8)
    for path in (yard / "labels").iterdir():
        save(path, colours[ids(0, 1, 2, 3)])
    text = (
        'split = { val = ["frames/run3_*"] }\nignore = "#000000"\n[classes]\nroad = ["#804080", "255 0 128"]\ncar = 8\n'
    )
    train = open_dataset(write(yard, HEAD + text), "train")
    np.testing.assert_array_equal(train[0].label, ids(255, 0, 0, 1))
    assert train.palette[0] == (128, 64, 128)
    save(yard / "labels" / "run1_0_L.png", colours[ids(0, 4)])
    refused(lambda: train[0], "run1_0_L.png", "[#010101]", "expected #080808, #804080, #ff0080 (2 classes) or #000000")


def test_palette_masks_by_colour(yard):
    for number, path in enumerate(sorted((yard / "labels").iterdir())):
        order = np.roll(np.arange(3, dtype=np.uint8), number)
        image = Image.fromarray(order[ids(0, 1, 2)])
        palette = np.zeros((3, 3), np.uint8)
        palette[order] = [[0, 0, 0], [200, 0, 0], [0, 200, 0]]
        image.putpalette(palette.ravel().tolist())
        image.save(path)
    text = 'split = { val = ["frames/run3_*"] }\n[classes]\nground = "#000000"\na = "#c80000"\nb = "#00c800"\n'
    train = open_dataset(write(yard, HEAD + text), "train")
    for index in range(3):
        np.testing.assert_array_equal(train[index].label, ids(0, 1, 2))


def test_a_share_splits_over_groups_and_is_the_same_everywhere(yard):
    text = HEAD + CLASSES + 'group = "^([^_]+)_"\nsplit = { val = 0.3, test = 0.3, seed = 1 }\n'
    file = write(yard, text)
    splits = {split: open_dataset(file, split) for split in ("train", "val", "test")}
    assert {split: dataset.groups for split, dataset in splits.items()} == {
        split: dataset.groups[:1] for split, dataset in splits.items()
    }
    assert {g for dataset in splits.values() for g in dataset.groups} == {"run1", "run2", "run3"}
    assert [len(dataset) for dataset in splits.values()] == [10, 10, 10]
    assert names(file, "val") == names(write(yard, text, "again.toml"), "val")
    others = {tuple(open_dataset(write(yard, text.replace("seed = 1", f"seed = {n}")), "val").groups) for n in range(9)}
    assert len(others) == 3


def test_a_share_of_images_stays_when_images_are_added(yard):
    file = write(yard, HEAD + CLASSES + "split = { val = 0.2, seed = 3 }\n")
    before, train = names(file, "val"), names(file, "train")
    assert (len(before), len(train)) == (6, 24)
    assert not set(before) & set(train)
    save(yard / "frames" / "new_1.png", IMAGE)
    save(yard / "labels" / "new_1_L.png", ids(0))
    assert len(set(before) - set(names(file, "val"))) <= 1


def test_groups_folders_and_lists_as_splits(yard):
    group = HEAD + CLASSES + 'group = "^([^_]+)_"\n'
    file = write(yard, group + 'split = { val = ["run2"], test = "run3" }\n')
    assert open_dataset(file, "train").groups == ("run1",)
    assert open_dataset(file, "test").groups == ("run3",)
    write(yard, "frames/run1_3.png\nrun2_4\nrun3_5.png\n", "val.txt")
    file = write(yard, group + 'split = { val = "val.txt" }\n')
    assert names(file, "val") == ["run1_3", "run2_4", "run3_5"]
    assert len(open_dataset(file, "train")) == 27
    refused(lambda: open_dataset(file, "test"), "split: got 'test'", "train, val")
    file = write(yard, group + 'split = { val = ["run9"] }\n')
    refused(lambda: open_dataset(file, "val"), "split.val: got 'run9'", "one of the recordings run1, run2, run3")
    file = write(yard, group + 'split = { val = ["run2"], train = ["run1", "frames/run2_*"] }\n')
    refused(lambda: open_dataset(file, "val"), "10 images are in both val and train", "run2_0.png")


def test_folders_by_split_and_suffixes(tmp_path):
    for split in ("training", "validation"):
        for city in ("aachen", "bonn"):
            save(tmp_path / "img" / split / city / "x_1_left.png", IMAGE)
            save(tmp_path / "gt" / split / city / "x_1_ids.png", ids(0, 1))
    text = (
        'images = "img/{split}/*/*.png"\nstem = "^(.*)_left$"\nmasks = "gt/{split}/{folder}/{stem}_ids.png"\n'
        'group = "img/[^/]+/([^/]+)/"\nsplit = { train = "training", val = "validation" }\n'
    )
    file = write(tmp_path, text + 'classes = ["ground", "a"]\n')
    val = open_dataset(file, "val")
    assert len(val) == 2
    assert val.groups == ("aachen", "bonn")
    assert [val[i].name for i in range(2)] == ["img_validation_aachen_x_1_left", "img_validation_bonn_x_1_left"]


def test_masks_beside_their_images(tmp_path):
    for number in range(4):
        save(tmp_path / f"a{number}.png", IMAGE)
        save(tmp_path / f"a{number}_mask.png", ids(0, 1))
    text = 'images = "*.png"\nmasks = "{stem}_mask.png"\nsplit = { val = ["a3*"] }\nclasses = ["x", "y"]\n'
    assert names(write(tmp_path, text), "train") == ["a0", "a1", "a2"]


def test_folders_and_single_files_as_images(yard):
    split = 'split = { val = ["frames/run3_*"] }\n'
    head = HEAD.replace("frames/*.png", "frames").replace("labels/{stem}", "{folder}/../labels/{stem}")
    file = write(yard, head.replace("{folder}", "frames/{folder}") + CLASSES + split)
    assert len(open_dataset(file, "train")) == 20
    some = HEAD.replace('"frames/*.png"', '["frames/run1_0.png", "frames/run3_0.png"]')
    assert names(write(yard, some + CLASSES + split), "train") == ["run1_0"]


def test_a_test_split_is_checked_too(yard, kdbench):
    text = HEAD + CLASSES + 'group = "^([^_]+)_"\nsplit = { val = ["run2"], test = ["run3"] }\n'
    save(yard / "labels" / "run3_4_L.png", ids(7))
    done = kdbench("data", "check", "--dataset", write(yard, text))
    assert done.code == 2
    assert "run3_4_L.png' holds the values [7]" in done.out
    assert "test image" in done.out  # every image of this test is the same


def test_a_grid_takes_a_dataset_file(yard):
    from trainers.grid import plan, read_grid

    data = write(yard, HEAD + CLASSES + 'name = "garden"\nsplit = { val = 0.2 }\n')
    sweep = plan(read_grid(Path(write(yard, f'dataset = "{data}"\nmethods = ["baseline"]\n', "grid.toml"))), yard)
    assert sweep.runs[0].tree.root == yard / "garden"


def test_a_list_of_pairs(yard):
    lines = [f"frames/run1_{i}.png, labels/run2_{i}_L.png" for i in range(4)]
    write(yard, "# image, mask\n" + "\n".join(lines), "pairs.csv")
    save(yard / "labels" / "run2_0_L.png", ids(2))
    file = write(yard, 'images = "pairs.csv"\nsplit = { val = ["frames/run1_3*"] }\n' + CLASSES)
    np.testing.assert_array_equal(open_dataset(file, "train")[0].label, ids(2))
    write(yard, "frames/gone.png labels/run1_0_L.png\n", "pairs.csv")
    refused(lambda: open_dataset(file, "train"), "pairs.csv' lists 1 files that are not there (gone.png)")


def test_images_without_a_mask(yard):
    for name in ("run1_0", "run1_1"):
        (yard / "labels" / f"{name}_L.png").unlink()
    split = 'split = { val = ["frames/run3_*"] }\n'
    file = write(yard, HEAD + CLASSES + split)
    refused(lambda: open_dataset(file, "train"), "2 of 20 images have no mask (run1_0.png, run1_1.png;", "unmasked")
    train = open_dataset(write(yard, HEAD + CLASSES + split + 'unmasked = "a"\n'), "train")
    assert len(train) == 20
    np.testing.assert_array_equal(train[0].label, np.full(SIZE, 1))
    np.testing.assert_array_equal(train[2].label, ids(0, 1, 2, 255))


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (
            '{ val = ["frames/run3_*"], test = ["frames/run3_1*"] }',
            "split: 1 images are in both test and val (run3_1.png)",
        ),
        ('{ val = ["val.txt"] }', "split.val: 'val.txt' lists 1 that images do not find (run9_0.png): mend one"),
        ('{ val = ["frames/*"] }', "split: train has no image of 30: mend split"),
    ],
)
def test_splits_that_cannot_be(yard, split, said):
    (yard / "val.txt").write_text("run3_0\nrun9_0.png\n")
    refused(lambda: open_dataset(write(yard, f"{HEAD}{CLASSES}split = {split}\n"), "train"), said)


def test_no_mask_at_all(yard):
    for path in (yard / "labels").iterdir():
        path.unlink()
    file = write(yard, HEAD + CLASSES + 'split = { val = ["frames/run3_*"] }\n')
    refused(lambda: open_dataset(file, "val"), "10 of 10 images have no mask (run3_0.png, ", "mend masks or stem")


def test_all_that_is_wrong_is_one_line(tmp_path):
    text = (
        'images = 3\nmask = "x"\ngroup = "abc"\nsplit = { val = true }\nclasses = { a = -1, b = 2 }\n'
        f'labels = "{"v" * 500}"\n'
    )
    error = refused(
        lambda: open_dataset(write(tmp_path, text), "val"), "images", "mask: got 'x', expected one of name, recipe",
        "group: got 'abc', expected brackets", "classes.a", "got -1", "labels: got 'vvv",
    )  # fmt: skip
    assert "v" * 81 not in error


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEAD + CLASSES, ["split: got no val", "{split} in images"]),
        ('images = "*.png"\nsplit = { val = 0.1 }\n' + CLASSES, ["masks: got none"]),
        (
            HEAD.replace("{stem}", "{steem}") + CLASSES + "split = { val = 0.1 }",
            ["masks: got {steem}", "{stem}, {name}"],
        ),
        (HEAD + CLASSES + "split = { val = 3, vall = 1 }", ["split.val: got 3.0", "split: got 'vall'"]),
        (HEAD + CLASSES + "split = { val = 0.1, train = 0.5 }", ["split.train: got a share"]),
        (HEAD + CLASSES + 'split = { val = 0.1 }\nunmasked = "c"', ["unmasked: got 'c'", "ground, a, b"]),
        (HEAD + "split = { val = 0.1 }\nclasses = { a = [1, 2], b = 2 }", ["classes.b: got 2, which is in classes.a"]),
        (HEAD + 'split = { val = 0.1 }\nclasses = { a = 1, b = "red" }', ["classes.b: got 'red'", "#804080"]),
        (HEAD + "split = { val = 0.1 }\nclasses = { a = 1, b = 300 }", ["classes.b: got 300", "0 to 255"]),
        (HEAD + 'split = { val = 0.1 }\nclasses = ["a"]', ["classes: got", "at least 2"]),
        ('name = "a b"\n' + HEAD + CLASSES + "split = { val = 0.1 }", ["name: got 'a b'", "letters, digits"]),
        ('name = "camvid"\n' + HEAD + CLASSES + "split = { val = 0.1 }", ["name 'camvid' is a built-in dataset's"]),
        ('root = "nowhere"\n' + HEAD + CLASSES + "split = { val = 0.1 }", ["nowhere' is no folder"]),
        (HEAD.replace("frames", "photos") + CLASSES + "split = { val = 0.1 }", ["'photos/*.png' finds no image"]),
        (HEAD.replace("frames", "/frames") + CLASSES + "split = { val = 0.1 }", ["images: got '/frames/*.png'"]),
        ("images = ", ["cannot be read as TOML"]),
    ],
)
def test_one_thing_wrong(tmp_path, text, parts):
    refused(lambda: open_dataset(write(tmp_path, text), "val"), "dataset", *parts)


def test_no_such_file(tmp_path):
    refused(lambda: open_dataset(str(tmp_path / "my.toml"), "val"), "my.toml' does not exist", "kdbench data describe")


def test_every_command_finds_what_was_trained(yard, kdbench, monkeypatch):
    recipe = 'size = [64, 64]\nepochs = 1\nbatch_size = 4\nvalidate_every = 1\nstudent = "student"\n'
    write(yard, recipe, "short.toml")
    data = write(
        yard,
        HEAD + CLASSES + 'name = "garden"\nrecipe = "short.toml"\ngroup = "^([^_]+)_"\nsplit = { val = ["run3"] }\n',
    )
    runs = ("--runs", yard / "runs")
    done = kdbench("train", "--method", "baseline", "--dataset", data, *runs, "--device", "cpu", "--accept-data")
    assert done.code == 0, done.err
    sidecar = json.loads((yard / "runs/garden/baseline/student.json").read_text(encoding="utf-8"))
    assert (sidecar["dataset"], sidecar["dataset_file"], sidecar["data_root"]) == ("garden", data, None)
    assert sidecar["train_images"] == 20
    for dataset in ((), ("--dataset", "garden"), ("--dataset", data)):
        DATASETS._items.pop("garden")  # as in a process of its own
        done = kdbench("export", "--method", "baseline", "--format", "onnx", *runs, *dataset, "--allow-drift")
        assert done.code == 0, done.err
        assert "garden" in DATASETS
    DATASETS._items.pop("garden")
    Path(data).rename(yard / "moved.toml")
    done = kdbench("export", "--method", "baseline", "--format", "onnx", *runs)
    assert done.code == 2
    assert "was trained from the dataset file" in done.err
    assert (
        kdbench("export", "--method", "baseline", "--format", "onnx", *runs, "--dataset", yard / "moved.toml").code == 0
    )
