"""``kdbench predict``: the files hold what the backend said, at the image's own resolution."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from kdbench.backends import load_backend
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.data.shapes import Shapes
from kdbench.predict.images import name_outputs
from kdbench.predict.overlay import blend, palette_image, shares, with_legend
from tests.exports import read_unsealed


@pytest.fixture(scope="module")
def exported_runs(trained_runs, tmp_path_factory):
    """The trained tree with an ONNX export of the response student."""
    from exporters.export_job import ExportJob
    from exporters.proven_export import export_as
    from kdbench.runs.tree import RunTree

    runs = shutil.copytree(trained_runs, tmp_path_factory.mktemp("exported") / "runs")
    with ExportJob(RunTree(runs, "folder"), "response", "mask", samples=[Shapes("val")[0]]) as job:
        export_as(job, "onnx", "fp32")
    return runs


@pytest.fixture
def photos(tmp_path):
    """Three images of other sizes than the model's 64 x 64, one of them smaller, one greyscale with odd sides."""
    folder = tmp_path / "photos"
    folder.mkdir()
    scene = Shapes("val")[3].image
    Image.fromarray(scene).save(folder / "large.png")
    Image.fromarray(np.ascontiguousarray(scene[:40, :57])).save(folder / "small.png")
    Image.fromarray(scene).convert("L").crop((0, 0, 91, 71)).save(folder / "grey.PNG")
    return folder


def expected_map(runs, path, backend):
    """The class map of an image, step by step."""
    artifact = runs / "folder" / "response" / "student.safetensors"
    if backend == "onnx":
        artifact = runs / "folder" / "response" / "exports" / "onnx-fp32" / "mask.onnx"
    engine = load_backend(backend, artifact, output="mask")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    mask = engine.infer(engine.prepare(resize_image(pixels, engine.size)))[0]
    engine.close()
    return pixels, resize_label(mask, pixels.shape[:2])


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_masks_are_the_backends_output(kdbench, exported_runs, photos, tmp_path, backend):
    out = tmp_path / "out"
    done = kdbench(
        "predict", "--method", "response", "--backend", backend, "--runs", exported_runs, "--device", "cpu",
        "--output-dir", out, photos,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    names = ["grey", "large", "small"]
    images = [photos / "grey.PNG", photos / "large.png", photos / "small.png"]
    assert done.out.splitlines() == [
        f"{image}: {out / f'{name}-mask.png'}, {out / f'{name}-overlay.png'}"
        for name, image in zip(names, images, strict=True)
    ]
    assert len(list(out.iterdir())) == 6
    palette = Shapes("val").palette
    for name, image in zip(names, images, strict=True):
        pixels, class_map = expected_map(exported_runs, image, backend)
        with Image.open(out / f"{name}-mask.png") as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), class_map)
            assert np.array_equal(np.asarray(mask.convert("RGB")), np.array(palette, dtype=np.uint8)[class_map])
        with Image.open(out / f"{name}-overlay.png") as overlay:
            picture = np.asarray(overlay)
        height, width = class_map.shape
        assert np.array_equal(picture[:height, :width], blend(pixels, class_map, palette))
        legend = {tuple(color) for color in picture[height:].reshape(-1, 3).tolist()}
        for index in np.unique(class_map):
            assert palette[index] in legend


def test_predictions_of_methods_and_backends_lie_apart_by_default(kdbench, exported_runs, photos, tmp_path):
    runs = shutil.copytree(exported_runs, tmp_path / "runs")
    for flags in (("response",), ("response", "--backend", "onnx"), ("baseline",)):
        assert kdbench("predict", "--method", *flags, "--runs", runs, photos / "large.png").code == 0
    written = sorted(path.relative_to(runs / "folder").as_posix() for path in runs.rglob("large-mask.png"))
    folders = ("baseline-torch", "response-onnx", "response-torch")
    assert written == [f"predictions/{folder}/large-mask.png" for folder in folders]


def test_equal_names_in_two_folders_keep_both(kdbench, trained_runs, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "small.png", other / "large.png")
    out = tmp_path / "out"
    # The folder's image is named once more by itself: it is done once.
    done = kdbench(
        "predict", "--method", "response", "--runs", trained_runs, "--output-dir", out,
        photos, other, photos / "large.png",
    )  # fmt: skip
    assert done.code == 0
    assert sorted(path.name for path in out.glob("*-mask.png")) == [
        "grey-mask.png", "other-large-mask.png", "photos-large-mask.png", "small-mask.png",
    ]  # fmt: skip
    for name, shape in (("other-large", (40, 57)), ("photos-large", (128, 128))):
        with Image.open(out / f"{name}-mask.png") as mask:
            assert (mask.height, mask.width) == shape


