"""``kdbench import``: every kind of file becomes the same model, by value; and what is not certain is asked for."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from exporters.import_file import ImportOptions, import_file
from kdbench.backends import load_backend
from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import Reading, possible_axes
from kdbench.comparison.readings import choose_reading, score_readings, share_ahead, usual_readings
from kdbench.data.normalisation import MEAN, STD, Input
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree
from tests.imports import CLASSES, SIZE, Painted, Stranger, scores, weights, write_folder
from tests.onnx_models import FLOAT16, UINT8

BGR = Input((0.406, 0.456, 0.485), (0.225, 0.224, 0.229), space="BGR")
RAW = Input((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255)
READINGS = usual_readings(floats=True, bgr=None)


def take(tmp_path, stranger, split, reading=None, **options):
    """Import a file; the sidecar, and the wrapped file as everybody loads it."""
    path = stranger.write(tmp_path / "theirs.onnx", **options)
    tree = RunTree(tmp_path / "runs", "painted")
    taken = import_file(path, tree, split, ImportOptions("theirs", reading or Reading()))
    backend = load_backend("onnx", tree.export("theirs", "onnx", "fp32", "mask"), output="mask", threads=1)
    return taken, backend, tree


def require_same(backend, split, expected=None):
    """The wrapped file's masks are those that the network gives by hand."""
    for index in range(len(split)):
        sample = split[index]
        mask = backend.infer(backend.prepare(sample.image))[0]
        wanted = sample.label if expected is None else expected(sample.image)
        assert (mask == wanted).mean() >= 0.9999


@pytest.mark.parametrize("wanted", [wanted for _, wanted in READINGS], ids=[title for title, _ in READINGS])
def test_the_right_reading_is_found(tmp_path, wanted):
    split = Painted(wanted)
    taken, backend, _ = take(tmp_path, Stranger(), split)
    assert taken.sidecar["input"] == wanted.as_json()
    assert taken.sidecar["miou"] == pytest.approx(1.0)
    assert len(taken.sidecar["readings"]) == 8
    assert "on 8 images" in taken.sidecar["assumed"][0]
    require_same(backend, split)


SAME = {
    "nhwc": (Stranger(channels_last=True, out_last=True), Input()),
    "half": (Stranger(dtype=FLOAT16), Input()),
    "int32 ids": (Stranger(out="ids", ids=TensorProto.INT32), Input()),
    "int64 ids": (Stranger(out="ids"), BGR),
    "uint8 ids with a channel": (Stranger(out="ids1", ids=UINT8), Input()),
    "ids with a last channel": (Stranger(out="ids1", out_last=True), RAW),
    "uint8 nhwc": (Stranger(dtype=UINT8, channels_last=True, baked=Input()), Input()),
    "uint8 nchw": (Stranger(dtype=UINT8, baked=RAW), RAW),
    "uint8 bgr": (Stranger(dtype=UINT8, channels_last=True, baked=BGR), BGR),
    "names that ours have": (Stranger(names=("image", "mask")), Input()),
    "old opset": (Stranger(opset=11), Input()),
    "named domain": (Stranger(domain="ai.onnx"), Input()),
}


@pytest.mark.parametrize(("stranger", "wanted"), SAME.values(), ids=SAME)
def test_kinds_of_files(tmp_path, stranger, wanted):
    split = Painted(wanted)
    taken, backend, tree = take(tmp_path, stranger, split)
    require_same(backend, split)
    assert (taken.sidecar["input"]["space"], taken.sidecar["size"]) == (wanted.space, list(SIZE))
    # Weights and biases, the network's own normalisation, and nothing of what was put around it.
    assert taken.sidecar["params"] == CLASSES * 4 + 6 * (stranger.baked is not None)
    logits = tree.export("theirs", "onnx", "fp32", "logits")
    assert logits.is_file() == (stranger.dtype != UINT8 and not stranger.out.startswith("ids"))
    if logits.is_file():
        engine = load_backend("onnx", logits, output="logits", threads=1)
        image = split[0].image
        assert np.allclose(engine.infer(engine.prepare(image))[0], scores(image, wanted), atol=2e-2)


def test_a_coarse_grid_and_an_open_size(tmp_path):
    import torch
    import torch.nn.functional as F

    def upsampled(image):
        pooled = F.avg_pool2d(torch.from_numpy(scores(image, Input())).float()[None], 2)
        return F.interpolate(pooled, size=SIZE, mode="bilinear", align_corners=False)[0].argmax(0).numpy()

    split = Painted(label=upsampled)
    with pytest.raises(BadInput, match="whose height and width are open: give --size"):
        take(tmp_path, Stranger(coarse=True, open_size=True), split)
    _, backend, _ = take(tmp_path, Stranger(coarse=True, open_size=True), split, Reading(size=SIZE))
    require_same(backend, split)


