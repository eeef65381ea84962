"""Datasets made of files: camvid, folder and voc2012 layouts in miniature, and what is said when they are broken."""

from __future__ import annotations

import http.client
import os
import shutil
import struct
import urllib.error
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from kdbench.data import open_dataset
from kdbench.data.base import pair_by_stem, read_image, read_mask, voc_palette
from kdbench.data.voc2012 import CLASSES as VOC_CLASSES
from kdbench.errors import BadInput, KdbenchError, RunFailed

SIZE = (6, 8)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def save_palette(path: Path, ids: np.ndarray) -> Path:
    """A mask as VOC stores it: palette PNG, index = class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette([channel for color in voc_palette(256) for channel in color])
    image.save(path)
    return path


def save_bits(path: Path, rows: list[bytes], width: int, bits: int) -> Path:
    """A greyscale PNG of less than 8 bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(png)
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
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    root = Path(os.environ.get("KDBENCH_CAMVID", beside))
    if not root.is_dir():
        pytest.skip("needs CamVid: set KDBENCH_CAMVID to its folder")
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
        (b"", ["lists 0 classes", "expected 2 to 255"]),
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


# ---------------------------------------------------------------- decoding


def test_images_of_other_modes(tmp_path):
    grey = save(tmp_path / "grey.png", IMAGE[..., 0])
    np.testing.assert_array_equal(read_image(grey), IMAGE[..., :1].repeat(3, 2))
    alpha = save(tmp_path / "alpha.png", np.dstack([IMAGE, ids(0, 255)]))
    np.testing.assert_array_equal(read_image(alpha), IMAGE)
    palette = Image.fromarray(IMAGE).convert("P")
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.int32), (".tif", np.float32)])
def test_deep_files(tmp_path, suffix, dtype):
    path = save(tmp_path / f"deep{suffix}", np.arange(48).reshape(SIZE).astype(dtype) * 500)
    refused(lambda: read_image(path), path, "has mode", "expected 8 bits a channel")
    refused(lambda: read_mask(path), path, "has mode", "expected one 8-bit channel", "save it with 8 bits")


def test_mask_modes(tmp_path):
    np.testing.assert_array_equal(read_mask(save_palette(tmp_path / "p.png", ids(0, 3, 255))), ids(0, 3, 255))
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", ids(0, 1).astype(bool))), ids(0, 1))
    rgb = save(tmp_path / "rgb.png", IMAGE)
    refused(lambda: read_mask(rgb), rgb, "mode RGB", "convert the colours to class ids")
    lossy = save(tmp_path / "lossy.jpg", ids(0, 1, 2))
    refused(lambda: read_mask(lossy), lossy, "is a JPEG", "PNG")


def test_masks_of_few_bits_are_read_as_stored(tmp_path):
    # Optimisers make these; Pillow stretches their values to 0 … 255.
    four = save_bits(tmp_path / "4.png", [b"\x01\x2f", b"\xab\xcd"], width=4, bits=4)
    np.testing.assert_array_equal(read_mask(four), [[0, 1, 2, 15], [10, 11, 12, 13]])
    two = save_bits(tmp_path / "2.png", [b"\x1b"], width=4, bits=2)
    np.testing.assert_array_equal(read_mask(two), [[0, 1, 2, 3]])


