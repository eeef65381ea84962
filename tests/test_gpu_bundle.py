"""benchmarks/gpu_bundle.py: what is in a bundle, that it reads back exactly, and that its ONNX files are lean."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest

from benchmarks.gpu_bundle import WEIGHTS, Bundle, BundleOptions, make_bundle, move_with_shared_weights
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.backends.torch_eager import TorchBackend
from kdbench.data import open_dataset
from kdbench.errors import BadInput, Missing
from kdbench.runs.tree import RunTree
from tests.exports import make_student

SIZE = (64, 96)


def test_the_command_says_how_large_it_is(bundle):
    said = (bundle.folder.parent / "said.txt").read_text(encoding="utf-8")
    last = json.loads(said.splitlines()[-1])
    written = [path for path in bundle.folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    size = sum(path.stat().st_size for path in written)
    assert last["mebibytes"] == round(size / 2**20, 1)
    assert last["seconds"] > 0


def test_samples_are_the_splits(bundle, folder_dataset):
    dataset = open_dataset("folder", "val", folder_dataset)
    samples = bundle.samples()
    assert [sample.name for sample in samples] == [dataset[i].name for i in range(len(dataset))]
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.image, dataset[index].image)
        np.testing.assert_array_equal(sample.label, dataset[index].label)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_files_with_shared_weights_are_the_network(bundle, precision, batch):
    images = np.stack([sample.image for sample in bundle.samples()])
    expected = TorchBackend.load(bundle.checkpoint, output="mask", size=SIZE, device="cpu", threads=1).infer(
        images[:batch]
    )
    got = OnnxBackend.open(bundle.onnx(SIZE, precision, batch), output="mask", threads=1).infer(images[:batch])
    # An untrained student's classes lie close together: rounding changes more of them than in earnest.
    assert (got == expected).mean() > (0.999 if precision == "fp32" else 0.9)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_for_one_image_computes_no_shapes(bundle, precision):
    """ONNX Runtime would run them on the CPU, in the middle of the GPU's work."""
    model = onnx.load(bundle.onnx(SIZE, precision, 1), load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    assert not operators.keys() & {
        "Shape",
        "Gather",
        "Concat",
        "Range",
        "ConstantOfShape",
        "Expand",
        "Slice",
        "Reshape",
    }
    assert operators["Max"] == 1, "it leaves ONNX Runtime's blocked layout"
    assert operators["Cast"] == (2 if precision == "fp32" else 3), "of images and masks, and to half precision"
    assert operators.total() <= (157 if precision == "fp32" else 158)


def test_a_weight_is_stored_once(bundle):
    files = [bundle.onnx(SIZE, precision, batch) for precision in ("fp32", "fp16") for batch in (1, 2)]
    large = {}
    for path in files:
        for tensor in onnx.load(path).graph.initializer:
            if len(tensor.raw_data) >= 1024:
                large[bytes(tensor.raw_data)] = len(tensor.raw_data)
    size = (bundle.folder / "onnx" / WEIGHTS).stat().st_size
    assert sum(large.values()) <= size <= sum(large.values()) + 64 * len(large)


def test_shared_weights_by_value(tmp_path):
    values = np.arange(1000, dtype=np.float32)
    for name in ("a", "b"):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1000])], [onnx.helper.make_tensor_value_info("y", 1, [1000])],
            [onnx.numpy_helper.from_array(values, "w")],
        )  # fmt: skip
        onnx.save(onnx.helper.make_model(graph), tmp_path / f"{name}.onnx")
    (tmp_path / "out").mkdir()
    places = {}
    for name in ("a", "b"):
        move_with_shared_weights(tmp_path / f"{name}.onnx", tmp_path / "out" / f"{name}.onnx", places)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == values.tobytes()
    for name in ("a", "b"):
        tensor = onnx.load(tmp_path / "out" / f"{name}.onnx").graph.initializer[0]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), values)


def test_a_changed_file_is_refused(bundle, tmp_path):
    folder = tmp_path / "bundle"
    (folder / "val").mkdir(parents=True)
    (folder / "val" / "0.png").write_bytes(b"one")
    (folder / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "files": {"val/0.png": "0" * 64}}), encoding="utf-8"
    )
    with pytest.raises(BadInput, match="is missing or changed"):
        Bundle.open(folder)


def test_no_bundle_and_no_such_size(bundle, tmp_path):
    with pytest.raises(Missing, match=r"make it with `python -m benchmarks.gpu_bundle`"):
        Bundle.open(tmp_path)
    with pytest.raises(BadInput, match="expected one of the sizes 64x96"):
        bundle.onnx((32, 32), "fp32", 1)


def test_a_dataset_without_files(tmp_path, monkeypatch):
    tree = RunTree(tmp_path / "runs", "shapes")
    make_student(tree, "baseline", 0)
    monkeypatch.setattr("benchmarks.gpu_bundle.write_onnx", lambda *_: [])
    monkeypatch.setattr("kdbench.data.shapes.Shapes.__len__", lambda _: 2)
    made = make_bundle(BundleOptions(tree, "baseline", None, (SIZE,)), tmp_path / "bundle")
    dataset = open_dataset("shapes", "val")
    for index, sample in enumerate(made.samples()):
        np.testing.assert_array_equal(sample.image, dataset[index].image)
        np.testing.assert_array_equal(sample.label, dataset[index].label)
    assert (tmp_path / "bundle" / "val" / "0000.png").read_bytes().startswith(b"\x89PNG")