def test_output_names_never_meet(tmp_path):
    files = ["a/x.png", "b/x.png", "c/a/x.png", "a/x.jpg", "a-x.png", "d/X.png", "e/a-x-2.png"]
    outputs = name_outputs([tmp_path / file for file in files], tmp_path)
    masks = [mask.name.removesuffix("-mask.png") for mask, _ in outputs.values()]
    assert masks == ["a-x-3", "b-x", "a-x-4", "a-x-5", "a-x", "d-X", "a-x-2"]


def test_bad_images_are_named_and_the_rest_is_done(kdbench, trained_runs, photos, tmp_path):
    good = (photos / "large.png").read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(photos / "deep.png")
    (photos / "notes.txt").write_text("not even looked at")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    arguments = (photos, tmp_path / "nowhere.png", tmp_path / "empty")
    done = kdbench("predict", "--method", "response", "--runs", trained_runs, "--output-dir", out, *arguments)
    assert done.code == 2
    lines = done.err.splitlines()
    assert len(lines) == 6
    for name in ("nowhere.png", "empty", "cut.png", "text.jpg", "deep.png"):
        assert sum(name in line and line.startswith("problem: ") for line in lines[:5]) == 1, name
    assert lines[5] == (
        "kdbench: 5 of the images could not be predicted, named above; 3 were: mend or leave out the former"
    )
    assert len(done.out.splitlines()) == 3
    assert sorted(path.name for path in out.glob("*-mask.png")) == ["grey-mask.png", "large-mask.png", "small-mask.png"]


def test_an_input_is_never_replaced(kdbench, trained_runs, photos):
    shutil.copy(photos / "small.png", photos / "large-mask.png")
    before = (photos / "large-mask.png").read_bytes()
    done = kdbench("predict", "--method", "response", "--runs", trained_runs, "--output-dir", photos, photos)
    assert done.code == 2
    assert "holds 'large-mask.png', an input" in done.err
    assert (photos / "large-mask.png").read_bytes() == before
    assert len(list(photos.iterdir())) == 4


def test_an_unapplied_orientation_is_said(kdbench, trained_runs, photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "small.png") as image:
        image.save(photos / "turned.jpg", exif=exif)
    done = kdbench(
        "predict", "--method", "response", "--runs", trained_runs, "--output-dir", tmp_path, photos / "turned.jpg"
    )
    assert done.code == 0
    assert done.err.startswith(f"warning: image '{photos / 'turned.jpg'}' has EXIF orientation 6, which is not applied")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "expected images, or --video FILE or camera number, and not both"),
        (("x.png", "--video", "x.mp4"), "expected images, or --video FILE or camera number, and not both"),
        (
            ("x.png", "--backend", "tflite"),
            "--backend: got 'tflite', expected one of torch, torch-channels-last, torch-compile",
        ),
        (("x.png", "--backend", "trt"), "no trt export"),
    ],
)
def test_wrong_flags_are_one_line(kdbench, trained_runs, flags, said):
    done = kdbench("predict", "--method", "response", "--runs", trained_runs, *flags)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert said in done.err


def test_unknown_and_untrained_methods(kdbench, trained_runs, tmp_path):
    done = kdbench("predict", "--method", "all", "--runs", trained_runs, "x.png")
    assert "kdbench: --method: got 'all', expected one of baseline, response, feature, combined, cwd" in done.err
    runs = shutil.copytree(trained_runs, tmp_path / "runs")
    shutil.rmtree(runs / "folder" / "feature")
    done = kdbench("predict", "--method", "feature", "--runs", runs, "x.png")
    assert done.code == 2
    assert "make it with `kdbench train --method feature`" in done.err


def test_a_sidecar_without_its_palette_is_named(kdbench, exported_runs, tmp_path):
    runs = shutil.copytree(exported_runs, tmp_path / "runs")
    path = runs / "folder" / "response" / "exports" / "onnx-fp32" / "mask.json"
    path.write_text(json.dumps(read_unsealed(path)).replace('"palette"', '"colours"'), encoding="utf-8")
    done = kdbench("predict", "--method", "response", "--backend", "onnx", "--runs", runs, "x.png")
    assert (done.code, done.err) == (
        2,
        f"kdbench: '{path}' lacks palette, expected what class ids mean: "
        "make it again with `kdbench export --method response`\n",
    )


def test_shares_are_of_the_classes_that_occur():
    class_map = np.array([[2, 2, 2, 0]], dtype=np.uint8)
    assert shares(class_map, ("sky", "road", "car")) == {2: "car 75.0%", 0: "sky 25.0%"}


