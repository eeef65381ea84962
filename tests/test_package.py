"""``kdbench package``: the folder runs without kdbench, says what it is, and is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.comparison.choice import Limits, choose_artifact
from kdbench.comparison.results import Comparison
from kdbench.data.normalisation import Input
from kdbench.data.shapes import Shapes
from kdbench.package.runner import program, requirements
from kdbench.package.shipped import Shipped, open_shipped
from kdbench.package.tensors import Tensor
from kdbench.package.triton import config, why_not
from kdbench.predict.images import open_predictor
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree, sidecar_path
from tests.conditions import missing
from tests.exports import read_unsealed

BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("kdbench", "torch", "trainers", "exporters"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def compared(made_once, trained_runs):
    """Trained runs whose baseline is exported and measured in ONNX and OpenVINO; not to be changed."""
    from kdbench.cli.compare import CompareFlags, run_compare
    from kdbench.cli.export import ExportOptions, run_export

    backends = ["torch", "onnx", *([] if missing("openvino") else ["openvino"])]

    def make(folder):
        shutil.copytree(trained_runs, folder / "runs")
        tree = RunTree.find(folder / "runs", "folder")
        run_export(tree, ExportOptions(("baseline",), tuple(backends[1:])))
        flags = CompareFlags("baseline", ",".join(backends), device="cpu", threads=1, rounds=20)
        run_compare(tree, flags)

    return RunTree(made_once("packaged", make) / "runs", "folder")


@pytest.fixture
def copied(compared, tmp_path):
    """The same, which a test may break."""
    shutil.copytree(compared.runs, tmp_path / "runs")
    return RunTree(tmp_path / "runs", "folder")


@pytest.fixture
def package(compared, kdbench, tmp_path):
    """Package the baseline through a backend: the folder."""

    def make(backend: str) -> Path:
        folder = tmp_path / f"package-{backend}"
        # So small a model's classes are close to each other.
        done = kdbench("package", "--runs", compared.runs, "--output", folder, "--backend", backend,
                       "--max-miou-loss", "1")  # fmt: skip
        assert done.code == 0, done.err
        assert f"written: {folder}" in " ".join(done.out.split())
        return folder

    return make


def run_it(folder: Path, image: Path, tmp_path: Path) -> Image.Image:
    """Run a package's program as somebody without kdbench does; the mask."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", elsewhere / "run.py", image, tmp_path / "mask.png"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path / "blocked"), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "mask.png") as mask:
        mask.load()
        return mask


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(Shapes("val")[1].image[:80, :120]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.needs("openvino"))])
def test_its_program_gives_kdbenchs_own_mask_without_kdbench(package, compared, photo, tmp_path, backend):
    mask = run_it(package(backend), photo, tmp_path)
    with open_predictor(compared, "baseline", backend, "cpu") as predictor:
        expected = predictor.class_map(np.asarray(Image.open(photo)))
        palette = [channel for color in predictor.palette for channel in color]
    assert np.array_equal(np.asarray(mask), expected)
    assert len(np.unique(expected)) > 1
    assert mask.getpalette()[: len(palette)] == palette


