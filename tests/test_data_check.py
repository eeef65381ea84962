"""kdbench data check: every broken file is reported, none stops it, and leakage between the splits is found."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from kdbench.data import open_dataset
from kdbench.data.check import check_splits, overlap, report_tables
from kdbench.data.shapes import Shapes

RNG = np.random.default_rng(0)


def add(
    root: Path, split: str, name: str, label: np.ndarray, image: np.ndarray | None = None, **options: object
) -> Path:
    """Write one pair; the image is noise, so that no two are alike, unless given."""
    if image is None:
        image = RNG.integers(0, 256, (*label.shape, 3)).astype(np.uint8)
    for kind, array, extra in (("images", image, options), ("masks", label, {})):
        folder = root / kind / split
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{name}.png", **extra)
    return root / "images" / split / f"{name}.png"


def mask(*values: int, size: tuple[int, int] = (4, 8)) -> np.ndarray:
    """A mask whose columns take ``values`` in turn."""
    return np.resize(np.array(values, dtype=np.uint8), size[1])[None].repeat(size[0], 0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text("ground\n[bold]house\ntree\n", encoding="utf-8")
    add(tmp_path, "train", "a", mask(0, 1, 2, 255))
    add(tmp_path, "train", "b", mask(0, 0, 0, 2))
    add(tmp_path, "train", "c", mask(0, 1, size=(6, 8)))
    add(tmp_path, "val", "d", mask(0, 1, 2))
    return tmp_path


def check(root: Path, split: str = "train"):
    return check_splits(open_dataset("folder", split, root)).reports[0]


def test_clean_split(root):
    report = check(root)
    assert (report.dataset, report.split, report.images) == ("folder", "train", 3)
    assert report.sizes == {"4x8": 2, "6x8": 1}
    # a: 8 of each of 0, 1, 2, 255; b: 24 of 0, 8 of 2; c: 24 of 0, 24 of 1; 112 pixels
    assert report.pixel_share == pytest.approx((56 / 112, 32 / 112, 16 / 112))
    assert report.ignored_share == pytest.approx(8 / 112)
    assert (report.problems, report.warnings) == ((), ())
    json.dumps(dataclasses.asdict(report))


def test_every_broken_file_is_named_and_the_rest_is_counted(root):
    add(root, "train", "e", mask(0, 9))
    add(root, "train", "f", mask(0), image=np.zeros((5, 8, 3), dtype=np.uint8))
    cut = add(root, "train", "g", mask(0), image=RNG.integers(0, 256, (4, 8, 3)).astype(np.uint8))
    cut.write_bytes(cut.read_bytes()[:60])
    report = check(root)
    assert report.images == 6
    assert sum(report.sizes.values()) == 3
    assert len(report.problems) == 3
    for line, parts in zip(report.problems, (("f.png", "5x8", "4x8"), (str(cut),), ("e.png", "[9]")), strict=True):
        assert "\n" not in line
        assert all(part in line for part in parts)


def test_nothing_readable(root):
    path = root / "images" / "val" / "d.png"
    path.write_bytes(b"")
    report = check(root, "val")
    assert len(report.problems) == 1
    assert report.sizes == {}
    assert sum(report.pixel_share) + report.ignored_share == 0
    assert report.warnings == ()


def test_class_without_pixels(root):
    (root / "classes.txt").write_text("ground\nhouse\ntree\nwater\n")
    report = check(root)
    assert report.problems == ()
    assert report.warnings == ("train: no pixel is of class 'water'",)


def test_binary_masks_of_0_and_255(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    add(tmp_path, "train", "a", mask(0, 255))
    add(tmp_path, "train", "b", mask(0, 255))
    (line,) = check(tmp_path).problems
    assert "no pixel is of class 'road', but 2 of 2 masks hold 255 (50.0% of all pixels)" in line
    assert "write 1 for it" in line
    assert '"road" = 255' in line
    assert check(tmp_path).warnings == ()


def test_mask_ignored_everywhere_and_turned_image(root):
    add(root, "train", "void", mask(255))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = add(root, "train", "w", mask(0), exif=exif)
    void, orientation = check(root).warnings
    assert "1 of 5 masks are ignored in every pixel and teach nothing: void.png" in void
    assert f"1 of 5 images have an EXIF orientation (3 in '{turned}')" in orientation


def test_one_image_is_too_few_to_train_on_but_not_to_score_on(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    add(tmp_path, "train", "a", mask(0, 1))
    add(tmp_path, "val", "b", mask(0, 1))
    (line,) = check(tmp_path).problems
    assert "train: 1 image, expected at least 2" in line
    assert check(tmp_path, "val").problems == ()


def test_a_split_without_a_labelled_pixel(tmp_path):
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    add(tmp_path, "train", "a", mask(255))
    add(tmp_path, "train", "b", mask(255))
    report = check(tmp_path)
    (line,) = report.problems
    assert "train: no mask has a labelled pixel" in line
    assert not any("no pixel is of class" in line for line in report.warnings)


def test_palettes_that_differ(root):
    palettes = ([0, 0, 0, 255, 0, 0, 0, 255, 0], [0, 0, 0, 0, 255, 0, 255, 0, 0])
    for name, palette in zip("ab", palettes, strict=True):
        image = Image.fromarray(mask(0, 1, 2))
        image.putpalette(palette)
        image.save(root / "masks" / "train" / f"{name}.png")
    (line,) = check_splits(*both(root)).problems
    assert "value 1 is #ff0000 in that of" in line
    assert "a.png' and #00ff00 in that of" in line
    assert "b.png'" in line


def test_shapes_are_clean():
    report = check_splits(Shapes("val")).reports[0]
    assert report.sizes == {"128x128": 200}
    assert sum(report.pixel_share) == pytest.approx(1)
    assert report.problems == report.warnings == ()


def both(root: Path):
    return open_dataset("folder", "train", root), open_dataset("folder", "val", root)


def test_no_overlap(root):
    assert overlap(*both(root)) == []
    assert overlap(Shapes("train"), Shapes("val")) == []


def test_overlap_by_content(root):
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    twin, copy = (add(root, split, name, mask(0), image) for split, name in (("train", "x"), ("val", "y")))
    add(root, "val", "z", mask(0), image)
    first, second = overlap(*both(root))
    assert f"'{copy}' is byte for byte the train image '{twin}'" in first
    assert "z.png" in second


def test_a_test_split_is_read_where_there_is_one(root, kdbench):
    """Layouts that name it among those that a finished study is scored on: broken files, values and copies of train."""
    check = ("data", "check", "--dataset", "folder", "--data-root", root)
    assert kdbench(*check).code == 0
    twin = root / "images" / "train" / "a.png"
    copy = add(root, "test", "t", mask(0, 1, 2), np.asarray(Image.open(twin)))
    add(root, "test", "u", mask(0, 9))
    add(root, "test", "lonely", mask(0)).with_name("lonely.png").unlink()
    done = kdbench(*check)
    assert (done.code, "has 3 problems" in done.err) == (2, True)
    assert "folder test: 2 images" in done.out
    assert f"test image '{copy}' is byte for byte the train image '{twin}'" in done.out
    assert "lonely.png' has no partner in" in done.out
    assert "u.png' holds the values [9], expected 0 to 2" in done.out


def test_overlap_by_name_is_one_line(root):
    for name in ("a", "b"):
        add(root, "val", name, mask(0))
    (line,) = overlap(*both(root))
    assert str(root / "images" / "val" / "a.png") in line
    assert str(root / "images" / "train" / "a.png") in line
    assert "2 such names" in line


def test_overlap_by_both_is_said_once(root):
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    for split in ("train", "val"):
        add(root, split, "same", mask(0), image)
    (line,) = overlap(*both(root))
    assert "byte for byte" in line


def test_tables(root):
    report = dataclasses.replace(check(root), sizes={f"{i}x9": 1 for i in range(12)})
    console = Console(width=100, record=True, file=io.StringIO())
    for table in report_tables(report):
        console.print(table)
    text = console.export_text()
    for part in ("folder train: 3 images", "[bold]house", "28.57%", "ignored", "7.14%", "0x9", "2 other sizes"):
        assert part in text
