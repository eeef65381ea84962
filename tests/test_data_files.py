"""Datasets made of files: camvid and folder layouts in miniature, and what is said when they are broken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import open_dataset
from kdbench.data.base import pair_by_stem
from kdbench.errors import BadInput, KdbenchError
from tests.conftest import REPOSITORY

SIZE = (6, 8)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def ids(*values: int) -> np.ndarray:
    """A mask whose columns take ``values`` in turn."""
    return np.resize(np.array(values, dtype=np.uint8), SIZE[1])[None].repeat(SIZE[0], 0)


def refused(call, *parts: object, kind: type[KdbenchError] = BadInput) -> str:
    """The error of ``call()``: of that kind, one line, and with every part in it."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
    return text


# ---------------------------------------------------------------- camvid


@pytest.fixture
def camvid(tmp_path):
    root = tmp_path / "CamVid"
    for split, names in (("train", ("b", "a")), ("val", ("c",))):
        for name in names:
            save(root / split / f"{name}.jpg", IMAGE)
            save(root / f"{split}annot" / f"{name}.png", ids(0, 10, 11, 255))
    return root


@pytest.fixture(scope="session")
def camvid_root():
    root = Path(os.environ.get("KDBENCH_CAMVID", REPOSITORY / "data" / "camvid"))
    if not root.is_dir():
        pytest.skip("needs CamVid in data/camvid, or KDBENCH_CAMVID set to its folder")
    return root


def test_camvid(camvid):
    train = open_dataset("camvid", "train", camvid)
    assert [train[i].name for i in range(len(train))] == ["a", "b"]
    assert train[0].image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(train[0].label, ids(0, 10, 255, 255))
    assert len(train.classes) == len(train.palette) == 11


def test_camvid_with_png_images(camvid):
    save(camvid / "val" / "c.png", IMAGE)
    (camvid / "val" / "c.jpg").unlink()
    np.testing.assert_array_equal(open_dataset("camvid", "val", camvid)[0].image, IMAGE)


def test_camvid_root_one_level_off(camvid):
    for root in (camvid.parent, camvid / "train"):
        missing = f"dataset folder '{root / 'train'}' does not exist"
        refused(lambda root=root: open_dataset("camvid", "train", root), missing, f"which '{camvid}' does")


def test_camvid_root_elsewhere(tmp_path):
    root = tmp_path / "nothing"
    text = refused(lambda: open_dataset("camvid", "val", root), root / "val", "trainannot/", "--data-root")
    assert "which '" not in text


def test_real_camvid(camvid_root):
    train, val = (open_dataset("camvid", split, camvid_root) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    for sample in (train[0], train[366], val[100]):
        assert sample.image.shape == (360, 480, 3)
        assert sample.label.shape == (360, 480)
        assert set(np.unique(sample.label)) <= {*range(11), 255}
    void = np.asarray(Image.open(train.pairs[0][1])) == 11
    assert void.any()
    np.testing.assert_array_equal(train[0].label == 255, void)


# ---------------------------------------------------------------- folder


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / "images" / split / f"{split}.png", IMAGE)
        save(tmp_path / "masks" / split / f"{split}.png", ids(0, 1, 2, 255))
    (tmp_path / "classes.txt").write_text("ground\nhouse\ntree\n\n", encoding="utf-8")
    return tmp_path


def test_folder(folder):
    val = open_dataset("folder", "val", folder)
    assert val.classes == ("ground", "house", "tree")
    assert len(val) == 1
    np.testing.assert_array_equal(val[0].image, IMAGE)
    np.testing.assert_array_equal(val[0].label, ids(0, 1, 2, 255))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["lists 0 classes", "expected 2 to 254"]),
        (b"only\n", ["lists 1 classes"]),
        ("\n".join(f"c{i}" for i in range(256)).encode(), ["lists 256 classes"]),
        (b"a\nb\na\n", ["lists 'a' 2 times", "expected once"]),
        (b"a\n\nb\n", ["line 2 is empty", "line numbers are the class ids"]),
        (b"a\n\xff\xfe\n", ["cannot be read as UTF-8", "save it as UTF-8"]),
    ],
)
def test_bad_classes_file(folder, content, parts):
    (folder / "classes.txt").write_bytes(content)
    refused(lambda: open_dataset("folder", "val", folder), folder / "classes.txt", *parts)


