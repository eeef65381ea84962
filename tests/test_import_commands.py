"""``kdbench import`` and the commands after it, as a person types them; parity, predict and regress on strangers' files."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from kdbench.backends import load_backend
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree, sidecar_path
from tests.imports import CLASSES, SIZE, Painted, Stranger, write_folder
from tests.onnx_models import FLOAT, INT64, save_model


@pytest.fixture
def where(tmp_path):
    """A --dataset folder, the flags that name it, and a stranger's file beside it."""
    root = write_folder(tmp_path / "data")
    Stranger().write(tmp_path / "theirs.onnx")
    return ["--dataset", "folder", "--data-root", root, "--runs", tmp_path / "runs"]


def test_from_the_file_to_the_report(tmp_path, kdbench, where):
    """import → export → compare → report → predict, beside a method that nobody trained."""
    model, runs = tmp_path / "theirs.onnx", where[4:]
    done = kdbench("import", model, "--name", "theirs", *where, "--json", tmp_path / "import.json")
    assert done.code == 0, done.err
    assert "assumed ImageNet's mean and deviation, RGB: mIoU 1.0000 on 8 images" in done.out
    assert json.loads((tmp_path / "import.json").read_text())["kind"] == "import"
    model.unlink()
    # Labels are the network's own, so that 8 bits lose what they change.
    precisions = ["--precision", "fp32,fp16,int8", "--allow-drift"]
    done = kdbench("export", "--method", "theirs", *precisions, "--format", "onnx", *runs)
    assert done.code == 0, done.err
    assert "pixels as PyTorch" not in done.out
    assert "theirs int8: 8 bits hurt most in" in done.out

    results = tmp_path / "compare.json"
    done = kdbench(
        "compare", "--method", "theirs,baseline", "--backend", "torch,onnx", "--precision", "fp32,int8",
        "--rounds", "10", "--json", results, *runs,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert 'Imported: theirs. Their "= torch" is agreement with their own fp32 ONNX run' in done.out
    table = json.loads(results.read_text())
    rows = {(row["method"], row["backend"], row["precision"]): row for row in table["rows"]}
    assert [rows["theirs", *key]["status"] for key in (("torch", "fp32"), ("onnx", "fp32"), ("onnx", "int8"))] == [
        "unsupported", "ok", "ok",
    ]  # fmt: skip
    reference = rows["theirs", "onnx", "fp32"]
    assert (reference["agreement_with_torch"], reference["reference"]) == (1.0, "onnx fp32")
    assert (reference["params"], reference["student"], reference["gflops"]) == (CLASSES * 4, "theirs.onnx", None)
    assert rows["theirs", "onnx", "int8"]["agreement_with_torch"] < 1.0
    assert rows["baseline", "torch", "fp32"]["reference"] == "torch"
    assert (table["improvements"], table["training"]) == ([], {})

    done = kdbench("report", "--results", results, *runs)
    assert done.code == 0, done.err
    page = (tmp_path / "runs/folder/report.md").read_text(encoding="utf-8")
    assert "every export of an imported file gives its own fp32 run's class" in page
    assert "theirs" in page
    done = kdbench("predict", "--method", "theirs", tmp_path / "data/images/val", *runs)
    assert done.code == 0, done.err
    assert (tmp_path / "runs/folder/predictions/theirs-onnx/0-mask.png").exists()


def test_all_leaves_imports_out(tmp_path, kdbench, where):
    assert kdbench("import", tmp_path / "theirs.onnx", "--name", "theirs", *where).code == 0
    done = kdbench("compare", "--backend", "torch", "--rounds", "10", "--json", tmp_path / "c.json", *where[4:])
    assert done.code == 1  # nothing was trained
    assert "theirs" not in {row["method"] for row in json.loads((tmp_path / "c.json").read_text())["rows"]}
    done = kdbench("export", "--method", "nothing", *where[4:])
    assert done.code == 2
    assert done.err.strip().endswith("theirs")  # among the names that are known


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "32x32"], "--size: got 32x32, 'theirs' was imported at 64x96"),
        (["--dynamic-batch"], "--dynamic-batch: 'theirs' was imported, with a batch of 1"),
        (["--keep-float", "nothing"], "--keep-float: got 1 of 1 layers"),
    ],
)
def test_what_an_import_cannot_be_exported_as(tmp_path, kdbench, where, flags, message):
    assert kdbench("import", tmp_path / "theirs.onnx", "--name", "theirs", *where).code == 0
    done = kdbench("export", "--method", "theirs", "--format", "onnx", *flags, *where[4:])
    assert (done.code, message in done.err) == (2, True), done.err


