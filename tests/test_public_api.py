"""What `import kdbench` offers: which names, with which arguments, at which cost, and that each does its work."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdbench
from kdbench.data.shapes import Shapes
from tests.conftest import REPOSITORY

SIGNATURES = {
    "compare": "(runs='runs', *, dataset=None, methods=None, backends=('torch', 'onnx'), precisions=('fp32',), "
    "rounds=100)",
    "evaluate": "(model, dataset, *, threads=0)",
    "gate": "(baseline, candidate, *, budget=240.0, margin=0.01, tolerance=0.03, threads=0)",
    "load": "(artifact, *, backend=None, output='mask', size=None, device='cpu', threads=0)",
    "open_dataset": "(name, split='val', root=None)",
    "open_predictor": "(artifact, *, size=None, device='cpu')",
    "parity": "(reference, candidate, on, options=None)",
    "predict_images": "(artifact, images, folder)",
    "trust_code": "()",
    "ParityOptions": "(tolerance=None, limit=100, size=None, mean=None, std=None, readings=(), limit_s=None)",
}
"""A change here is a change for everybody who has written a script: say it in CHANGELOG.md."""


class Scenes(Shapes):
    """The first four validation scenes."""

    def __init__(self):
        super().__init__("val")

    def __len__(self):
        return 4


@pytest.fixture(scope="module")
def files(exported):
    return {(p, "mask"): str(exported.export("baseline", "onnx", p, "mask")) for p in ("fp32", "fp16")}


def signature(function) -> str:
    found = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_exported_names_and_signatures():
    assert {*SIGNATURES, "KdbenchError"} == set(kdbench.__all__)
    assert {name: signature(getattr(kdbench, name)) for name in SIGNATURES} == SIGNATURES


def test_every_function_is_documented_and_listed_on_the_page():
    page = (REPOSITORY / "docs" / "python-api.md").read_text(encoding="utf-8")
    for name in kdbench.__all__:
        assert f"`{name}`" in page or f"kdbench.{name}(" in page, name
    for name in SIGNATURES.keys() - {"ParityOptions"}:
        text = inspect.getdoc(getattr(kdbench, name))
        assert "Raises:" in text, name
        listed = text.partition("Args:")[2].partition("\n\n")[0]
        for parameter in inspect.signature(getattr(kdbench, name)).parameters:
            assert re.search(rf"^    (\w+, )*{parameter}(, \w+)*: ", listed, re.MULTILINE), f"{name}: {parameter}"


def test_no_name_hides_a_module():
    """Importing a module puts it on its package, where it would replace a function of the same name."""
    modules = {path.stem for path in (REPOSITORY / "kdbench").iterdir()}
    assert not modules & set(kdbench.__all__)


def test_import_is_lazy():
    """Modules, not seconds, which depend on the machine: the package itself and what the interpreter had."""
    code = (
        "import sys; before = set(sys.modules); import kdbench; kdbench.__version__; dir(kdbench); "
        "print(sorted(m for m in set(sys.modules) - before - {'typing'} if sys.modules[m] is not None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    new = [
        name for name in json.loads(done.stdout.replace("'", '"')) if name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert new == ["kdbench"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kdbench' has no attribute 'evaluat'"):
        kdbench.evaluat  # noqa: B018
    assert set(kdbench.__all__) <= set(dir(kdbench))


def test_open_dataset_takes_strings(folder_dataset):
    assert len(kdbench.open_dataset("shapes")) == 200
    split = kdbench.open_dataset("folder", "train", str(folder_dataset))
    assert (len(split), split[0].image.shape) == (8, (64, 96, 3))
    with pytest.raises(kdbench.KdbenchError, match="expected one of"):
        kdbench.open_dataset("shape")


def test_a_checkpoint_and_its_export_score_the_same(exported, files):
    checkpoint = kdbench.evaluate(str(exported.checkpoint("baseline")), Scenes(), threads=1)
    engine = kdbench.load(files["fp32", "mask"], threads=1)
    export = kdbench.evaluate(engine, Scenes())
    assert export.miou == pytest.approx(checkpoint.miou, abs=1e-3)
    assert 0 < export.miou < 1
    assert export.confusions.shape == (4, 10, 10)
    engine.infer(engine.prepare(np.zeros((*engine.size, 3), np.uint8)))  # still open
    engine.close()


def test_a_named_backend_checks_the_export(files, tmp_path):
    checked = kdbench.load(files["fp32", "mask"], backend="onnx", threads=1)
    assert checked.output == "mask"
    checked.close()
    alone = tmp_path / "a" / "b" / "c" / "mask.onnx"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(Path(files["fp32", "mask"]).read_bytes())
    kdbench.load(alone, threads=1).close()
    with pytest.raises(kdbench.KdbenchError, match="mask.json' does not exist"):
        kdbench.load(alone, backend="onnx")
    with pytest.raises(kdbench.KdbenchError, match="is no file"):
        kdbench.load(tmp_path)


@pytest.mark.needs("openvino")
def test_other_formats_are_known_by_their_suffix(exported):
    path = exported.export("baseline", "openvino", "fp32", "mask")
    with kdbench.open_predictor(path) as predictor:
        image = Scenes()[0].image
        assert predictor.class_map(image).shape == image.shape[:2]
        assert predictor.classes[0] == "background"


def test_parity(exported, files, tmp_path):
    found = kdbench.parity(files["fp32", "mask"], files["fp32", "mask"], Scenes())
    assert (found.same, found.problem, found.tolerance, found.parity.images) == (True, None, "fp32", 4)
    assert found.parity.pixel_agreement == 1
    other = tmp_path / "other.onnx"
    other.write_bytes(Path(files["fp16", "mask"]).read_bytes())
    Image.fromarray(Scenes()[0].image).save(tmp_path / "a.png")
    strict = kdbench.parity(files["fp32", "mask"], other, str(tmp_path / "a.png"), kdbench.ParityOptions("fp32"))
    assert strict.parity.miou_reference is None
    # An untrained student's classes are close to each other: fp16 changes more than a pixel in a thousand.
    assert strict.same == (strict.parity.pixel_agreement >= 0.999)
    with pytest.raises(kdbench.KdbenchError, match="--tolerance: got 'fp8'"):
        kdbench.parity(other, other, Scenes(), kdbench.ParityOptions("fp8"))


def test_labels_of_other_classes_are_refused(exported, files):
    class Others(Scenes):
        def __init__(self):
            super().__init__()
            self.classes = self.classes[::-1]

    for artifact in (files["fp32", "mask"], exported.checkpoint("baseline")):
        with pytest.raises(kdbench.KdbenchError, match="has the classes background, .*, expected the same"):
            kdbench.evaluate(artifact, Others(), threads=1)
    with pytest.raises(kdbench.KdbenchError, match="was trained on the classes background, .*, expected the same"):
        kdbench.parity(files["fp32", "mask"], files["fp32", "mask"], Others())


def test_no_image_is_one_line(files):
    with pytest.raises(kdbench.KdbenchError, match="images: got none"):
        kdbench.parity(files["fp32", "mask"], files["fp32", "mask"], [])


def test_predict_images(files, tmp_path):
    Image.fromarray(Scenes()[1].image).save(tmp_path / "scene.png")
    done = kdbench.predict_images(files["fp32", "mask"], str(tmp_path / "scene.png"), str(tmp_path / "out"))
    assert [mask.name for _, mask, _ in done.written] == ["scene-mask.png"]
    assert not done.problems
    with kdbench.open_predictor(files["fp32", "mask"]) as predictor:
        expected = predictor.class_map(Scenes()[1].image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "scene-mask.png")), expected)


def test_compare(trained_runs, tmp_path):
    runs = shutil.copytree(trained_runs, tmp_path / "runs")  # it gets a file of latencies
    comparison = kdbench.compare(str(runs), methods=["baseline", "response"], backends=["torch"], rounds=10)
    assert [(row.method, row.status) for row in comparison.rows] == [("baseline", "ok"), ("response", "ok")]
    assert all(row.latency.rounds == 10 for row in comparison.rows)
    assert [gain.method for gain in comparison.improvements] == ["response"]
    with pytest.raises(kdbench.KdbenchError, match="backends: got 'tensorflow'"):
        kdbench.compare(trained_runs, backends=["tensorflow"])


@pytest.mark.slow
def test_gate(files):
    recording = kdbench.gate(files["fp32", "mask"], files["fp32", "mask"], budget=10, threads=1)
    verdict, _ = recording.verdict()
    assert verdict in ("pass", "inconclusive")
    assert recording.document()["recording"]["settings"]["budget_s"] == 10


def test_a_tolerance_below_the_margin_is_refused(files):
    with pytest.raises(kdbench.KdbenchError, match="tolerance: got 0.01 with a margin of 0.02"):
        kdbench.gate(files["fp32", "mask"], files["fp32", "mask"], margin=0.02, tolerance=0.01)
