"""Parity: by value on hand-made masks, and `kdbench parity` on files of ours and from elsewhere."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from exporters.parity import Parity, compare_outputs, drift, require_parity
from kdbench.backends import load_backend
from kdbench.comparison.evaluate import evaluate
from kdbench.data import Sample
from kdbench.data.palette import distinct_palette
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput, RunFailed
from tests.exports import SIZE
from tests.onnx_models import nchw_logits, nhwc_mask

NOTHING = np.zeros((3, 3), dtype=np.int64)


def parity_of(agreement=1.0, before=None, after=None, finite=True):
    """A parity of 100,000 pixels with the given share of equal classes, and the IoU of the only class labelled."""
    same = round(100_000 * agreement)
    between = np.array([[same, 100_000 - same], [0, 0]])
    against = [np.diag([1, 1]) * 0 if miou is None else np.array([[round(1e6 * miou), round(1e6 * (1 - miou))], [0, 0]])
               for miou in (before, after)]  # fmt: skip
    return Parity(("a", "b"), against[0], against[1], between, 4, None, finite)


class Fixed:
    """A backend that returns what it was given, in turn."""

    def __init__(self, results, output="mask", size=(2, 2)):
        self.results, self.output, self.size = iter(results), output, size

    def prepare(self, image):
        return image

    def infer(self, batch):
        return next(self.results)


def masks(*maps):
    return [np.array(m, dtype=np.uint8)[None] for m in maps]


def test_by_hand():
    image = np.zeros((2, 2, 3), np.uint8)
    labels = [np.array(m, np.uint8) for m in ([[0, 0], [1, 1]], [[2, 2], [255, 255]])]
    samples = [Sample(str(i), image, label) for i, label in enumerate(labels)]
    reference = Fixed(masks([[0, 0], [1, 1]], [[2, 0], [0, 0]]))
    candidate = Fixed(masks([[0, 1], [1, 1]], [[2, 0], [1, 0]]))
    parity = compare_outputs(reference, candidate, samples, ("a", "b", "c"))
    report = parity.as_json()
    assert report["pixel_agreement"] == 6 / 8
    # class a: reference 2 right of 3 (one label c taken for a); candidate 1 right of 3
    assert report["iou_reference"] == pytest.approx([2 / 3, 1, 1 / 2])
    assert report["iou_candidate"] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert report["miou_reference"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert report["worse_classes"] == ["a", "b"]
    assert report["class_agreement"] == pytest.approx([3 / 5, 2 / 4, 1])
    assert (report["images"], report["max_logit_difference"], report["finite"]) == (2, None, True)


def test_without_labels_and_with_absent_classes():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 255, np.uint8))
    parity = compare_outputs(Fixed(masks([[0, 0], [0, 0]])), Fixed(masks([[0, 0], [0, 1]])), [sample], ("a", "b", "c"))
    report = parity.as_json()
    assert (report["miou_reference"], report["miou_candidate"], report["worse_classes"]) == (None, None, [])
    assert report["class_agreement"] == [3 / 4, 0, None]
    assert all(math.isnan(change) for change in parity.class_changes())
    json.dumps(report, allow_nan=False)


def test_logits_and_their_difference():
    sample = Sample("x", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    logits = np.zeros((1, 3, 2, 2), np.float32)
    other = logits.copy()
    other[0, 2, 1, 1] = -0.25
    result = compare_outputs(Fixed([logits], "logits"), Fixed([other], "logits"), [sample], "abc")
    assert (result.max_logit_difference, result.pixel_agreement) == (0.25, 1)
    broken = other.copy()
    broken[0, 0, 0, 0] = np.nan
    result = compare_outputs(Fixed([logits], "logits"), Fixed([broken], "logits"), [sample], "abc")
    assert (result.finite, result.max_logit_difference) == (False, None)
    json.dumps(result.as_json(), allow_nan=False)


def test_numbers_are_those_of_compare(exported):
    scenes = Shapes("val")
    backends = [load_backend(b, p, output="mask", threads=1) for b, p in (
        ("torch", exported.checkpoint("baseline")), ("onnx", exported.export("baseline", "onnx", "fp32", "mask")),
    )]  # fmt: skip

    class FirstTwenty(Shapes):
        def __len__(self):
            return 20

    few = FirstTwenty("val")
    parity = compare_outputs(*backends, [scenes[i] for i in range(20)], scenes.classes)
    assert parity.miou_reference == evaluate(backends[0], few).miou
    assert parity.miou_candidate == evaluate(backends[1], few).miou


@pytest.mark.parametrize(
    ("parity", "precision", "message"),
    [
        (parity_of(0.999), "fp32", None),
        (parity_of(0.9989), "fp32", "99.890% of pixels have PyTorch's class on 4 images, expected at least 99.9%"),
        (parity_of(0.995), "fp16", None),
        (parity_of(0.9949), "fp16", "99.490% of pixels have PyTorch's class on 4 images, expected at least 99.5%"),
        (parity_of(0.5), "int8", None),  # without labels int8 cannot be judged
        (parity_of(0.5, 0.9, 0.89001), "int8", None),
        (
            parity_of(1.0, 0.9, 0.88),
            "int8",
            "mIoU 0.8800 on 4 images, PyTorch has 0.9000, expected to lose at most 0.0100",
        ),
        (parity_of(1.0, finite=False), "int8", "outputs hold NaN or infinity"),
    ],
)
def test_tolerances(parity, precision, message):
    if message is None:
        assert drift(parity, precision) is None
        require_parity(parity, precision, "x")
    else:
        with pytest.raises(RunFailed, match="--allow-drift") as caught:
            require_parity(parity, precision, "x")
        assert message in str(caught.value)


# The command line


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(Shapes("val")[index].image).save(folder / f"{index}.png")
    return folder


def test_layouts_and_outputs_of_one_network_are_the_same_model(tmp_path, kdbench, photos):
    """A float N x 3 x H x W file that returns logits, and a uint8 N x H x W x 3 one that returns class ids."""
    a, b = nchw_logits(tmp_path / "a.onnx"), nhwc_mask(tmp_path / "b.onnx")
    done = kdbench("parity", a, b, "--images", photos, "--json", tmp_path / "p.json")
    assert done.code == 0, done.err
    assert "3 images, 100.000% of pixels have the same class" in done.out
    assert "'a.onnx' takes floats and does not say how images are normalised: ImageNet's mean" in done.out
    report = json.loads((tmp_path / "p.json").read_text())
    assert (report["verdict"], report["reason"], report["pixel_agreement"]) == ("same", None, 1.0)


def test_another_network_is_drift(tmp_path, kdbench, photos):
    done = kdbench("parity", nchw_logits(tmp_path / "a.onnx"), nchw_logits(tmp_path / "b.onnx", seed=5), "--images",
                   photos, "--json", "-")  # fmt: skip
    assert done.code == 1
    assert "b.onnx' is not the model of" in done.err
    document = json.loads(done.out.strip().splitlines()[-1])
    assert len(done.out.strip().splitlines()) == 1
    assert (document["verdict"], document["images"]) == ("drift", 3)
    assert document["max_logit_difference"] > 0.1
    assert document["pixel_agreement"] < 0.9


def test_our_files_bring_their_dataset_and_precision(exported, kdbench):
    fp32 = exported.export("baseline", "onnx", "fp32", "mask")
    done = kdbench("parity", fp32, exported.export("baseline", "onnx", "fp32", "logits"), "--limit", "4")
    assert done.code == 0, done.err
    assert "4 images, 100.000%" in done.out
    assert "IoU reference" in done.out  # labelled
    assert "same model, by the tolerance of fp32" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected real images to compare on: give --images FOLDER, or --dataset NAME --data-root FOLDER"),
        (["--dataset", "camvid"], "give --images FOLDER, or --dataset camvid --data-root FOLDER"),
        (["--images", "x", "--dataset", "shapes"], "--images and --dataset: got both"),
        (["--images", "nowhere"], "image 'nowhere' does not exist"),
        (["--tolerance", "bf16"], "--tolerance: got 'bf16', expected one of fp32, fp16, int8"),
        (["--mean", "1,2"], "--mean: got '1,2', expected three numbers"),
        (["--dataset", "shapes"], "got 10 and 4 classes, expected the same everywhere"),
    ],
)
def test_bad_flags(tmp_path, kdbench, flags, message):
    done = kdbench("parity", nchw_logits(tmp_path / "a.onnx"), nchw_logits(tmp_path / "b.onnx"), *flags)
    assert (done.code, message in done.err) == (2, True), done.err
    assert len(done.err.strip().splitlines()) == 1


def test_no_image():
    with pytest.raises(BadInput, match="got no image"):
        compare_outputs(Fixed([]), Fixed([]), [], "ab")


# predict


def test_predict_needs_nothing_but_the_file(exported, kdbench, photos, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for output in ("mask", "logits"):
        model = alone / f"{output}-model.onnx"
        model.write_bytes(exported.export("baseline", "onnx", "fp32", output).read_bytes())
        done = kdbench("predict", model, photos)
        assert done.code == 0, done.err
        made = Image.open(alone / "predictions" / f"{output}-model" / "0-mask.png")
        reference = load_backend("torch", exported.checkpoint("baseline"), output="mask", threads=1)
        from kdbench.data.preprocessing import resize_image, resize_label

        image = Shapes("val")[0].image
        wanted = resize_label(reference.infer(resize_image(image, SIZE)[None])[0], image.shape[:2])
        assert (np.asarray(made) == wanted).mean() > 0.999
        assert made.getpalette()[3:6] == list(Shapes("val").palette[1])


def test_predict_with_a_file_from_elsewhere(tmp_path, kdbench, photos):
    model = nchw_logits(tmp_path / "theirs.onnx")
    done = kdbench("predict", model, photos / "0.png", "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert "ImageNet's mean" in done.err
    made = Image.open(tmp_path / "out" / "0-mask.png")
    assert made.getpalette()[:6] == [value for color in distinct_palette(2) for value in color]
    assert set(np.unique(np.asarray(made))) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "expected --method NAME, or an .onnx file before the images, and not both"),
        (["--method", "baseline", "m.onnx", "x.png"], "and not both"),
        (["m.onnx"], "expected images, or --video FILE"),
        (["--method", "baseline", "--size", "8x8", "x.png"], "--size: expected with an .onnx file alone"),
    ],
)
def test_predict_flags(kdbench, arguments, message):
    done = kdbench("predict", *arguments)
    assert (done.code, message in done.err) == (2, True), done.err