def test_layers_that_cannot_be_ranked_are_kept_by_name_alone(tmp_path, kdbench, where):
    """Of class ids that no ArgMax makes, nobody knows the logits."""
    height, width = SIZE
    rng = np.random.default_rng(0)
    weights = {"stem.weight": rng.normal(size=(8, 3, 1, 1)), "head.weight": rng.normal(size=(1, 8, 1, 1))}
    arrays = {**weights, "half": np.array(0.5)}
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "head.weight"], ["c"]),
        helper.make_node("Greater", ["c", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["ids"], to=INT64),
    ]
    save_model(
        tmp_path / "ids.onnx", {"x": (FLOAT, [1, 3, height, width])}, {"ids": (INT64, [1, 1, height, width])}, nodes,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )  # fmt: skip
    done = kdbench("import", tmp_path / "ids.onnx", "--name", "ids", *where, "--mean", "0.5,0.5,0.5", "--std", "1,1,1")
    assert done.code == 0, done.err
    command = ("export", "--method", "ids", "--precision", "int8", "--format", "onnx", "--allow-drift", *where[4:])
    done = kdbench(*command, "--keep-float", "1")
    assert done.code == 2
    assert done.err.splitlines()[-1].endswith(
        "--keep-float: got 1, expected at most 0, as many layers of 'ids' as 8 bits can be tried in one by one: "
        "name them instead, as in --keep-float head"
    )
    assert kdbench(*command, "--keep-float", "head").code == 0
    sidecar = sidecar_path(RunTree(tmp_path / "runs", "folder").export("ids", "onnx", "int8", "mask"))
    assert json.loads(sidecar.read_text())["keep_float"] == ["head"]


def test_an_export_of_the_file_before_is_refused(tmp_path, kdbench, where):
    """Copied back after an --overwrite: its hash fits its own sidecar, and not the file that lies there."""
    about = ["--name", "theirs", *where]
    tree = RunTree(tmp_path / "runs", "folder")
    assert kdbench("import", tmp_path / "theirs.onnx", *about).code == 0
    older = tree.export("theirs", "onnx", "fp32", "mask")
    kept = {path.name: path.read_bytes() for path in older.parent.iterdir()}
    assert kdbench("import", tmp_path / "theirs.onnx", *about, "--overwrite", "--range", "255").code == 0
    for name, data in kept.items():
        (older.parent / name).write_bytes(data)
    with pytest.raises(BadInput, match="was exported before the file was imported again"):
        load_backend("onnx", older, output="mask", threads=1)


def test_nothing_is_made_from_another_file_than_was_imported(tmp_path, kdbench, where):
    assert kdbench("import", tmp_path / "theirs.onnx", "--name", "theirs", *where).code == 0
    source = RunTree(tmp_path / "runs", "folder").export("theirs", "onnx", "fp32", "mask")
    model = onnx.load(source)
    model.doc_string = "another"
    onnx.save(model, source)
    done = kdbench("export", "--method", "theirs", "--format", "onnx,openvino", *where[4:])
    assert done.code == 2
    assert "is not the file that its sidecar describes (sha256 differs)" in done.err
    assert "make it again with `kdbench import FILE --name theirs --overwrite`" in done.err


# Files on their own


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(Painted()[index].image).save(folder / f"{index}.png")
    return folder


def test_channels_last_logits_are_read_by_class(tmp_path, kdbench, photos):
    first, last = (Stranger(out_last=last).write(tmp_path / f"{last}.onnx") for last in (False, True))
    done = kdbench("parity", first, last, "--images", photos, "--json", tmp_path / "p.json")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "p.json").read_text())
    assert (len(report["classes"]), report["pixel_agreement"]) == (CLASSES, 1.0)


