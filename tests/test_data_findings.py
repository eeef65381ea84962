"""What data check and train say of data that are read but not as meant: one line for each kind of fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import open_dataset
from kdbench.data.check import check_sample, check_splits
from kdbench.data.faults import collected

COLOURS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
COUNTS = {"train": 6, "val": 3}


def scene(seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of 48 x 64: in noise a rectangle of each class but the first."""
    rng = np.random.default_rng(seed)
    label = np.zeros((48, 64), np.uint8)
    for index in range(1, classes):
        y, x = rng.integers(0, 24), rng.integers(0, 40)
        label[y : y + 16, x : x + 16] = index
    image = rng.integers(0, 256, (48, 64, 3))
    return image.astype(np.uint8), label


def make(root: Path, save_mask, classes=("ground", "a", "b"), save_image=None) -> Path:
    """A folder dataset whose masks are written by ``save_mask(path, label, number)``."""
    number = 0
    for split, count in COUNTS.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for _ in range(count):
            image, label = scene(number, len(classes))
            path = root / "images" / split / f"s{number}.png"
            (save_image or (lambda p, a: Image.fromarray(a).save(p)))(path, image)
            save_mask(root / "masks" / split / f"s{number}.png", label, number)
            number += 1
    (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return root


def plain(path: Path, label: np.ndarray, number: int) -> None:
    Image.fromarray(label).save(path)


def own_palette(path: Path, label: np.ndarray, number: int) -> None:
    order = np.roll(np.arange(3, dtype=np.uint8), number)
    image = Image.fromarray(order[label])
    colours = np.zeros((3, 3), np.uint8)
    colours[order] = COLOURS
    image.putpalette(colours.ravel().tolist())
    image.save(path)


def check(root: Path):
    return check_splits(*(open_dataset("folder", split, root) for split in COUNTS))


def only(lines, *parts: str) -> str:
    (line,) = lines
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


def test_void_that_is_a_value_of_its_own_is_one_line(tmp_path, kdbench):
    root = make(tmp_path, lambda p, x, i: plain(p, np.where(x == 2, 11, x).astype(np.uint8), i))
    for line, split, count in zip(check(root).problems, COUNTS, (6, 3), strict=True):
        assert line.startswith(f"{split}: {count} of {count} masks hold 11, expected 0 to 2 (3 classes) or 255")
        assert "if that is void, add ignore = [11] to a dataset file" in line
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", root)
    assert done.code == 2
    assert "Pixels" not in done.out  # no table of zeros


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda x: x + 1, "ids look 1-based: subtract 1"),
        (lambda x: np.array([0, 127, 255])[x], "0, 127, 255 look like grey levels: write 0 to 2"),
        (lambda x: np.array([0, 85, 170])[x], "0, 85, 170 look like grey levels"),
        (lambda x: np.array([0, 1, 3])[x], "if that is void, add ignore = [3]"),
        (lambda x: np.array([0, 1, 7])[x], "if that is void, add ignore = [7]"),
    ],
)
def test_what_unknown_values_look_like(tmp_path, change, meaning):
    root = make(tmp_path, lambda p, x, i: plain(p, change(x).astype(np.uint8), i))
    first, second = check(root).problems
    assert meaning in first
    assert meaning in second
    (sampled, _) = check_sample(*(open_dataset("folder", split, root) for split in COUNTS)).problems
    assert sampled == first


def test_255_as_a_class_stops_a_training_and_can_be_accepted(tmp_path, kdbench):
    root = make(tmp_path / "data", lambda p, x, i: plain(p, x * 255, i), classes=("ground", "fg"))
    share = sum(scene(i, 2)[1].mean() for i in range(6)) / 6
    line = only(check(root).problems, "no pixel is of class 'fg', but 6 of 6 masks hold 255", '"fg" = 255')
    assert f"({share:.1%} of all pixels)" in line
    command = (
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", root, "--runs", tmp_path / "runs",
        "--size", "64x64", "--epochs", 1, "--batch-size", 4, "--device", "cpu", "--student-weights", "none",
    )  # fmt: skip
    done = kdbench(*command)
    assert done.code == 2
    assert line in done.err.splitlines()[-1]
    assert "--accept-data trains all the same" in done.err
    assert not list(tmp_path.glob("runs/**/*.safetensors"))
    assert kdbench(*command, "--accept-data").code == 0
    (sidecar,) = tmp_path.glob("runs/**/student.json")
    assert json.loads(sidecar.read_text(encoding="utf-8"))["accepted_data"] == [line]
    again = kdbench("train", "--from", sidecar, "--runs", tmp_path / "again", "--device", "cpu")
    assert again.code == 0, again.err


