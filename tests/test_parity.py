"""`kdbench parity` and `kdbench predict` on files of ours and from elsewhere; by value in test_parity_values.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from kdbench.api import load, open_predictor
from kdbench.backends import load_backend
from kdbench.comparison.evaluate import evaluate
from kdbench.comparison.parity import compare_outputs
from kdbench.data.palette import distinct_palette
from kdbench.data.shapes import Shapes
from kdbench.errors import BadInput
from tests.exports import SIZE
from tests.onnx_models import FLOAT, UINT8, nchw_logits, nhwc_mask, save_model


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


def bright(path, threshold):
    """A mask that is 255 where a pixel's mean is above the threshold, and 0 elsewhere."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("ReduceMean", ["float"], ["grey"], axes=[3], keepdims=0),
        helper.make_node("Greater", ["grey", "threshold"], ["above"]),
        helper.make_node("Where", ["above", "white", "black"], ["mask"]),
    ]
    values = {"threshold": np.float32(threshold), "white": np.uint8(255), "black": np.uint8(0)}
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in values.items()]
    return save_model(path, {"image": (UINT8, [1, 64, 64, 3])}, {"mask": (UINT8, [1, 64, 64])}, nodes, constants)


def test_masks_of_0_and_255_are_compared_where_they_are_255(tmp_path, kdbench, photos):
    reference, nothing = bright(tmp_path / "a.onnx", 100), bright(tmp_path / "b.onnx", 1000)
    done = kdbench("parity", reference, nothing, "--images", photos, "--json", "-")
    document = json.loads(done.out)
    assert (done.code, document["verdict"], document["classes_seen"]) == (1, "drift", 2), done.err
    assert kdbench("parity", reference, bright(tmp_path / "c.onnx", 100), "--images", photos).code == 0


def test_a_loose_file_is_not_run_elsewhere_than_was_asked(tmp_path, kdbench, photos):
    path = nchw_logits(tmp_path / "a.onnx")
    for flags in (("--device", "cuda"), ("--backend", "openvino")):
        done = kdbench("predict", path, photos, *flags)
        assert (done.code, f"{flags[0]}: got '{flags[1]}' for '{path}'" in done.err) == (2, True)
    assert kdbench("predict", path, photos, "--device", "cpu", "--backend", "onnx").code == 0  # where it runs
    for open_it in (load, lambda path, device: open_predictor(path, device=device).__enter__()):
        with pytest.raises(BadInput, match="device: got 'cuda' for"):
            open_it(path, device="cuda")


def test_8_bits_without_labels_are_not_judged(tmp_path, kdbench, photos):
    """Whatever the file is: 8 bits may change pixels, and how much that costs labels tell."""
    files = nchw_logits(tmp_path / "a.onnx"), nchw_logits(tmp_path / "b.onnx", seed=5)
    done = kdbench("parity", *files, "--images", photos, "--tolerance", "int8", "--json", "-")
    document = json.loads(done.out)
    assert (done.code, document["verdict"]) == (3, "not judged")
    assert document["reason"].startswith("no labels, so the loss of mIoU was not judged")
    assert "same model" not in done.err


def test_an_error_is_in_the_json_that_a_program_reads(tmp_path, kdbench, photos):
    done = kdbench("parity", tmp_path / "none.onnx", tmp_path / "b.onnx", "--images", photos, "--json", "-")
    assert done.code == 2
    assert json.loads(done.out) == {"schema_version": 1, "error": done.err.strip().removeprefix("kdbench: ")}
    files = nchw_logits(tmp_path / "a.onnx"), nchw_logits(tmp_path / "b.onnx", seed=5)
    done = kdbench("parity", *files, "--images", photos, "--json", "-")
    assert json.loads(done.out)["error"].startswith(f"'{tmp_path / 'b.onnx'}' is not the model of")


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