@pytest.mark.parametrize(
    ("out", "threshold", "used"),
    [("binary", None, 0.0), ("probability", None, 0.5), ("binary", 0.25, 0.25), ("probability", 0.25, 0.25)],
)
def test_one_channel_with_a_threshold(tmp_path, out, threshold, used):
    def above(image):
        logit = scores(image, Input())[1]
        return (logit if out == "binary" else 1 / (1 + np.exp(-logit))) > used

    class Two(Painted):
        classes, palette = ("no", "yes"), ((0, 0, 0), (255, 255, 255))

    split = Two(label=above)
    taken, backend, tree = take(tmp_path, Stranger(out=out), split, Reading(mean=MEAN, std=STD, threshold=threshold))
    require_same(backend, split)
    assert taken.sidecar["source"]["output"]["threshold"] == used
    assert (f"one channel, with the threshold {used:g}" in taken.sidecar["assumed"]) == (threshold is None)
    logits = load_backend("onnx", tree.export("theirs", "onnx", "fp32", "logits"), output="logits", threads=1)
    image = split[0].image
    assert (logits.infer(logits.prepare(image))[0].argmax(0) == above(image)).mean() >= 0.9999


def test_two_outputs_are_listed_and_chosen(tmp_path):
    split = Painted()
    with pytest.raises(BadInput, match=r"has 2 outputs: 'aux' float32 \[1, 4, 64, 96\], 'scores' float32 .*--output-n"):
        take(tmp_path, Stranger(auxiliary=True), split)
    with pytest.raises(BadInput, match="--output-name: got 'nothing', .* returns aux, scores"):
        take(tmp_path, Stranger(auxiliary=True), split, Reading(output="nothing"))
    _, backend, tree = take(tmp_path, Stranger(auxiliary=True), split, Reading(output="scores"))
    require_same(backend, split)
    wrapped = onnx.load(tree.export("theirs", "onnx", "fp32", "mask")).graph
    assert "Neg" not in [node.op_type for node in wrapped.node]