def test_a_rare_class_is_no_problem_beside_void(tmp_path):
    """Borders of 255 around every object, as VOC has, and a class that no image shows."""
    root = make(tmp_path, lambda p, x, i: plain(p, np.where(np.arange(64) < 3, 255, x).astype(np.uint8), i))
    (root / "classes.txt").write_text("ground\na\nrare\nb2\nlast\n", encoding="utf-8")
    checked = check(root)
    assert checked.problems == ()
    assert "train: no pixel is of class 'b2', 'last'" in checked.warnings


def test_palettes_that_differ_stop_check_and_training(tmp_path):
    root = make(tmp_path, own_palette)
    line = only(check(root).problems, "value 0 is #000000", "and #c80000 in that of", "s1.png'")
    assert check_sample(*(open_dataset("folder", split, root) for split in COUNTS)).problems == (line,)


def test_palettes_by_colour_are_read_where_colours_are_named(tmp_path):
    root = make(tmp_path, own_palette)
    (root / "classes.txt").write_text("ground 0 0 0\na #c80000\nb, #00C800\n", encoding="utf-8")
    assert check(root).problems == ()
    train = open_dataset("folder", "train", root)
    assert train.classes == ("ground", "a", "b")
    assert train.palette == ((0, 0, 0), (200, 0, 0), (0, 200, 0))
    for index in range(6):
        np.testing.assert_array_equal(train[index].label, scene(index)[1])


def test_coloured_masks(tmp_path):
    root = make(tmp_path, lambda p, x, i: Image.fromarray(COLOURS[x]).save(p))
    first, _ = check(root).problems
    counts = sum(np.bincount(scene(i)[1].ravel(), minlength=3) for i in range(6))
    assert "6 of 6 masks are coloured" in first
    assert f"#000000 {counts[0] / counts.sum():.1%}" in first
    assert "classes.txt, as 'ground #000000'" in first
    (root / "classes.txt").write_text("ground #000000\na 200 0 0\nb #123456\n", encoding="utf-8")
    assert (
        "6 of 6 masks hold #00c800, expected #000000, #123456, #c80000 (3 classes) or #ffffff"
        in check(root).problems[0]
    )


def test_colours_of_some_classes_alone_are_refused(tmp_path):
    root = make(tmp_path, plain)
    (root / "classes.txt").write_text("ground #000000\na\nb\n", encoding="utf-8")
    with pytest.raises(Exception, match="gives 'a' no colour"):
        open_dataset("folder", "train", root)
    (root / "classes.txt").write_text("ground\nlevel 1 2 3\nb\n", encoding="utf-8")
    assert open_dataset("folder", "train", root).classes == ("ground", "level 1 2 3", "b")


def test_a_fourth_band_and_turned_images_are_counted(tmp_path):
    root = make(tmp_path, plain, save_image=lambda p, a: Image.fromarray(np.dstack([a, a[..., 0]])).save(p))
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in (7, 8):
        Image.fromarray(scene(number)[0]).save(root / "images" / "val" / f"s{number}.png", exif=exif)
    train, turned, val = check(root).warnings
    assert (
        train
        == "train: 6 of 6 images have a fourth band, which is dropped: s0.png, s1.png, s2.png, s3.png, s4.png, s5.png"
    )
    assert "2 of 3 images have an EXIF orientation (6 in " in turned
    assert val == "val: 1 of 3 images have a fourth band, which is dropped: s6.png"


def test_an_opaque_fourth_band_says_nothing(tmp_path):
    opaque = np.full((48, 64), 255, np.uint8)
    root = make(tmp_path, plain, save_image=lambda p, a: Image.fromarray(np.dstack([a, opaque])).save(p))
    assert check(root).warnings == ()