def test_the_blocked_import_is_blocked(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import kdbench"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert "kdbench is not there" in done.stderr


def test_the_manifest_has_the_hash_of_every_file(package):
    folder = package("onnx")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {*manifest["files"], "manifest.json"}
    assert {"mask.onnx", "MODEL_CARD.md", "run.py", "requirements.txt"} < there
    for name, about in manifest["files"].items():
        assert about == {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    assert manifest["files"]["mask.onnx"]["sha256"] == manifest["row"]["artifact"]["sha256"]


def test_the_card_says_what_was_measured(package, compared):
    card = (package("onnx") / "MODEL_CARD.md").read_text(encoding="utf-8")
    comparison = Comparison.read(compared.comparison)
    row = next(row for row in comparison.rows if row.backend == "onnx")
    for value in (*row.iou_per_class, row.miou, *row.miou_ci95):
        assert value is None or f"{value:.4f}" in card
    for text in (
        f"Median {row.latency.median_ms:.2f} ms", "threads 1", comparison.environment["hardware"]["cpu"],
        f"onnxruntime {comparison.environment['versions']['onnxruntime']}", f"{100 * row.agreement_with_torch:.3f}%",
        "Learnt from: 8 training images", "2 epochs", "lr 0.001", "void (255)", "64x64", "Licences",
        row.artifact.sha256,
    ):  # fmt: skip
        assert text in card, text
    assert "temperature" not in card  # the baseline reads none


def test_requirements_are_the_measured_versions(package, compared):
    versions = Comparison.read(compared.comparison).environment["versions"]
    assert (package("onnx") / "requirements.txt").read_text(encoding="utf-8").splitlines() == [
        f"numpy=={versions['numpy']}", "pillow>=10.1", f"onnxruntime=={versions['onnxruntime']}",
    ]  # fmt: skip


def parsed(text: str):
    """A config.pbtxt as Triton's own client reads it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.needs("tritonclient")
def test_triton_reads_the_onnx_models_config(package):
    folder = package("onnx") / "model_repository"
    model = parsed((folder / "folder-baseline-onnx-fp32" / "config.pbtxt").read_text(encoding="utf-8"))
    assert (model.name, model.backend, model.max_batch_size) == ("folder-baseline-onnx-fp32", "onnxruntime", 0)
    assert (folder / model.name / "1" / model.default_model_filename).read_bytes() == (
        folder.parent / "mask.onnx"
    ).read_bytes()
    assert [(i.name, list(i.dims)) for i in model.input] == [("image", [1, 64, 64, 3])]
    assert [(o.name, list(o.dims)) for o in model.output] == [("mask", [1, 64, 64])]
    types = type(model.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    assert [types[t.data_type].name for t in (*model.input, *model.output)] == ["TYPE_UINT8", "TYPE_UINT8"]
    kinds = type(model.instance_group[0]).Kind
    assert [(g.count, kinds.Name(g.kind)) for g in model.instance_group] == [(1, "KIND_CPU")]
    assert not model.HasField("dynamic_batching")
    assert not model.HasField("optimization")


@pytest.mark.needs("openvino", "tritonclient")
def test_triton_reads_the_openvino_models_config(package):
    folder = package("openvino") / "model_repository" / "folder-baseline-openvino-fp32"
    model = parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert (model.backend, model.default_model_filename) == ("openvino", "model.xml")
    assert [(i.name, list(i.dims)) for i in model.input] == [("image", [1, 64, 64, 3])]
    assert {file.name for file in (folder / "1").iterdir()} == {"model.xml", "model.bin"}


@pytest.fixture
def shipped(compared):
    comparison = Comparison.read(compared.comparison)
    limits = Limits(max_miou_loss=None, backends=("onnx",))
    return open_shipped(compared, comparison, choose_artifact(comparison, limits).chosen, "because")


def changed(shipped: Shipped, **changes) -> Shipped:
    return Shipped(**{**vars(shipped), **changes})


@pytest.fixture
def open_batch(shipped):
    image, logits = Tensor("image", "float32", (-1, 3, 64, 96)), Tensor("logits", "float16", (-1, 10, 64, 96))
    return config(changed(shipped, image=image, result=logits))


def test_an_open_batch_is_no_extent(open_batch):
    assert 'input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, 64, 96 ] } ]' in open_batch
    assert 'output [ { name: "logits" data_type: TYPE_FP16 dims: [ 10, 64, 96 ] } ]' in open_batch
    assert "max_batch_size: 8\n" in open_batch


@pytest.mark.needs("tritonclient")
def test_an_open_batch_is_batched_by_triton(open_batch):
    model = parsed(open_batch)
    assert model.max_batch_size == 8
    assert model.HasField("dynamic_batching")


def test_an_engine_is_served_on_the_gpu_unless_it_is_tensorrt_for_rtxs(shipped):
    engine = changed(shipped, sidecar={**shipped.sidecar, "format": "trt", "provider": "tensorrt"})
    assert why_not(engine) is None
    assert 'backend: "tensorrt"\ndefault_model_filename: "model.plan"' in config(engine)
    assert "kind: KIND_GPU" in config(engine)
    rtx = changed(shipped, sidecar={**engine.sidecar, "provider": "tensorrt_rtx"})
    assert "TensorRT for RTX" in why_not(rtx)


def test_float_inputs_are_normalised_as_kdbench_does(shipped):
    """The program's own line, on random pixels, against ``normalise``."""
    from kdbench.data.preprocessing import normalise

    for wanted in (Input(), Input((10.0, 20.0, 30.0), (1.0, 2.0, 3.0), 255, "BGR")):
        sidecar = {**shipped.sidecar, **wanted.fields()}
        text = program(changed(shipped, sidecar=sidecar, image=Tensor("image", "float32", (1, 3, 64, 64)),
                               result=Tensor("logits", "float32", (1, 10, 64, 64))))  # fmt: skip
        line = re.search(r"infer\(np.ascontiguousarray\((.*)\)\)\[0\]", text)[1]
        pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
        batch = eval(f"np.ascontiguousarray({line})", {"np": np, "pixels": pixels})
        assert batch.dtype == np.float32
        assert np.array_equal(batch, normalise(pixels, wanted))
        assert "result.argmax(0)" in text


def test_an_engines_program_moves_images_to_the_gpu_and_masks_back(shipped, tmp_path):
    """On stand-ins for TensorRT and CUDA: this machine has neither."""
    sidecar = {**shipped.sidecar, "format": "trt", "provider": "tensorrt"}
    engine = changed(shipped, sidecar=sidecar, path=shipped.path.with_suffix(".engine"))
    (tmp_path / "run.py").write_text(program(engine), encoding="utf-8")
    (tmp_path / "mask.engine").write_bytes(b"an engine")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "run.py", "image.png", "mask.png"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(Path(__file__).parent / "stand_ins")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "mask.png") as mask:
        assert np.array_equal(np.asarray(mask), pixels[..., 0] > 127)
    assert "tensorrt_rtx as trt" in program(changed(engine, sidecar={**sidecar, "provider": "tensorrt_rtx"}))
    assert requirements(engine).splitlines()[2:] == ["tensorrt", "cuda-python"]


def test_a_package_that_is_there_needs_overwrite_and_other_folders_stay(copied, kdbench, tmp_path):
    arguments = ["package", "--runs", copied.runs, "--backend", "onnx", "--max-miou-loss", "1"]
    assert kdbench(*arguments).code == 0
    assert (copied.package / "run.py").is_file()
    refused = kdbench(*arguments)
    assert (refused.code, "replace it with --overwrite" in refused.err) == (2, True)
    (copied.package / "left.txt").write_text("of an older package")
    assert kdbench(*arguments, "--overwrite").code == 0
    assert not (copied.package / "left.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    other = kdbench(*arguments, "--overwrite", "--output", tmp_path / "mine")
    assert (other.code, "no package of kdbench" in other.err) == (2, True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_nothing_half_written_stays(copied, kdbench, monkeypatch):
    arguments = ["package", "--runs", copied.runs, "--backend", "onnx", "--max-miou-loss", "1"]
    assert kdbench(*arguments).code == 0
    before = {path: path.read_bytes() for path in copied.package.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdbench.package.write.shutil.copyfile", full)
    done = kdbench(*arguments, "--overwrite")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "No space left on device" in done.err
    assert {path: path.read_bytes() for path in copied.package.rglob("*") if path.is_file()} == before
    assert not [*copied.root.glob(".*")]


def test_a_file_that_is_not_the_measured_one_is_refused(copied, kdbench):
    artifact = copied.export("baseline", "onnx", "fp32", "mask")
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    about = read_unsealed(sidecar_path(artifact))
    sidecar_path(artifact).write_text(json.dumps({**about, "sha256": sha256(artifact)}))  # exported again since
    arguments = ["--runs", copied.runs, "--backend", "onnx", "--max-miou-loss", "1"]
    done = kdbench("package", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "is not the file that was measured (sha256 differs)" in done.err
    assert "another file than was measured" in " ".join(kdbench("choose", *arguments).out.split())
    artifact.unlink()
    gone = kdbench("package", *arguments)
    assert (gone.code, "is not on this machine" in gone.err) == (2, True)
    assert not copied.package.exists()


def test_its_document_is_one_line_of_json(compared, kdbench, tmp_path):
    done = kdbench("package", "--runs", compared.runs, "--backend", "onnx", "--max-miou-loss", "1", "--output",
                   tmp_path / "p", "--json", "-")  # fmt: skip
    assert (done.code, done.out.count("\n")) == (0, 1)
    document = json.loads(done.out)
    assert document["package"]["name"] == "folder-baseline-onnx-fp32"
    assert sorted(document["package"]["files"]) == sorted(
        path.relative_to(tmp_path / "p").as_posix() for path in (tmp_path / "p").rglob("*") if path.is_file()
    )
    assert document["chosen"]["artifact"]["path"] == "baseline/exports/onnx-fp32/mask.onnx"


def test_a_checkpoint_is_no_package(compared, kdbench, tmp_path):
    done = kdbench("package", "--runs", compared.runs, "--backend", "torch", "--output", tmp_path / "p")
    assert (done.code, "which only kdbench runs" in done.err) == (2, True)


def test_nothing_fits_nothing_is_written(compared, kdbench, tmp_path):
    done = kdbench("package", "--runs", compared.runs, "--min-miou", "0.999", "--output", tmp_path / "p")
    assert (done.code, done.out.startswith("Nothing meets")) == (1, True)
    assert not (tmp_path / "p").exists()
