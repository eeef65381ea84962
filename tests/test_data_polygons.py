"""Labels of polygons: COCO's, YOLO's and labelme's files, pixel by pixel."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from test_data_files import refused, save
from test_dataset_file import forget as forget
from test_dataset_file import write

from kdbench.data import open_dataset
from kdbench.errors import Missing

needs_pycocotools = pytest.mark.needs("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
HEIGHT, WIDTH = 8, 10


@pytest.fixture
def two(tmp_path):
    for name in "ab":
        save(tmp_path / "img" / f"{name}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def boxes(*found: tuple[int, int, int, int, int]) -> np.ndarray:
    """A label with rectangles of (class, left, top, right, bottom)."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for kind, left, top, right, bottom in found:
        label[top:bottom, left:right] = kind
    return label


def corners(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def description(labels: str, masks: str, classes: str) -> str:
    return (
        f'images = "img/*.png"\nmasks = "{masks}"\nlabels = "{labels}"\nsplit = {{ val = ["img/b.png"] }}\n'
        f"[classes]\n{classes}"
    )


@needs_pycocotools
def test_labelme(two):
    shapes = [
        {"label": "car", "points": [[2, 1], [6, 1], [6, 5], [2, 5]], "shape_type": "polygon"},
        {"label": "van", "points": [[5, 4], [9, 7]], "shape_type": "rectangle"},
        {"label": "blur", "points": [[0, 0], [2, 0], [2, 2], [0, 2]], "shape_type": "polygon"},
    ]
    for name in "ab":
        (two / "img" / f"{name}.json").write_text(json.dumps({"shapes": shapes}), encoding="utf-8")
    text = description("labelme", "img/{stem}.json", 'ground = []\ncar = []\nother = ["van"]\n')
    train = open_dataset(write(two, text.replace("[classes]", 'ignore = ["blur"]\n[classes]')), "train")
    np.testing.assert_array_equal(train[0].label, boxes((1, 2, 1, 6, 5), (2, 5, 4, 9, 7), (255, 0, 0, 2, 2)))
    train = open_dataset(write(two, text), "train")
    refused(lambda: train[0], "a.json' holds polygons of blur", "add them to a class or to ignore")
    shapes[0]["shape_type"] = "circle"
    (two / "img" / "a.json").write_text(json.dumps({"shapes": shapes}), encoding="utf-8")
    refused(lambda: train[0], "a.json' hold a circle", "polygons and rectangles")
    (two / "img" / "a.json").write_text("{}", encoding="utf-8")
    refused(lambda: train[0], "a.json' cannot be read (KeyError('shapes'))")


@needs_pycocotools
def test_yolo(two):
    (two / "labels").mkdir()
    for name in "ab":
        (two / "labels" / f"{name}.txt").write_text("0 0.2 0.25 0.6 0.25 0.6 0.75 0.2 0.75\n1 0 0 .1 0 .1 .5 0 .5\n")
    train = open_dataset(
        write(two, description("yolo", "labels/{stem}.txt", "ground = []\ncar = 0\nvan = 1\n")), "train"
    )
    np.testing.assert_array_equal(train[0].label, boxes((1, 2, 2, 6, 6), (2, 0, 0, 1, 4)))
    (two / "labels" / "a.txt").write_text("\n0 0.5 0.5 0.2 0.2\n")
    refused(lambda: train[0], "a.txt' line 2 holds a box", "three or more corners")


@needs_pycocotools
def test_coco(two):
    mask = pytest.importorskip("pycocotools.mask")
    code = mask.encode(np.asfortranarray(boxes((1, 7, 0, 10, 3))))
    document = {
        "images": [{"id": 4, "file_name": "img/a.png"}, {"id": 5, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "car"}, {"id": 9, "name": "person"}],
        "annotations": [
            {"image_id": 4, "category_id": 7, "segmentation": [corners(2, 1, 6, 5), corners(0, 6, 3, 8)]},
            {
                "image_id": 4,
                "category_id": 9,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            },
            # Uncompressed, as crowds are: 8 pixels down the first column, one column.
            {"image_id": 4, "category_id": 9, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 2, 78]}},
        ],
    }
    (two / "all.json").write_text(json.dumps(document), encoding="utf-8")
    file = write(two, description("coco", "all.json", "ground = []\nperson = []\ncar = []\n"))
    label = open_dataset(file, "train")[0].label
    expected = boxes((2, 2, 1, 6, 5), (2, 0, 6, 3, 8), (1, 7, 0, 10, 3), (1, 0, 0, 1, 2))
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_array_equal(open_dataset(file, "val")[0].label, boxes())
    document["images"] = document["images"][:1]
    (two / "all.json").write_text(json.dumps(document), encoding="utf-8")
    refused(lambda: open_dataset(file, "val")[0], "all.json' do not list the image 'b.png'")


@needs_pycocotools
@pytest.mark.parametrize("outline", [[2, 1, 6, 5], [2, 1]], ids=["two points", "one point"])
def test_an_outline_of_too_few_points_is_named(two, outline):
    document = {
        "images": [{"id": 4, "file_name": "a.png"}, {"id": 5, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [{"image_id": 4, "category_id": 7, "segmentation": [outline]}],
    }
    (two / "all.json").write_text(json.dumps(document), encoding="utf-8")
    train = open_dataset(write(two, description("coco", "all.json", "ground = []\ncar = []\n")), "train")
    refused(lambda: train[0], "an outline of car on 'a.png' cannot be drawn", "three corners or more")


@needs_pycocotools
def test_coco_frames_that_are_numbered_anew_in_each_folder(two):
    """Each image has the polygons of its own folder's frame of that number."""
    names = ("one/0.png", "two/0.png", "deep/two/0.png")
    for name in names:
        (two / "img" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(two / "img" / "a.png", two / "img" / name)
    (two / "img" / "a.png").unlink()
    document = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)]
        + [{"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 7, "segmentation": [corners(2, 1, 6, 5)]}],
    }
    (two / "all.json").write_text(json.dumps(document), encoding="utf-8")
    text = description("coco", "all.json", "ground = []\ncar = []\n").replace("img/*.png", "img/**/*.png")
    train = open_dataset(write(two, text), "train")
    labelled = [train.name_of(index) for index in range(len(train)) if train[index].label.any()]
    assert (len(train), labelled) == (3, ["img_two_0"])
    document["images"] = [{"id": index, "file_name": f"{index}/0.png"} for index in range(2)]
    document["annotations"] = []
    (two / "all.json").write_text(json.dumps(document), encoding="utf-8")
    refused(lambda: train[0], "list 2 images called '0.png' ('0/0.png', '1/0.png'), and", "ends in none of these")


def test_without_the_library_the_command_is_named(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    (two / "all.json").write_text("{}", encoding="utf-8")
    file = write(two, description("coco", "all.json", "ground = []\ncar = []\n"))
    refused(lambda: open_dataset(file, "train"), "pip install 'pycocotools", "kdbench[polygons]", kind=Missing)
