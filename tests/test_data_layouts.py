"""Cityscapes and ADE20K in miniature: which value is which class."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_data_files import IMAGE, SIZE, ids, refused, save

from kdbench.data import open_dataset
from kdbench.data.check import check_splits
from kdbench.data.faults import collected


@pytest.fixture
def city(tmp_path):
    """Two cities in train, one in val; ids 7 road, 26 car, 1 ego vehicle, 33 bicycle."""
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",))):
        for name in cities:
            frame = f"{name}_000000_000019"
            save(tmp_path / "leftImg8bit" / split / name / f"{frame}_leftImg8bit.png", IMAGE)
            save(tmp_path / "gtFine" / split / name / f"{frame}_gtFine_labelIds.png", ids(7, 26, 1, 33))
            save(tmp_path / "gtFine" / split / name / f"{frame}_gtFine_color.png", IMAGE)
    return tmp_path


def test_cityscapes_by_ids(city):
    train = open_dataset("cityscapes", "train", city)
    assert (len(train), len(train.classes), len(train.palette)) == (2, 19, 19)
    assert [train.classes[i] for i in (0, 13, 18)] == ["road", "car", "bicycle"]
    np.testing.assert_array_equal(train[1].label, ids(0, 13, 255, 18))
    assert train[1].name == "bochum_000000_000019_leftImg8bit"
    val = city / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png"
    save(val, ids(7, 34, 255))
    refused(lambda: open_dataset("cityscapes", "val", city)[0], val, "[34]")


def test_cityscapes_by_train_ids(city):
    for mask in city.glob("gtFine/*/*/*_labelIds.png"):
        save(mask.with_name(mask.name.replace("labelIds", "labelTrainIds")), ids(0, 13, 255, 18))
    np.testing.assert_array_equal(open_dataset("cityscapes", "val", city)[0].label, ids(0, 13, 255, 18))


def test_cityscapes_that_is_incomplete(city):
    refused(lambda: open_dataset("cityscapes", "val", city / "gtFine"), "has no leftImg8bit/val/CITY/", "--data-root")
    next(city.glob("gtFine/train/bochum/*_labelIds.png")).unlink()
    refused(
        lambda: open_dataset("cityscapes", "train", city), "1 images have no *_gtFine_labelIds.png", "bochum_000000"
    )
    with collected() as faults:
        assert check_splits(open_dataset("cityscapes", "train", city)).reports[0].images == 1
    assert len(faults) == 1


def test_ade20k(tmp_path):
    for folder in ("training", "validation"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.fromarray(IMAGE).save(tmp_path / "images" / folder / "ADE_1.jpg")
        save(tmp_path / "annotations" / folder / "ADE_1.png", ids(0, 1, 21, 150))
    val = open_dataset("ade20k", "val", tmp_path)
    assert (len(val.classes), len(val.palette)) == (150, 150)
    assert [val.classes[i] for i in (0, 20, 149)] == ["wall", "car", "flag"]
    np.testing.assert_array_equal(val[0].label, ids(255, 0, 20, 149))
    assert val[0].image.shape == (*SIZE, 3)
    save(tmp_path / "annotations" / "validation" / "ADE_1.png", ids(151))
    refused(lambda: open_dataset("ade20k", "val", tmp_path)[0], "[151]", "1 to 150 (150 classes)")
    refused(lambda: open_dataset("ade20k", "train", tmp_path / "images"), "ADEChallengeData2016/")