@pytest.mark.filterwarnings("ignore:.*EXIF data:UserWarning")  # Pillow's own remark on the cut TIFF
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_truncated_files(tmp_path, suffix):
    path = save(tmp_path / f"cut{suffix}", np.tile(IMAGE, (20, 20, 1)))
    whole = path.read_bytes()
    for length in (len(whole) // 2, 12, 0):
        path.write_bytes(whole[:length])
        for read, item in ((read_image, "image"), (read_mask, "mask")):
            if item == "mask" and length > 12:
                continue  # RGB is refused first
            refused(lambda read=read: read(path), f"{item} '{path}'", "replace or remove it")


def test_damaged_palette_mask(tmp_path):
    path = save_palette(tmp_path / "mask.png", ids(0, 1))
    path.write_bytes(path.read_bytes()[:-30])
    refused(lambda: read_mask(path), f"mask '{path}' cannot be decoded", "replace or remove it")


def test_not_an_image_and_no_file(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("hello")
    refused(lambda: read_image(text), text, "is not an image file")
    refused(lambda: read_mask(tmp_path / "gone.png"), tmp_path / "gone.png", "does not exist")


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", IMAGE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(lambda: read_image(path), path, "48 pixels", "exceeds limit")


# ---------------------------------------------------------------- voc2012


def make_voc(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    for split, names in (("train", ("t1", "t2")), ("val", ("v1",))):
        listing = base / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
        for name in names:
            save(base / "JPEGImages" / f"{name}.jpg", IMAGE)
            save_palette(base / "SegmentationClass" / f"{name}.png", ids(0, 15, 20, 255))


def make_sbd(root: Path) -> None:
    """SBD's splits cut across VOC's: of s1 t2 v1 | s2 t1, only s1 and s2 are new."""
    for split, names in (("train", ("v1", "s1", "t2")), ("val", ("t1", "s2"))):
        for name in names:
            save(root / "img" / f"{name}.jpg", IMAGE)
            (root / "cls").mkdir(exist_ok=True)
            label = {"Segmentation": ids(0, 7), "Boundaries": np.zeros(3)}
            savemat(root / "cls" / f"{name}.mat", {"GTcls": label}, do_compression=True)
        (root / "inst").mkdir(exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path)
    return tmp_path


def test_voc(voc):
    train = open_dataset("voc2012", "train", voc)
    assert [train[i].name for i in range(len(train))] == ["t1", "t2"]
    np.testing.assert_array_equal(train[0].label, ids(0, 15, 20, 255))
    assert train.classes == VOC_CLASSES
    assert train.palette[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert train.palette[20] == (0, 64, 128)


def test_sbd_adds_what_voc_does_not_have(voc):
    make_sbd(voc / "sbd")
    train = open_dataset("voc2012", "train", voc, sbd=True)
    assert [train[i].name for i in range(len(train))] == ["t1", "t2", "s1", "s2"]
    np.testing.assert_array_equal(train[0].label, ids(0, 15, 20, 255))  # VOC's own label, void included
    np.testing.assert_array_equal(train[2].label, ids(0, 7))
    assert len(open_dataset("voc2012", "val", voc, sbd=True)) == 1


def test_voc_missing(tmp_path):
    parts = (tmp_path, "VOC 2012's val split", "VOCdevkit/VOC2012/", "--download", "VOCtrainval_11-May-2012.tar")
    refused(lambda: open_dataset("voc2012", "val", tmp_path), *parts)
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)  # as after an interrupted extraction
    refused(lambda: open_dataset("voc2012", "val", tmp_path), *parts)


def test_voc_incomplete(voc):
    mask = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "t2.png"
    mask.unlink()
    refused(lambda: open_dataset("voc2012", "train", voc), mask, "1 such files", "--download")
    (voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_text("")
    refused(lambda: open_dataset("voc2012", "val", voc), "val split", "lacks any image")


def test_sbd_missing(voc):
    parts = (voc / "sbd", "SBD's train split", "img/, cls/, train.txt and val.txt", "--download", "benchmark.tgz")
    refused(lambda: open_dataset("voc2012", "train", voc, sbd=True), *parts)


def test_sbd_label_broken(voc):
    make_sbd(voc / "sbd")
    train = open_dataset("voc2012", "train", voc, sbd=True)
    path = voc / "sbd" / "cls" / "s1.mat"
    whole = path.read_bytes()
    for damaged in (b"", b"\0" * 400, whole[:-20], whole[:130]):
        path.write_bytes(damaged)
        refused(lambda: train[2], f"SBD label '{path}' cannot be read", "extract it again")
    savemat(path, {"other": 1})
    refused(lambda: train[2], path, "'GTcls'")
    savemat(path, {"GTcls": {"Segmentation": ids(0).astype(np.float64)}})
    refused(lambda: train[2], path, "type float64", "expected height x width of uint8")


@pytest.fixture
def archives(monkeypatch):
    """Stands in for the network: what torchvision asks for is 'fetched and extracted' in miniature, and listed."""
    from kdbench.torchvision_compat import torchvision

    fetched = []

    def fetch(url, root, filename, md5):
        fetched.append(filename)
        if "VOC" in filename:
            make_voc(Path(root))
        else:
            make_sbd(Path(root) / "benchmark_RELEASE" / "dataset")

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", fetch)
    monkeypatch.setattr(torchvision.datasets.sbd, "download_and_extract_archive", fetch)
    return fetched


def test_download_fetches_once(tmp_path, archives):
    for _ in range(2):
        assert len(open_dataset("voc2012", "train", tmp_path, sbd=True, download=True)) == 4
        assert archives == ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"]


def test_download_completes_an_interrupted_voc(voc, archives):
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "v1.jpg").unlink()
    assert len(open_dataset("voc2012", "val", voc, download=True)) == 1
    assert archives == ["VOCtrainval_11-May-2012.tar"]


def test_download_into_an_interrupted_sbd(voc, archives):
    (voc / "sbd" / "cls").mkdir(parents=True)
    parts = (voc / "sbd", "incomplete SBD (cls)", "remove these", "benchmark.tgz may stay")
    refused(lambda: open_dataset("voc2012", "train", voc, sbd=True, download=True), *parts)
    assert archives == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (urllib.error.URLError("no route to host"), "no route to host"),
        (RuntimeError("File not found or corrupted."), "File not found or corrupted."),
        (http.client.IncompleteRead(b""), "IncompleteRead"),
    ],
)
def test_download_fails(tmp_path, monkeypatch, error, said):
    from kdbench.torchvision_compat import torchvision

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", fail)
    call = lambda: open_dataset("voc2012", "train", tmp_path, download=True)  # noqa: E731
    refused(call, "--download", tmp_path, said, "VOCtrainval_11-May-2012.tar", "by hand", kind=RunFailed)


# ---------------------------------------------------------------- open_dataset


def test_open_dataset_refuses(tmp_path):
    refused(lambda: open_dataset("cityscapes", "val", tmp_path), "--dataset: got 'cityscapes'", "shapes, camvid")
    refused(lambda: open_dataset("shapes", "test"), "split: got 'test'", "expected one of train, val")
    refused(lambda: open_dataset("camvid", "val", tmp_path, sbd=True), "--sbd", "voc2012", "'camvid'")
    refused(lambda: open_dataset("shapes", "val", download=True), "--download", "'shapes'")
    for name in ("camvid", "voc2012", "folder"):
        refused(lambda name=name: open_dataset(name, "val"), "--data-root: needed", name)


def test_open_shapes_needs_no_root():
    assert open_dataset("shapes", "val").name == "shapes"
