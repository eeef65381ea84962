"""VOC 2012 and SBD in miniature: the union of both, damaged copies, and downloads without a network."""

from __future__ import annotations

import http.client
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from test_data_decoding import save_palette
from test_data_files import IMAGE, ids, refused, save

from kdbench.data import open_dataset
from kdbench.data.voc2012 import CLASSES as VOC_CLASSES
from kdbench.errors import RunFailed


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