def test_an_output_of_two_layouts_is_asked_for(tmp_path, kdbench, photos):
    from onnx import helper

    from tests.onnx_models import FLOAT, save_model

    shape = [1, 64, 64, 64]
    nodes = [helper.make_node("Concat", ["x"] * 21 + ["one"], ["y"], axis=1)]
    constant = [helper.make_tensor("one", FLOAT, [1, 1, 64, 64], np.zeros(64 * 64))]
    path = save_model(tmp_path / "a.onnx", {"x": (FLOAT, [1, 3, 64, 64])}, {"y": (FLOAT, shape)}, nodes, constant)
    done = kdbench("predict", path, photos)
    assert done.code == 2
    assert "may be 64 classes on 64x64 or 64 classes on 64x64: give --output-layout NCHW or NHWC" in done.err
    assert kdbench("predict", path, photos, "--output-layout", "NCHW").code == 0


def test_the_output_that_is_used_is_said_and_can_be_chosen(tmp_path, kdbench, photos):
    path = Stranger(auxiliary=True).write(tmp_path / "a.onnx")
    alone = Stranger().write(tmp_path / "b.onnx")
    done = kdbench("parity", path, alone, "--images", photos)
    assert done.code == 1
    assert "has 2 outputs: 'aux' float32 [1, 4, 64, 96]" in done.out
    assert "the first, 'aux', is used (--output-name)" in done.out
    assert done.out.index("is used") < done.out.index("class")  # above the table
    done = kdbench("parity", path, alone, "--images", photos, "--output-name", "scores")
    assert done.code == 0, done.err
    done = kdbench("predict", path, photos, "--output-dir", tmp_path / "out")
    assert (done.code, "the first, 'aux', is used" in done.err) == (0, True)


def test_parity_takes_a_flag_for_each_file(tmp_path, kdbench, photos):
    """The same network, which one of the files normalises itself."""
    from kdbench.data.normalisation import Input
    from tests.onnx_models import UINT8

    wanted = Input((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    baked = Stranger(dtype=UINT8, channels_last=True, baked=wanted).write(tmp_path / "a.onnx")
    plain = Stranger().write(tmp_path / "b.onnx")
    raw = Stranger(baked=Input((0.0,) * 3, (1.0,) * 3)).write(tmp_path / "c.onnx")  # divides by 255 itself
    half = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
    assert kdbench("parity", baked, plain, "--images", photos, *half).code == 0
    assert kdbench("parity", baked, plain, "--images", photos).code == 1
    twice = ["--mean", "127.5,127.5,127.5", "--std", "63.75,63.75,63.75", "--mean", "0,0,0", "--std", "1,1,1"]
    done = kdbench("parity", plain, raw, "--images", photos, *twice, "--range", "255")
    assert done.code == 1  # the second has no such normalisation
    assert kdbench("parity", plain, baked, "--images", photos, *half, "--mean", "0,0,0", "--std", "1,1,1").code == 0
    done = kdbench("parity", plain, raw, "--images", photos, *half * 3)
    assert (done.code, "--mean: got it 3 times" in done.err) == (2, True)


def test_predict_takes_the_flags_that_its_note_names(tmp_path, kdbench, photos):
    from kdbench.data.normalisation import Input

    wanted = Input((103.5, 116.3, 123.7), (57.4, 57.1, 58.4), 255, "BGR")
    path = Stranger().write(tmp_path / "a.onnx")
    done = kdbench(
        "predict", path, photos / "0.png", "--mean", "103.5,116.3,123.7", "--std", "57.4,57.1,58.4", "--bgr",
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/0-mask.png")), Painted(wanted)[0].label)


def test_the_gate_takes_a_size_for_files_that_leave_it_open(tmp_path, kdbench):
    path = Stranger(open_size=True).write(tmp_path / "a.onnx")
    about = ["--baseline", path, "--candidate", path, "--budget", "10", "--json", tmp_path / "gate.json"]
    done = kdbench("regress", *about, "--size", f"{SIZE[0]}x{SIZE[1]}")
    assert done.code in (0, 3), done.err
    assert "leaves its size open" not in done.out
    assert "is fed with ImageNet's mean and deviation" in done.out
    closed = Stranger().write(tmp_path / "b.onnx")
    done = kdbench("regress", "--baseline", closed, "--candidate", closed, "--size", "32x32")
    assert (done.code, "--size: got 32x32" in done.err) == (2, True), done.err