def test_every_file_without_a_partner_is_named_in_both_splits(tmp_path, kdbench):
    root = make(tmp_path, plain)
    for split, name in (("train", "s1"), ("train", "s3"), ("val", "s7")):
        (root / "masks" / split / f"{name}.png").unlink()
    with collected() as faults:
        train = open_dataset("folder", "train", root)
    assert len(train) == 4
    only(faults, "(2 such files: s1.png, s3.png)")
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", root)
    assert done.code == 2
    for part in ("s1.png, s3.png", "1 such files: s7.png", "folder train: 4 images", "folder val: 2 images"):
        assert part in done.out


def test_many_files_without_a_partner_are_ten_and_a_count(tmp_path):
    root = make(tmp_path, plain)
    for number in range(100, 113):
        Image.fromarray(scene(number)[0]).save(root / "images" / "val" / f"x{number}.png")
    with collected() as faults:
        open_dataset("folder", "val", root)
    line = only(faults, "(13 such files: x100.png", "x109.png and 3 more")
    assert "x110.png" not in line


def test_masks_that_share_an_ending(tmp_path):
    root = make(tmp_path, lambda p, x, i: plain(p.with_stem(f"{p.stem}_mask"), x, i))
    train = open_dataset("folder", "train", root)
    np.testing.assert_array_equal(train[5].label, scene(5)[1])
    assert check(root).problems == ()


def test_another_layout_names_the_folders_that_are_there(tmp_path, kdbench):
    root = make(tmp_path, plain)
    (root / "images").rename(root / "img_dir")
    (root / "masks").rename(root / "ann_dir")
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", root)
    assert done.code == 2
    assert "holds ann_dir/, classes.txt, img_dir/: for another layout" in done.err


def test_long_values_are_cut(tmp_path):
    root = make(tmp_path, plain)
    (root / "classes.txt").write_text(f"ground\n{'a' * 5000}\n{'a' * 5000}\n", encoding="utf-8")
    with pytest.raises(Exception, match="2 times") as caught:
        open_dataset("folder", "train", root)
    assert len(str(caught.value)) < 500


# ---------------------------------------------------------------- both splits


def test_frames_of_one_drive_on_both_sides(tmp_path):
    for split, names in (("train", ("A_1", "A_2", "B_1")), ("val", ("A_3", "C_1", "C_2"))):
        for kind in (split, f"{split}annot"):
            (tmp_path / kind).mkdir()
        for number, name in enumerate(names):
            image, label = scene(hash_of(name))
            Image.fromarray(image).save(tmp_path / split / f"{name}.png")
            plain(tmp_path / f"{split}annot" / f"{name}.png", label, number)
    train, val = (open_dataset("camvid", split, tmp_path) for split in ("train", "val"))
    assert train.groups == ("A", "B")
    assert [val.group_of(i) for i in range(3)] == ["A", "C", "C"]
    for checked in (check_splits(train, val), check_sample(train, val)):
        (line,) = [line for line in checked.warnings if "recordings" in line]
        assert "1 of 2 recordings of val have frames in train too (A; 1 of 3 val images)" in line


def hash_of(name: str) -> int:
    return sum(map(ord, name)) * 7 + ord(name[0])


def test_pictures_that_look_the_same_are_counted(tmp_path):
    def smooth(path: Path, pixels: np.ndarray) -> None:
        """Blotches that tell pictures apart, as photographs' do."""
        small = Image.fromarray(pixels[:4, :4])
        small.resize((64, 48), Image.Resampling.BICUBIC).save(path)

    root = make(tmp_path, plain, save_image=smooth)
    assert check(root).warnings == ()
    twin = np.asarray(Image.open(root / "images" / "train" / "s2.png")).astype(int)
    noise = np.random.default_rng(0).integers(-9, 10, twin.shape)
    Image.fromarray((twin + noise).clip(0, 255).astype(np.uint8)).save(root / "images" / "val" / "s7.png")
    only(check(root).warnings, "1 of 3 val images look like a train image", "val/s7.png' and '", "train/s2.png'")


def test_copies_in_both_splits_stop_a_training(tmp_path):
    root = make(tmp_path, plain)
    image = (root / "images" / "train" / "s2.png").read_bytes()
    (root / "images" / "val" / "s6.png").write_bytes(image)
    problems = check_sample(*(open_dataset("folder", split, root) for split in COUNTS)).problems
    only(problems, "val/s6.png' is byte for byte the train image", "train/s2.png'")