def test_classes_file_with_byte_order_mark_and_windows_line_ends(folder):
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbfground\r\nhouse\r\ntree\r\n")
    assert open_dataset("folder", "val", folder).classes == ("ground", "house", "tree")


def test_classes_file_missing(folder):
    (folder / "classes.txt").unlink()
    refused(lambda: open_dataset("folder", "val", folder), folder / "classes.txt", "does not exist", "images/train")


def test_folder_missing(folder):
    shutil.rmtree(folder / "masks" / "val")
    refused(lambda: open_dataset("folder", "val", folder), folder / "masks" / "val", "does not exist", "masks/val")


def test_folder_without_images(folder):
    (folder / "images" / "val" / "val.png").rename(folder / "images" / "val" / "val.gif")
    refused(lambda: open_dataset("folder", "val", folder), folder / "images" / "val", "holds no image files", ".jpeg")


def test_image_without_mask_and_mask_without_image(folder):
    extra = [save(folder / "images" / "val" / f"x{i}.png", IMAGE) for i in range(2)]
    refused(lambda: open_dataset("folder", "val", folder), extra[0], folder / "masks" / "val", "2 such files")
    for path in extra:
        path.unlink()
    mask = save(folder / "masks" / "val" / "y.png", ids(0))
    refused(lambda: open_dataset("folder", "val", folder), mask, folder / "images" / "val", "1 such files")


def test_two_images_of_one_name(folder):
    jpeg = save(folder / "images" / "val" / "val.jpg", IMAGE)
    refused(lambda: open_dataset("folder", "val", folder), "'val", jpeg.name, "val.png", "remove one of the two")


def test_hidden_files_are_passed_over(folder):
    (folder / "images" / "val" / "._val.png").write_bytes(b"resource fork")
    assert len(open_dataset("folder", "val", folder)) == 1


def test_pairs_are_sorted_by_name(tmp_path):
    for name in ("b", "c", "a"):
        save(tmp_path / "i" / f"{name}.PNG", IMAGE)
        save(tmp_path / "m" / f"{name}.png", ids(0))
    assert [image.stem for image, _ in pair_by_stem(tmp_path / "i", tmp_path / "m", "")] == ["a", "b", "c"]


def test_unknown_mask_values(folder):
    mask = save(folder / "masks" / "val" / "val.png", ids(0, 3, 200, 255))
    refused(lambda: open_dataset("folder", "val", folder)[0], mask, "[3, 200]", "0 to 2 (3 classes)", "255")


def test_sizes_differ(folder):
    image = save(folder / "images" / "val" / "val.png", IMAGE[:4])
    mask = folder / "masks" / "val" / "val.png"
    refused(lambda: open_dataset("folder", "val", folder)[0], image, "4x8", mask, "6x8", "must be the same size")


def test_sizes_differ_because_of_exif(folder):
    (folder / "images" / "val" / "val.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "images" / "val" / "val.jpg", IMAGE.transpose(1, 0, 2), exif=exif)
    refused(lambda: open_dataset("folder", "val", folder)[0], "8x6", "6x8", "EXIF orientation 6 into the pixels")


# ---------------------------------------------------------------- open_dataset


def test_open_dataset_refuses(tmp_path):
    refused(
        lambda: open_dataset("cityscape", "val", tmp_path), "--dataset: got 'cityscape'", "shapes, materials, camvid"
    )
    refused(lambda: open_dataset("shapes", "test"), "split: got 'test'", "expected one of train, val")
    refused(lambda: open_dataset("camvid", "val", tmp_path, sbd=True), "--sbd", "voc2012", "'camvid'")
    refused(lambda: open_dataset("shapes", "val", download=True), "--download", "'shapes'")
    for name in ("camvid", "voc2012", "folder"):
        refused(lambda name=name: open_dataset(name, "val"), "--data-root: needed", name)


def test_open_shapes_needs_no_root():
    assert open_dataset("shapes", "val").name == "shapes"