def test_external_data(tmp_path):
    split = Painted()
    taken, backend, _ = take(
        tmp_path, Stranger(), split, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()  # nothing needs it any more
    require_same(backend, split)
    assert taken.sidecar["source"]["external"] == ["weights.bin"]


def test_our_own_metadata_is_believed(tmp_path):
    wanted = Input((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    split = Painted(wanted)
    path = Stranger().write(tmp_path / "theirs.onnx")
    model = onnx.load(path)
    entry = {"schema_version": 1, "normalisation": wanted.as_json()}
    model.metadata_props.add(key="kdbench", value=json.dumps(entry))
    onnx.save(model, path)
    taken = import_file(path, RunTree(tmp_path / "runs", "painted"), split, ImportOptions("theirs"))
    assert (taken.sidecar["input"], taken.sidecar["readings"]) == (wanted.as_json(), [])
    assert taken.sidecar["miou"] == pytest.approx(1.0)


# Readings


def test_readings_that_give_the_same_masks_are_one(tmp_path):
    """Without a bias the range only scales the logits."""

    def by_weights(image):
        return np.einsum("hwk,ck->chw", image / 255, weights()[0]).argmax(0)

    taken, _, _ = take(tmp_path, Stranger(bias=False), Painted(label=by_weights))
    assert taken.sidecar["input"] == Input((0.0,) * 3, (1.0,) * 3).as_json()


def noise(image):
    return np.random.default_rng(int(image[0, 0].sum())).integers(0, CLASSES, image.shape[:2])


def test_a_reading_that_does_not_win_clearly_is_asked_for(tmp_path, kdbench):
    path = Stranger().write(tmp_path / "theirs.onnx")
    root = write_folder(tmp_path / "data", label=noise)
    about = ["--name", "theirs", "--dataset", "folder", "--data-root", root, "--runs", tmp_path / "runs"]
    done = kdbench("import", path, *about)
    assert done.code == 2
    assert "no reading wins clearly" in done.err
    assert "--mean" in done.err
    assert done.out.count("│ ") >= 8  # the table
    assert not (tmp_path / "runs").exists()
    done = kdbench("import", path, *about, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--bgr")
    assert done.code == 0, done.err
    assert "mean 0.5/0.5/0.5, deviation 0.5/0.5/0.5, BGR" in done.out


def test_too_few_images_decide_nothing(tmp_path):
    split = Painted()
    file = OnnxFile.open(Stranger().write(tmp_path / "a.onnx"))
    scored = score_readings(file, [split[0], split[1], split[2]], CLASSES, READINGS)
    assert scored[0].input == Input()
    chosen, why = choose_reading(scored)
    assert chosen is None
    assert "3 labelled images are too few" in why


def test_share_ahead_by_hand():
    """Two images; a is better on the first, b by less on the second: a resample of the second alone is b's."""
    right, wrong = np.diag([10, 10]), np.array([[0, 10], [10, 0]])
    a, b = np.stack([right, wrong]), np.stack([wrong, right])
    assert share_ahead(a, a) == 0
    # Drawn (1,1), a leads; (2,2), b leads; mixed they are equal.
    assert share_ahead(a, b) == pytest.approx(0.25, abs=0.05)
    # Of a void image and the first, a leads wherever the first was drawn.
    void = np.zeros((1, 2, 2), np.int64)
    assert share_ahead(np.concatenate([void, a[:1]]), np.concatenate([void, b[:1]])) == pytest.approx(0.75, abs=0.05)


def test_share_ahead_of_many_classes_needs_no_matrix_for_each_resample():
    """A sum of matrices for each of 2000 resamples would take 2000 x 100 x 100 numbers of 8 bytes: 160 MB a model."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 9, (4, 100, 100)) for _ in range(2))
    tracemalloc.start()
    share = share_ahead(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 <= share <= 1
    assert peak < 40e6


# Layouts


@pytest.mark.parametrize(
    ("shape", "size", "axes"),
    [
        ((1, 64, 96, 5), (64, 96), [3]),
        ((1, 5, 64, 96), (64, 96), [1]),
        ((1, 5, 8, 12), (64, 96), [1]),
        ((1, 8, 12, 5), (64, 96), [3]),
        ((1, 11, 23, 30), (180, 240), [1]),  # 22.5 x 30 of stride 8
        ((1, 64, 64, 64), (64, 64), [1, 3]),
        ((1, 64, 96), (64, 96), [None]),
        ((1, 1000), (64, 96), []),
        ((1, 5, 9, 64), (64, 96), []),
    ],
)
def test_where_the_channels_are(shape, size, axes):
    assert [axis for axis, _ in possible_axes(shape, size)] == axes


# Refusals


@pytest.mark.parametrize(
    ("stranger", "reading", "message"),
    [
        (Stranger(out="binary"), Reading(), "output 'scores' has 2 classes, dataset 'painted' has 4 (a, b, c, d)"),
        (Stranger(), Reading(size=(32, 32)), "--size 32x32 was asked for: leave --size out"),
        (Stranger(), Reading(mean=(0, 0, 0), std=(0, 1, 1)), "expected three numbers above 0"),
    ],
)
def test_refused_in_one_line(tmp_path, stranger, reading, message):
    with pytest.raises(BadInput) as caught:
        take(tmp_path, stranger, Painted(), reading)
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_class_ids_that_the_dataset_lacks(tmp_path):
    class Three(Painted):
        classes, palette = ("a", "b", "c"), Painted.palette[:3]

    with pytest.raises(BadInput, match="returns class ids up to 3, dataset 'painted' has 3 .*expected ids below 3"):
        take(tmp_path, Stranger(out="ids"), Three(label=lambda image: np.zeros(image.shape[:2])))


@pytest.mark.parametrize(
    "name",
    [
        "baseline",
        "teacher",
        "all",
        "latency",
        "package",
        "compare.json",
        "usual",
        "a=b",
        "a,b",
        "../x",
        "",
        "-x",
        "x" * 65,
    ],
)
def test_names_that_mean_something_else(tmp_path, name):
    path = Stranger().write(tmp_path / "theirs.onnx")
    with pytest.raises(BadInput, match="--name: "):
        import_file(path, RunTree(tmp_path / "runs", "painted"), Painted(), ImportOptions(name))


def test_again_needs_overwrite_and_takes_older_exports_away(tmp_path):
    _, _, tree = take(tmp_path, Stranger(), Painted())
    older = tree.export("theirs", "onnx", "int8", "mask")
    older.parent.mkdir()
    older.write_bytes(b"of the file before")
    path = tmp_path / "theirs.onnx"
    with pytest.raises(BadInput, match="was imported before: --overwrite replaces it"):
        import_file(path, tree, Painted(), ImportOptions("theirs"))
    import_file(path, tree, Painted(), ImportOptions("theirs", overwrite=True))
    assert not older.exists()
    assert tree.imports() == ("theirs",)