def test_a_legend_is_as_wide_as_its_longest_entry_and_wraps():
    picture = np.full((33, 31, 3), 7, dtype=np.uint8)
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    with_one = with_legend(picture, {0: "a name that is wider than the picture"}, palette)
    with_three = with_legend(picture, dict.fromkeys(range(3), "a name that is wider than the picture"), palette)
    assert (with_one[:33, :31] == 7).all()
    assert with_one.shape[1] == with_three.shape[1] > 200
    assert with_three.shape[0] > with_one.shape[0] > 33
    for canvas in (with_one, with_three):
        assert canvas.shape[0] % 2 == canvas.shape[1] % 2 == 0
        assert (canvas[:, -2:] == 255).all(), "text runs over the edge"


def test_palette_images_keep_ids_through_a_file(tmp_path):
    class_map = np.arange(21, dtype=np.uint8).reshape(3, 7)
    palette = [(index, 2 * index, 255 - index) for index in range(21)]
    palette_image(class_map, palette).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), class_map)
        assert np.array_equal(np.asarray(image.convert("RGB")).reshape(-1, 3), np.array(palette))


def write_clip(path, frames, size=(96, 64)):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 15, size)
    for index in range(frames):
        writer.write(np.ascontiguousarray(Shapes("val")[index].image[: size[1], : size[0], ::-1]))
    writer.release()
    return cv2


def test_a_video_is_overlaid_frame_by_frame(kdbench, trained_runs, tmp_path):
    cv2 = write_clip(tmp_path / "clip.mp4", 5)
    done = kdbench(
        "predict", "--method", "response", "--runs", trained_runs, "--output-dir", tmp_path / "out",
        "--video", tmp_path / "clip.mp4",
    )  # fmt: skip
    assert done.code == 0
    assert done.out.startswith(f"{tmp_path / 'out' / 'clip-overlay.mp4'}: 5 frames, ")
    assert done.out.count("frames/s") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip-overlay.mp4"]
    source = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    written = cv2.VideoCapture(str(tmp_path / "out" / "clip-overlay.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == 15
    for _ in range(5):
        frame, picture = source.read()[1], written.read()[1]
        assert picture.shape[0] > frame.shape[0]
        Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(tmp_path / "frame.png")
        pixels, class_map = expected_map(trained_runs, tmp_path / "frame.png", "torch")
        wanted = blend(pixels, class_map, Shapes("val").palette)
        # MPEG-4 loses detail, not colours: swapped channels or a wrong frame differ by far more.
        difference = np.abs(picture[: frame.shape[0], : frame.shape[1], ::-1].astype(int) - wanted).mean()
        assert difference < 12
    assert not written.read()[0]


def test_ctrl_c_keeps_the_frames_so_far(kdbench, trained_runs, tmp_path, monkeypatch):
    cv2 = write_clip(tmp_path / "clip.mp4", 6)
    from kdbench.predict.images import Predictor

    class_map, calls = Predictor.class_map, []

    def interrupted(self, image):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return class_map(self, image)

    monkeypatch.setattr(Predictor, "class_map", interrupted)
    done = kdbench(
        "predict", "--method", "response", "--runs", trained_runs, "--output-dir", tmp_path, "--video",
        tmp_path / "clip.mp4",
    )  # fmt: skip
    assert done.code == 0
    assert ": 3 frames, " in done.out
    assert "(6 were announced)" in done.out
    assert cv2.VideoCapture(str(tmp_path / "clip-overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_what_is_no_video_is_one_line(kdbench, trained_runs, tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "text.mp4").write_text("no video")
    base = ("predict", "--method", "response", "--runs", trained_runs, "--output-dir", tmp_path / "out", "--video")
    for source, said in (
        (tmp_path / "text.mp4", "this OpenCV cannot decode it"),
        (tmp_path / "none.mp4", "does not exist, expected a video file or a camera's number"),
        ("97", "no camera of this number answers"),
    ):
        done = kdbench(*base, source)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert said in done.err
    assert not (tmp_path / "out").exists()


def test_without_opencv_the_install_line_is_shown(kdbench, trained_runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    done = kdbench("predict", "--method", "response", "--runs", trained_runs, "--video", tmp_path / "clip.mp4")
    assert (done.code, done.err) == (
        1,
        "kdbench: --video: OpenCV is not installed: `pip install opencv-python-headless` (kdbench's extra `video`)\n",
    )


def test_a_blend_by_value():
    """Black classes leave the photo; a line where the class to the right or below is another; else half and half."""
    from kdbench.predict.overlay import LINE

    photo = np.full((3, 4, 3), 100, np.uint8)
    classes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    mixed = blend(photo, classes, [(0, 0, 0), (200, 0, 50)])
    tinted, plain = [150, 50, 75], [100, 100, 100]
    line = list(LINE)
    assert mixed.tolist() == [
        [plain, line, tinted, tinted],
        [plain, line, line, line],
        [plain, plain, plain, plain],
    ]
    assert (photo == 100).all()
